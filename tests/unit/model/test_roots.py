# SPDX-License-Identifier: LGPL-2.1-or-later
"""What machines are made of that are not simply their image: held, recorded, taken away."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from machined.linux import mstack
from machined.linux.locks import holder_conflict
from machined.model import rootrecord
from machined.model.errors import MachineError, Problem, ServiceManagerError
from machined.model.images import Image
from machined.model.jobs import Result
from machined.model.settings.merge import merge
from machined.model.state import State
from tests.fakes.systemd import raising
from tests.fakes.world import World, turns

DEFAULTS = merge([])
MOUNT = "machined.linux.layering:mount"


class Operations:
    """Workers that do in this process what they are told, but for mounts, which tests cannot have."""

    def __init__(self) -> None:
        self.done: list[tuple[Any, ...]] = []
        self.fails: OSError | None = None

    async def run(self, operation: str, *arguments: Any) -> None:
        self.done.append((operation, *arguments))
        await asyncio.sleep(0)
        if operation == MOUNT:
            if self.fails is not None:
                raise self.fails
            os.makedirs(arguments[0])
            if arguments[4]:
                mstack.make_writable(arguments[2], arguments[1][0])
        else:
            shutil.rmtree(arguments[0])


@pytest.fixture
def operations(host: World, monkeypatch: pytest.MonkeyPatch) -> Operations:
    made = Operations()
    monkeypatch.setattr(host.core.roots, "_workers", made)
    return made


def found(host: World, name: str) -> Image:
    image = host.core.images.find(name)
    assert image is not None
    return image


def layered(host: World, name: str, base: Path) -> Path:
    stack = host.sandbox.pool / f"{name}.mstack"
    mstack.write(str(stack), [str(base)], beside=str(stack))
    mstack.make_writable(str(stack / "rw"), str(base))
    return stack


def locked(image: Image, *, by_readers: bool = False) -> bool:
    return any(holder_conflict(os.fspath(lock), exclusive=by_readers) for lock in image.lock_paths())


def scratch(host: World) -> list[str]:
    return [entry for entry in os.listdir(host.sandbox.pool) if entry.startswith(rootrecord.SCRATCH)]


async def test_an_ephemeral_one_shares_its_image(host: World, operations: Operations) -> None:
    host.sandbox.image("web")
    image, roots = found(host, "web"), host.core.roots
    one = await roots.prepare("one", image, True, DEFAULTS)
    two = await roots.prepare("two", image, True, DEFAULTS)
    assert one.layers == two.layers == (image.path,)
    assert one.base != two.base
    assert one.writable != two.writable
    assert locked(image, by_readers=True), "nobody may write to it"
    assert not locked(image), "but anybody may read it"
    assert roots.users_of(image.path) == ["one", "two"]
    assert rootrecord.read("one") == one
    roots.release("one")
    assert locked(image, by_readers=True)
    roots.release("two")
    await turns()
    assert not locked(image, by_readers=True)
    assert not scratch(host)
    assert rootrecord.read("one") is rootrecord.read("two") is None
    assert os.listdir(host.sandbox.roots) == []


async def test_a_layered_one_is_its_only_user(host: World, operations: Operations) -> None:
    base = host.sandbox.image("web")
    layered(host, "one", base)
    image = found(host, "one")
    root = await host.core.roots.prepare("one", image, False, DEFAULTS)
    assert root.layers == (str(base),)
    assert locked(image)
    assert locked(found(host, "web"), by_readers=True)
    with pytest.raises(MachineError) as caught:
        await host.core.roots.prepare("other", image, True, DEFAULTS)
    assert caught.value.problem is Problem.IMAGE_BUSY
    assert host.core.roots.get("other") is None
    host.core.roots.release("one")
    assert not locked(image)
    assert "one.mstack" in os.listdir(host.sandbox.pool), "what an image has written stays"


async def test_a_mount_that_fails_leaves_nothing(host: World, operations: Operations) -> None:
    host.sandbox.image("web")
    image = found(host, "web")
    operations.fails = OSError(errno.EINVAL, "no such thing here")
    with pytest.raises(MachineError, match="does not do overlays") as caught:
        await host.core.roots.prepare("one", image, True, DEFAULTS)
    assert caught.value.problem is Problem.NOT_SUPPORTED
    assert not locked(image, by_readers=True)
    assert os.listdir(host.sandbox.roots) == []


async def test_after_a_restart(host: World, operations: Operations) -> None:
    host.sandbox.image("web")
    image, roots = found(host, "web"), host.core.roots
    await roots.prepare("runs", image, True, DEFAULTS)
    await roots.prepare("over", image, True, DEFAULTS)
    (host.sandbox.pool / f"{rootrecord.SCRATCH}lost-0123").mkdir()
    await roots.close()
    roots._roots.clear()
    assert not locked(image, by_readers=True)
    roots.adopt(lambda name: name == "runs")
    await turns()
    assert [root.machine for root in rootrecord.recorded()] == ["runs"]
    assert locked(image, by_readers=True)
    assert len(scratch(host)) == 1
    assert roots.get("runs") is not None
    assert roots.get("over") is None


async def test_records_that_are_none(host: World) -> None:
    host.sandbox.roots.mkdir()
    for name, text in (("a", "{"), ("b", "[]"), ("c", '{"machine": "c"}'), ("bad_name", "{}")):
        (host.sandbox.roots / f"{name}.json").write_text(text, encoding="ascii")
    assert list(rootrecord.recorded()) == []


async def test_a_start_that_pid_1_refuses(host: World, operations: Operations) -> None:
    host.sandbox.image("web")
    host.systemd.hooks["start_transient"] = raising(ServiceManagerError("org.example.No", "no"))
    job = await host.core.lifecycle.start("one", "web", ephemeral=True)
    await job.over.wait()
    assert job.result is Result.FAILED
    await turns()
    assert host.core.roots.get("one") is None
    assert not scratch(host)


async def test_the_end_of_the_unit_is_the_end_of_its_root(host: World, operations: Operations) -> None:
    host.sandbox.image("web")
    host.boots()
    job = await host.core.lifecycle.start("one", "web")
    await job.over.wait()
    assert job.result is Result.DONE
    command = host.systemd.transient["machine-one.service"]["ExecStart"][0][1]
    assert f"--directory={host.sandbox.roots / 'one'}" in command
    assert "--link-journal=no" in command
    assert host.core.states.get("one") is State.RUNNING
    host.systemd.queued.add("machine-one.service")
    host.ends(host.core.registry.find("one"))
    await turns(50)
    assert host.core.roots.get("one") is not None, "it is about to start again"
    host.systemd.queued.clear()
    async with asyncio.timeout(5):
        await host.core.states.wait_until("one", lambda: host.core.roots.get("one") is None)
    await turns()
    assert not scratch(host)
