# SPDX-License-Identifier: LGPL-2.1-or-later
"""What our own interface does to images: who may, what is refused, and what is said."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest
from dbus_fast import Variant

from machined.bus.connection import RemoteError
from machined.linux import filesystem, layering, mstack
from machined.linux.locks import FileLock
from machined.model.images import UNKNOWN
from tests.fakes.polkit import NO
from tests.fakes.service import OWN_MANAGER, Served

INVALID = "org.freedesktop.DBus.Error.InvalidArgs"
IMAGE = "org.freedesktop.machine1.Image"
BUSY = "org.machined1.Error.ImageBusy"


async def refused(service: Served, member: str, signature: str, *body: Any) -> tuple[str, str]:
    with pytest.raises(RemoteError) as raised:
        await service.client.call(member, signature, *body, interface=OWN_MANAGER)
    return raised.value.name, raised.value.text


def layered(service: Served, name: str, base: Path) -> None:
    stack = service.sandbox.pool / f"{name}.mstack"
    mstack.write(str(stack), [str(base)], beside=str(stack))
    mstack.make_writable(str(stack / "rw"), str(base))


@pytest.mark.parametrize(
    ("member", "signature", "body", "verb"),
    [
        ("CloneImage", "ssa{sv}", ["web", "new", {}], "clone"),
        ("RenameImage", "ssa{sv}", ["web", "new", {}], "rename"),
        ("RemoveImage", "sa{sv}", ["web", {}], "remove"),
        ("FlattenImage", "sa{sv}", ["web", {}], "flatten"),
        ("ChownImage", "sa{sv}", ["web", {}], "chown"),
    ],
)
async def test_polkit_is_asked_first(
    service: Served, member: str, signature: str, body: list[Any], verb: str
) -> None:
    service.sandbox.image("web")
    service.pretend(1000)
    service.polkit.answer = NO
    name, _ = await refused(service, member, signature, *body)
    assert name == "org.freedesktop.DBus.Error.AccessDenied"
    question = service.polkit.questions.get_nowait()
    assert question.action == "org.freedesktop.machine1.manage-images"
    more = {"new_name": "new"} if len(body) == 3 else {}
    assert question.details == {"image": "web", "verb": verb, **more}
    assert os.listdir(service.sandbox.pool) == ["web"]


@pytest.mark.parametrize(
    ("member", "signature", "body", "text"),
    [
        ("CloneImage", "ssa{sv}", ["a/b", "new", {}], "'a/b' is no name of an image"),
        ("CloneImage", "ssa{sv}", ["web", ".#x", {}], "No image can be called '.#x'"),
        ("CloneImage", "ssa{sv}", ["web", "x\ny", {}], "No image can be called 'x?y'"),
        ("CloneImage", "ssa{sv}", ["web", "a.raw", {}], "'a' is a name"),
        ("CloneImage", "ssa{sv}", ["web", "a.mstack", {}], "ends in '.mstack'"),
        ("RenameImage", "ssa{sv}", ["web", "a.v", {}], "ends in '.v'"),
        ("CloneImage", "ssa{sv}", ["web", "a_b", {"hostname": Variant("s", "h")}], "Machine name 'a_b'"),
        ("CloneImage", "ssa{sv}", ["web", "new", {"hostname": Variant("s", "h h")}], "not a host name"),
        ("CloneImage", "ssa{sv}", ["web", "new", {"mode": Variant("s", "x")}], "one of auto, copy, layer"),
        ("CloneImage", "ssa{sv}", ["web", "new", {"mode": Variant("b", True)}], "expected 's'"),
        ("CloneImage", "ssa{sv}", ["web", "new", {"x": Variant("b", True)}], "Unknown option 'x'"),
        ("RemoveImage", "sa{sv}", ["web", {"purge": Variant("s", "yes")}], "expected 'b'"),
        ("FlattenImage", "sa{sv}", ["web", {}], "Image 'web' has no layers"),
        ("ChownImage", "sa{sv}", ["web", {"shift": Variant("u", 7)}], "No range of users begins with 7"),
        ("ChownImage", "sa{sv}", ["web", {"shift": Variant("t", 0)}], "expected 'u'"),
        ("GetImageLayers", "s", ["../web"], "no name of an image"),
    ],
)  # fmt: skip
async def test_bad_wishes(service: Served, member: str, signature: str, body: list[Any], text: str) -> None:
    service.sandbox.image("web")
    name, said = await refused(service, member, signature, *body)
    assert name == INVALID
    assert text in said
    assert os.listdir(service.sandbox.pool) == ["web"]


async def test_what_is_not_there_or_there_already(service: Served) -> None:
    service.sandbox.image("web")
    service.sandbox.image("new")
    name, text = await refused(service, "CloneImage", "ssa{sv}", "no", "x", {})
    assert (name, text.startswith("No image 'no' known.")) == ("org.freedesktop.machine1.NoSuchImage", True)
    for member in ("CloneImage", "RenameImage"):
        name, text = await refused(service, member, "ssa{sv}", "web", "new", {})
        assert name == "org.freedesktop.DBus.Error.FileExists"
        assert "Choose another name" in text


async def test_what_is_in_use(service: Served) -> None:
    tree = service.sandbox.image("web")
    layered(service, "one", tree)
    for member, signature, body in (
        ("ChownImage", "sa{sv}", ["web", {}]),
        ("RemoveImage", "sa{sv}", ["web", {}]),
        ("RenameImage", "ssa{sv}", ["web", "new", {}]),
    ):
        name, text = await refused(service, member, signature, *body)
        assert name == BUSY
        assert "'one' are layers over it. Remove them first" in text
    with FileLock.acquire(os.fspath(service.sandbox.pool / ".#one.mstack.lck")):
        name, text = await refused(service, "RemoveImage", "sa{sv}", "one", {})
        assert name == BUSY
        assert "in use by another program" in text
    answer = await service.client.call("GetImageLayers", "s", "one", interface=OWN_MANAGER)
    assert answer == [str(tree)]


@pytest.mark.parametrize("way", ["RemoveImage", "Remove", "CleanPool", "our RemoveImage"])
async def test_a_base_is_let_go_with_its_last_layer(service: Served, way: str) -> None:
    """By whichever way the layers go; it is as it was then."""
    tree = service.sandbox.image("web")
    for name in (".one", ".two"):
        layered(service, name, tree)
    try:
        layering.protect(str(tree), True)
    except OSError as error:
        pytest.skip(f"no immutable directories here: {error}")

    async def remove(name: str) -> None:
        if way == "our RemoveImage":
            await service.client.call("RemoveImage", "sa{sv}", name, {}, interface=OWN_MANAGER)
        elif way == "RemoveImage":
            await service.client.call("RemoveImage", "s", name)
        elif way == "Remove":
            path = await service.client.call("GetImage", "s", name)
            await service.client.call("Remove", path=path, interface=IMAGE)
        else:
            assert await service.client.call("CleanPool", "s", "hidden") == [(name, UNKNOWN)]

    try:
        with FileLock.acquire(os.fspath(service.sandbox.pool / ".#.two.mstack.lck")):
            await remove(".one")
        assert filesystem.attributes(str(tree)) & filesystem.IMMUTABLE
        await remove(".two")
        assert not filesystem.attributes(str(tree)) & filesystem.IMMUTABLE
        assert mstack.BASE not in os.listxattr(tree)
    finally:
        layering.protect(str(tree), False)


async def test_a_clone_that_is_told_something(service: Served) -> None:
    service.sandbox.image("web")
    given = {"mode": Variant("s", "copy"), "hostname": Variant("s", "inside")}
    service.pretend(1000)
    asking = asyncio.ensure_future(
        service.client.call("CloneImage", "ssa{sv}", "web", "new", given, interface=OWN_MANAGER)
    )
    actions = [(await service.polkit.questions.get()).action for _ in range(2)]
    assert actions == ["org.freedesktop.machine1.manage-images", "org.machined1.create-image"]
    assert await asking == "copy"
    assert (service.sandbox.pool / "new/etc/hostname").read_text(encoding="ascii") == "inside\n"


async def test_owners(service: Served) -> None:
    service.sandbox.image("web")
    answer = await service.client.call("ChownImage", "sa{sv}", "web", {}, interface=OWN_MANAGER)
    assert answer == [0, 0], "it is nobody's but the host's already"


async def test_settings_are_kept(service: Served) -> None:
    service.sandbox.image("web")
    settings = service.sandbox.settings / "web.nspawn"
    settings.touch()
    answer = await service.client.call("RemoveImage", "sa{sv}", "web", {}, interface=OWN_MANAGER)
    assert answer == [str(settings)]
    assert settings.exists()
    service.sandbox.image("web")
    purge = {"purge": Variant("b", True)}
    answer = await service.client.call("RemoveImage", "sa{sv}", "web", purge, interface=OWN_MANAGER)
    assert answer == []
    assert not settings.exists()
    settings.touch()
    service.sandbox.image("web")
    await service.client.call("RemoveImage", "s", "web")
    assert not settings.exists(), "machine1's takes them, as ever"
