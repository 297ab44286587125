# SPDX-License-Identifier: LGPL-2.1-or-later
"""What layers lie over: kept from changes for as long as there is one, or one is being made."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from machined.linux import mstack
from machined.model import image_locks
from machined.model.cloning import CloneMode, Cost
from machined.model.errors import MachineError, Problem
from machined.model.firstboot import FirstBoot
from machined.model.images import Image
from machined.model.roots import layers_over
from tests.fakes.world import World, turns

CREATE = "machined.linux.layering:create"
PROTECT = "machined.linux.layering:protect"


class Operations:
    """What is done to the disk, without file attributes: tests need not be root for it."""

    def __init__(self) -> None:
        self.protected: set[str] = set()
        self.create: Callable[[str, list[str]], Awaitable[None]] = self.made
        self.turning = asyncio.Event()
        self.turning.set()

    async def made(self, target: str, layers: list[str]) -> None:
        mstack.write(target, layers, beside=target)
        mstack.make_writable(os.path.join(target, "rw"), layers[0])

    async def begin(self, operation: str, target: str, layers: list[str], *_: Any) -> None:
        assert operation == CREATE
        await self.create(target, layers)

    async def short(self, operation: str, path: str, yes: bool) -> None:
        assert operation == PROTECT
        await self.turning.wait()
        (self.protected.add if yes else self.protected.discard)(path)


@pytest.fixture
def operations(host: World, monkeypatch: pytest.MonkeyPatch) -> Operations:
    made = Operations()
    monkeypatch.setattr(host.core.image_ops, "begin", made.begin)
    monkeypatch.setattr(host.core.image_ops, "short", made.short)
    return made


def found(host: World, name: str) -> Image:
    image = host.core.images.find(name)
    assert image is not None
    return image


def layer(host: World, name: str, new_name: str) -> asyncio.Task[Cost]:
    cloning = host.core.cloning
    return asyncio.create_task(cloning.clone(found(host, name), new_name, CloneMode.LAYER))


async def test_the_base_is_protected_before_anybody_can_have_it(host: World, operations: Operations) -> None:
    tree = str(host.sandbox.image("web"))
    image = found(host, "web")
    seen = []

    async def create(target: str, layers: list[str]) -> None:
        seen.append(set(operations.protected))
        with pytest.raises(OSError, match="busy"), image_locks.image(image, exclusive=True):
            pass
        await operations.made(target, layers)

    operations.create = create
    assert await layer(host, "web", "one") is Cost.LAYER
    assert seen == [{tree}]
    assert operations.protected == {tree}
    assert [over.name for over in layers_over(host.core.images, image)] == ["one"]


@pytest.mark.parametrize("how", ["fails", "cancelled"])
async def test_a_layer_that_does_not_come(host: World, operations: Operations, how: str) -> None:
    host.sandbox.image("web")
    begun = asyncio.Event()

    async def create(target: str, layers: list[str]) -> None:
        assert operations.protected
        begun.set()
        if how == "fails":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        await asyncio.Event().wait()

    operations.create = create
    making = layer(host, "web", "one")
    await begun.wait()
    if how == "cancelled":
        making.cancel()
    with pytest.raises((OSError, asyncio.CancelledError)):
        await making
    assert operations.protected == set()


async def test_who_leaves_when_it_is_there(host: World, operations: Operations) -> None:
    tree = str(host.sandbox.image("web"))
    begun = asyncio.Event()

    async def create(target: str, layers: list[str]) -> None:
        await operations.made(target, layers)
        begun.set()
        await asyncio.Event().wait()

    operations.create = create
    making = layer(host, "web", "one")
    await begun.wait()
    making.cancel()
    with pytest.raises(asyncio.CancelledError):
        await making
    assert operations.protected == {tree}


async def test_a_layer_that_goes_while_another_one_comes(host: World, operations: Operations) -> None:
    """Neither order of the two leaves a layer over what anybody may write to."""
    tree = str(host.sandbox.image("web"))
    await layer(host, "web", "one")
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def create(target: str, layers: list[str]) -> None:
        begun.set()
        await go_on.wait()
        await operations.made(target, layers)

    operations.create = create
    stack = host.sandbox.pool / "one.mstack"
    stack.rename(host.sandbox.pool / ".#gone")
    making = layer(host, "web", "two")
    await begun.wait()
    await host.core.cloning.unprotect((tree,))
    assert operations.protected == {tree}, "it is there for the one that is being made"
    go_on.set()
    await making
    assert operations.protected == {tree}
    # The other way about: it has begun to be taken away when the next one comes.
    (host.sandbox.pool / "two.mstack").rename(host.sandbox.pool / ".#gone-too")
    operations.turning.clear()
    going = asyncio.create_task(host.core.cloning.unprotect((tree,)))
    await turns()
    begun.clear()
    making = layer(host, "web", "three")
    await turns()
    assert not begun.is_set()
    operations.turning.set()
    await going
    await making
    assert operations.protected == {tree}


async def test_what_cannot_have_layers(host: World, operations: Operations, tmp_path: Path) -> None:
    for name in (".host",):
        with pytest.raises(MachineError, match="no layers over it") as caught:
            await layer(host, name, "one")
        assert caught.value.problem is Problem.NOT_SUPPORTED
    assert operations.protected == set()


async def test_a_link_has_the_tree_that_it_leads_to(
    host: World, operations: Operations, tmp_path: Path
) -> None:
    """What an image is called and where it is are two things before systemd 258."""
    tree = tmp_path / "elsewhere"
    host.sandbox.image("web").rename(tree)
    (host.sandbox.pool / "web").symlink_to(tree)
    await layer(host, "web", "one")
    assert operations.protected == {str(tree)}
    stack = found(host, "one").stack
    assert stack is not None
    assert stack.layers == (str(tree),)
    assert [over.name for over in layers_over(host.core.images, found(host, "web"))] == ["one"]
    with pytest.raises(OSError, match="layers over it"):
        await host.core.image_ops.remove(found(host, "web"))


async def test_what_layers_are_over_is_not_set_up(host: World, operations: Operations) -> None:
    tree = host.sandbox.image("web")
    await layer(host, "web", "one")
    with pytest.raises(OSError, match="layers over it") as caught:
        await host.core.creation.set_first_boot("web", FirstBoot(hostname="x"))
    assert caught.value.errno == errno.EBUSY
    assert not (tree / "etc/hostname").exists()


async def test_what_a_killed_daemon_left_read_only(
    host: World, operations: Operations, monkeypatch: pytest.MonkeyPatch
) -> None:
    trees = {name: str(host.sandbox.image(name)) for name in ("base", "left", "fixed")}
    await layer(host, "base", "one")
    operations.protected.add(trees["left"])
    monkeypatch.setattr(mstack, "is_base", lambda path: path in operations.protected)
    real = host.core.images.list
    monkeypatch.setattr(
        host.core.images, "list", lambda: [replace(image, read_only=image.is_tree) for image in real()]
    )
    await host.core.cloning.finish([])
    assert operations.protected == {trees["base"]}
