# SPDX-License-Identifier: LGPL-2.1-or-later
"""Machines made with a PID 1 that is none: what it is asked for, and what is left however it ends."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from machined.linux import partials
from machined.model import building, creation, credentials, image_locks
from machined.model.builders import fedora
from machined.model.errors import MachineError, Problem
from machined.model.firstboot import FirstBoot
from machined.model.jobs import Job, Result, Verb
from machined.model.ports import Unit
from tests.fakes.sandbox import Sandbox
from tests.fakes.systemd import FakeServiceManager, failed
from tests.fakes.world import World, world
from tests.unit.model.test_bootcheck import system

UNIT = "machined-create-web.service"
Ended = list[tuple[str, Result, str]]


class Maker(World):
    """A host on which tools do what a test says: `tool` gets the tree and where to write."""

    def __init__(self, sandbox: Sandbox) -> None:
        super().__init__(sandbox, 257)
        self.tool: Callable[[Path, int], object] = lambda tree, output: system(tree)
        self.outcome = Unit(UNIT, "inactive", "dead", "success")
        self.result = "done"
        self.ended: Ended = []
        self.core.jobs.on_removed.append(
            lambda job, result, text: self.ended.append((job.machine, result, text))
        )
        self.systemd.hooks["start_transient"] = self._started

    def _started(self, unit: str, rows: Any, fds: tuple[int, ...]) -> None:
        (place,) = (row.value for row in rows if row.name == "WorkingDirectory")
        self.tool(Path(place).parent / "tree", fds[0])
        self.systemd.known[unit] = self.outcome
        if self.result:
            self.systemd.finish(self.systemd.last_job(), unit, self.result)

    def create(self, source: str = "dnf:42", settings: FirstBoot = FirstBoot(), **more: Any) -> Job:  # noqa: B008
        return self.core.creation.create("web", source, settings, **more)

    async def made(self, *args: Any, **more: Any) -> tuple[Result, str]:
        job = self.create(*args, **more)
        await job.over.wait()
        return self.ended[-1][1:]

    @property
    def pool(self) -> list[str]:
        return sorted(os.listdir(self.sandbox.pool))


@pytest.fixture
async def maker(sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Maker]:
    monkeypatch.setattr(credentials, "DIRECTORY", tmp_path / "credentials")
    monkeypatch.setattr(partials, "LOCKS", str(tmp_path / "partial"))
    monkeypatch.setattr("machined.model.builders.check_host", lambda builder, plan: None)
    made = Maker(sandbox)
    made.core.announce([])
    yield made
    await made.core.close()
    assert list(sandbox.locks.iterdir()) == []


async def test_a_machine_is_made(maker: Maker) -> None:
    def tool(tree: Path, output: int) -> None:
        assert maker.core.images.find("web") is None
        (system(tree) / "etc/hostname").touch()

    maker.tool = tool
    result, text = await maker.made(settings=FirstBoot(hostname="inside"))
    assert (result, text) == (Result.DONE, "")
    assert maker.pool == ["web"]
    assert maker.core.images.find("web") is not None
    assert (maker.sandbox.pool / "web/etc/hostname").read_text(encoding="ascii") == "inside\n"
    assert sorted(os.listdir(credentials.DIRECTORY / "web")) == ["firstboot.hostname", "system.hostname"]
    unit = maker.systemd.transient[UNIT]
    assert (unit["Type"], unit["PrivateMounts"], unit["KillMode"], unit["AddRef"]) == (
        "oneshot", True, "control-group", True,
    )  # fmt: skip
    assert unit["TimeoutStartUSec"] == building.LIMIT * 1_000_000
    program, words, may_fail = unit["ExecStart"][0]
    assert (program, may_fail) == ("unshare", False)
    assert words[:6] == ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "--"]
    assert words[6] == "dnf"
    assert [may for _, _, may in unit["ExecStart"][1:]] == [True]
    assert maker.systemd.called("unref_unit") == [(UNIT,)]


async def test_what_it_lacks_is_said(maker: Maker) -> None:
    maker.tool = lambda tree, output: (system(tree) / "etc/shadow").unlink()
    result, text = await maker.made()
    assert result is Result.DONE
    assert text.startswith("password: root has no password")


async def test_a_tool_that_fails(maker: Maker) -> None:
    maker.tool = lambda tree, output: os.write(output, b"one\nError: Unknown repo: 'fedora'\n")
    maker.outcome = Unit(UNIT, "failed", "failed", "exit-code", exit_status=7)
    maker.result = "failed"
    result, text = await maker.made()
    assert result is Result.FAILED
    assert text.startswith(
        "Machine 'web' was not made: dnf ended with exit status 7. It said last:\n  one\n  Err"
    )
    assert text.endswith(fedora.DNF.hints[0][1])
    assert maker.pool == []


@pytest.mark.parametrize(
    ("how", "status", "result", "said"),
    [
        ("signal", 9, Result.FAILED, "dnf was killed by signal 9"),
        ("oom-kill", 9, Result.FAILED, "memory ran out"),
        ("timeout", 0, Result.TIMEOUT, "dnf was not done after 4 hours"),
        ("resources", 0, Result.FAILED, "dnf failed ('resources')"),
    ],
)
async def test_other_ends(maker: Maker, how: str, status: int, result: Result, said: str) -> None:
    maker.outcome = failed(Unit(UNIT, exit_status=status), how)
    maker.result = "failed"
    ended, text = await maker.made()
    assert ended is result
    assert said in text
    assert maker.pool == []


async def test_what_cannot_boot_is_not_made(maker: Maker) -> None:
    maker.tool = lambda tree, output: None
    result, text = await maker.made()
    assert result is Result.FAILED
    assert "  os-release: It has neither" in text
    assert maker.pool == []
    assert (await maker.made(check=False))[0] is Result.DONE
    assert maker.pool == ["web"]


async def test_cancelling(maker: Maker) -> None:
    maker.result = ""  # it goes on
    maker.systemd.hooks["stop_unit"] = lambda unit, mode: (
        maker.systemd.finish(maker.systemd.last_job(), unit) if maker.pool else None
    )
    waits = asyncio.Event()
    maker.systemd.hooks["job_result"] = lambda path: waits.set()
    job = maker.create()
    await waits.wait()
    assert len(maker.pool) == 1
    assert partials.unfinished(str(maker.sandbox.pool)) != []
    job.cancel()
    job.cancel()
    await job.over.wait()
    assert maker.ended[-1][1] is Result.CANCELED
    assert maker.systemd.called("stop_unit") == [(UNIT, "replace")]
    assert maker.pool == []
    assert not (credentials.DIRECTORY / "web").exists()


async def test_a_copy_of_a_directory(maker: Maker, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (system(source) / "etc/hostname").write_text("kept\n", encoding="ascii")
    (source / "etc/machine-id").write_text("0" * 32, encoding="ascii")
    assert (await maker.made(f"dir:{source}"))[0] is Result.DONE
    assert maker.pool == ["web"]
    assert (maker.sandbox.pool / "web/etc/hostname").read_text(encoding="ascii") == "kept\n"
    assert (maker.sandbox.pool / "web/etc/machine-id").read_bytes() == b""
    assert maker.systemd.transient == {}


def refused(maker: Maker, source: str = "dnf:42", name: str = "web") -> MachineError:
    with pytest.raises(MachineError) as caught:
        maker.core.creation.create(name, source, FirstBoot())
    return caught.value


async def test_what_is_refused(maker: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    assert refused(maker, name="a_b").problem is Problem.INVALID_ARGS
    for ending in ("raw", "mstack", "v"):
        assert f"ends in '.{ending}'" in refused(maker, name=f"web.{ending}").text
    maker.sandbox.image("there")
    assert refused(maker, name="there").problem is Problem.FILE_EXISTS
    assert "inside of it" in refused(maker, f"dir:{maker.sandbox.pool.parent}").text
    (maker.sandbox.pool / ".#machined-0").mkdir()
    assert "not finished" in refused(maker, f"dir:{maker.sandbox.pool}/.#machined-0").text
    (maker.sandbox.pool / ".#machined-0").rmdir()
    maker.result = ""
    job = maker.create()
    assert refused(maker).problem is Problem.JOB_RUNNING
    monkeypatch.setattr(creation, "MAX_CREATIONS", 1)
    assert refused(maker, name="two").problem is Problem.LIMITS_EXCEEDED
    assert [job.verb for job in maker.core.jobs] == [Verb.CREATE]
    job.cancel()
    await job.over.wait()


async def test_a_name_that_somebody_else_is_at(maker: Maker) -> None:
    with image_locks.name("web"):
        result, text = await maker.made()
    assert (result, text) == (Result.FAILED, "Somebody else is making an image 'web' right now.")


async def test_a_name_that_is_taken_meanwhile(maker: Maker) -> None:
    def tool(tree: Path, output: int) -> None:
        system(tree)
        maker.sandbox.image("web")

    maker.tool = tool
    result, text = await maker.made(settings=FirstBoot(hostname="x"))
    assert (result, text) == (Result.FAILED, f"Machine 'web' was not made: {os.strerror(errno.EEXIST)}.")
    assert maker.pool == ["web"]
    assert not (credentials.DIRECTORY / "web").exists()


async def test_what_a_killed_daemon_was_at_is_stopped(sandbox: Sandbox) -> None:
    async with world(sandbox) as host:
        systemd: FakeServiceManager = host.systemd
        systemd.known[UNIT] = Unit(UNIT, "activating", "start")
        systemd.hooks["stop_unit"] = lambda unit, mode: systemd.finish(systemd.last_job(), unit)
        (sandbox.locks / "name-web").touch()
        await host.core.creation.stop_orphans()
        assert systemd.called("stop_unit") == [(UNIT, "replace")]
        assert list(sandbox.locks.iterdir()) == []


async def test_settings_for_an_image_that_is_there(maker: Maker) -> None:
    maker.sandbox.image("web")
    with pytest.raises(MachineError):
        await maker.core.creation.set_first_boot("none", FirstBoot(hostname="x"))
    image = maker.core.images.find("web")
    assert image is not None
    with image_locks.image(image, exclusive=False), pytest.raises(OSError) as caught:
        await maker.core.creation.set_first_boot("web", FirstBoot(hostname="x"))
    assert caught.value.errno == errno.EBUSY
    await maker.core.creation.set_first_boot("web", FirstBoot(hostname="x"))
    assert (maker.sandbox.pool / "web/etc/hostname").read_text(encoding="ascii") == "x\n"
    assert (credentials.DIRECTORY / "web/system.hostname").exists()
