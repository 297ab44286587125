# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a new image is told, and what the one is kept from that it is made of."""

from __future__ import annotations

import os

import pytest

from machined.linux import mstack
from machined.model import credentials, image_locks, images
from machined.model.cloning import CloneMode, Cost
from machined.model.firstboot import FirstBoot
from machined.model.images import Image
from tests.fakes.world import World


def found(host: World, name: str) -> Image:
    image = host.core.images.find(name)
    assert image is not None
    return image


@pytest.mark.parametrize("how", ["copy", "layer", "flat copy", "renamed"])
async def test_what_an_image_was_told_that_has_gone(
    host: World, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No image of that name is to be told it that comes later, however it comes."""
    tree = host.sandbox.image("web")
    credentials.store("two", {"passwd.hashed-password.root": "x"})
    image = found(host, "web")
    if how == "copy":
        await host.core.image_ops.clone(image, "two", False)
    elif how == "renamed":
        await host.core.image_ops.rename(image, "two")
    else:

        async def begin(operation: str, *args: object) -> None:
            assert credentials.options("two") == []
            os.mkdir(str(args[0 if operation.endswith(":create") else 1]))

        monkeypatch.setattr(host.core.image_ops, "begin", begin)
        if how == "layer":
            await host.core.cloning.clone(image, "two", CloneMode.LAYER)
        else:
            stack = host.sandbox.pool / "one.mstack"
            mstack.write(str(stack), [str(tree)], beside=str(stack))
            mstack.make_writable(str(stack / "rw"), str(tree))
            await host.core.image_ops.flat_copy(found(host, "one"), "two", False, False)
    assert credentials.options("two") == []


def names(host: World) -> list[str]:
    return sorted(image.name for image in host.core.images.list() if not image.is_host)


async def test_a_clone_is_told_before_it_is_there(host: World) -> None:
    host.sandbox.image("web")
    told = FirstBoot(hostname="inside")
    cost = await host.core.cloning.clone(found(host, "web"), "two", CloneMode.COPY, told=told)
    assert cost is Cost.COPY
    assert (host.sandbox.pool / "two/etc/hostname").read_text(encoding="ascii") == "inside\n"
    assert len(credentials.options("two")) == 2
    told = FirstBoot(timezone="No/Where")
    for mode, name in ((CloneMode.COPY, "three"), (CloneMode.COPY, "two")):
        with pytest.raises(OSError, match=r"no time zone|exists"):
            await host.core.cloning.clone(found(host, "web"), name, mode, told=told)
    assert names(host) == ["two", "web"]
    assert not [path for path in os.listdir(host.sandbox.pool) if path.startswith(".#")]
    assert credentials.options("three") == []
    assert len(credentials.options("two")) == 2, "what an image is told that is there stays"


@pytest.mark.parametrize("kind", ["tree", "disk", "layered"])
async def test_nobody_removes_what_is_being_copied(
    host: World, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = host.sandbox.image("web")
    operations = host.core.image_ops
    if kind == "disk":
        (host.sandbox.pool / "it.raw").touch()
    elif kind == "tree":
        tree.rename(host.sandbox.pool / "it")
    else:
        stack = host.sandbox.pool / "it.mstack"
        mstack.write(str(stack), [str(tree)], beside=str(stack))
        mstack.make_writable(str(stack / "rw"), str(tree))
    image = found(host, "it")
    copied: list[str] = []

    async def begin(operation: str, *args: object) -> None:
        copied.append(operation)
        with pytest.raises(OSError, match="busy"), image_locks.image(image, exclusive=True):
            pass
        with image_locks.image(image, exclusive=False):
            pass  # others may read it, or copy it as well

    monkeypatch.setattr(operations, "begin", begin)
    if kind == "layered":
        await operations.flat_copy(image, "new", False, True)
    else:
        await operations.clone(image, "new", False)
    with image_locks.image(image, exclusive=True):
        if kind != "layered":
            monkeypatch.undo()
            monkeypatch.setattr(images, "LOCKS", host.sandbox.locks)
            monkeypatch.setattr(operations, "begin", _nothing)
            await operations.clone(image, "new", False)  # as it is, while it is in use
    assert len(copied) == 1


async def _nothing(*_: object) -> None:
    pass
