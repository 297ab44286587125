# SPDX-License-Identifier: LGPL-2.1-or-later
"""What machines are made of that are not simply their image: held, recorded, taken away."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path

import pytest

from machined.linux import mstack
from machined.linux.inifile import parse
from machined.linux.locks import FileLock, holder_conflict
from machined.model import rootrecord, userranges
from machined.model.core import SHORT_WORKERS
from machined.model.errors import MachineError, Problem
from machined.model.settings.layers import Source, read
from machined.model.settings.merge import merge
from tests.fakes.roots import Operations, found, locked, scratch
from tests.fakes.world import World, turns

DEFAULTS = merge([])


def layered(host: World, name: str, base: Path) -> Path:
    stack = host.sandbox.pool / f"{name}.mstack"
    mstack.write(str(stack), [str(base)], beside=str(stack))
    mstack.make_writable(str(stack / "rw"), str(base))
    return stack


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


async def test_an_image_that_is_a_link(host: World, operations: Operations, tmp_path: Path) -> None:
    """A tree is mounted where it is, and is known by both of its paths."""
    tree = tmp_path / "elsewhere"
    host.sandbox.image("web").rename(tree)
    (host.sandbox.pool / "web").symlink_to(tree)
    image = found(host, "web")
    root = await host.core.roots.prepare("one", image, True, DEFAULTS)
    assert root.layers == (str(tree),)
    assert locked(image, by_readers=True)
    assert host.core.roots.users_of(image.path) == host.core.roots.users_of(str(tree)) == ["one"]
    host.core.roots.release("one")
    await turns()
    assert not locked(image, by_readers=True)


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
        (host.sandbox.roots / f".{name}.json").write_text(text, encoding="ascii")
    assert list(rootrecord.recorded()) == []


async def test_records_are_no_machines_roots(host: World, operations: Operations) -> None:
    host.sandbox.image("web")
    image, roots = found(host, "web"), host.core.roots
    names = ["q", "q.json", "q.new", "q.json.new"]
    made = [await roots.prepare(name, image, True, DEFAULTS) for name in names]
    assert [root.directory.is_dir() for root in made] == [True] * 4
    assert sorted(root.machine for root in rootrecord.recorded()) == sorted(names)
    assert [rootrecord.read(name) for name in names] == made


async def test_a_range_is_kept_from_others(host: World, operations: Operations) -> None:
    """Also from systemd-nspawn, which asks for a lock before it picks one."""
    host.sandbox.image("web")
    image, roots = found(host, "web"), host.core.roots

    def held(base: int) -> bool:
        return holder_conflict(os.fspath(userranges.LOCKS / str(base)))

    one = await roots.prepare("one", image, True, DEFAULTS)
    assert held(one.base)
    await roots.close()
    assert not held(one.base)
    roots._roots.clear()
    roots.adopt(lambda name: True)
    assert held(one.base), "also after a restart"
    roots.release("one")
    assert not held(one.base)
    assert os.listdir(userranges.LOCKS) == []


async def test_a_range_that_is_taken_just_now(
    host: World, operations: Operations, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.sandbox.image("web")
    first = userranges.pick("one", lambda base: False)
    monkeypatch.setattr(userranges, "is_locked", lambda base: False)  # when it was asked
    userranges.LOCKS.mkdir(parents=True)
    with FileLock.acquire(os.fspath(userranges.LOCKS / str(first))):
        root = await host.core.roots.prepare("one", found(host, "web"), True, DEFAULTS)
    assert root.base != first


async def test_a_range_that_settings_name_may_be_shared(host: World, operations: Operations) -> None:
    host.sandbox.image("web")
    image, roots = found(host, "web"), host.core.roots
    settings = merge([read(parse(b"[Exec]\nPrivateUsers=131072\n", "web.nspawn"), Source.NSPAWN, 262)])
    one = await roots.prepare("one", image, True, settings)
    two = await roots.prepare("two", image, True, settings)
    assert one.base == two.base == 131072


async def test_what_was_written_is_removed_by_workers_of_its_own(host: World) -> None:
    """Removals take long: nobody who mounts something stands in a queue with them."""
    assert host.core.roots._removers is host.core.removers
    assert host.core.roots._removers not in {host.core.roots._workers, host.core.change_workers}
    doomed = host.sandbox.pool / f"{rootrecord.SCRATCH}one-0123"
    doomed.mkdir()
    turns_taken = host.core.change_workers._turns
    assert turns_taken is not None
    for _ in range(SHORT_WORKERS):
        await turns_taken.acquire()
    host.core.roots.remove([str(doomed)])
    async with asyncio.timeout(10):
        await asyncio.gather(*host.core.roots._removals)
    assert not doomed.exists()
    for _ in range(SHORT_WORKERS):
        turns_taken.release()
