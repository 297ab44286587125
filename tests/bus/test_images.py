# SPDX-License-Identifier: LGPL-2.1-or-later
"""Images on the bus: errors as the stock daemon has them, what polkit is asked, and the second look."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from machined.bus.connection import RemoteError
from machined.bus.names import IMAGES, ROOT
from tests.fakes.polkit import NO
from tests.fakes.service import PROPERTIES, Client, Served

IMAGE = "org.freedesktop.machine1.Image"
MANAGER = "org.freedesktop.machine1.Manager"
ERROR = "org.freedesktop.DBus.Error."
WEB = f"{IMAGES}/web"
UNKNOWN = 2**64 - 1


async def refused(client: Client, member: str, signature: str, *body: Any, **more: Any) -> tuple[str, str]:
    with pytest.raises(RemoteError) as raised:
        await client.call(member, signature, *body, **more)
    return raised.value.name, raised.value.text


@pytest.fixture(autouse=True)
def web(service: Served) -> None:
    service.sandbox.image("web")


@pytest.mark.parametrize("version", [257, 262], indirect=True)
async def test_the_life_of_an_image(service: Served) -> None:
    call = service.client.call
    pool = service.sandbox.pool
    await call("CloneImage", "ssb", "web", "two", False)
    await call("RenameImage", "ss", "two", "three")
    assert (pool / "three/etc/os-release").exists()
    assert await call("GetImageOSRelease", "s", "three") == {"ID": "test", "VERSION_ID": "1"}
    assert await call("GetImageHostname", "s", "three") == ""
    assert await call("GetImageMachineID", "s", "three") == b""
    assert await call("GetOSRelease", path=WEB, interface=IMAGE) == {"ID": "test", "VERSION_ID": "1"}
    await call("Rename", "s", "four", path=f"{IMAGES}/three", interface=IMAGE)
    await call("Remove", path=f"{IMAGES}/four", interface=IMAGE)
    assert [entry.name for entry in pool.iterdir()] == ["web"]
    (pool / ".old.raw").touch()
    assert await call("CleanPool", "s", "hidden") == [(".old", 0)]
    assert await service.client.get(ROOT, MANAGER, "PoolUsage") == UNKNOWN
    assert service.polkit.questions.empty(), "root is not asked"


@pytest.mark.parametrize(
    ("member", "signature", "body", "answer"),
    [
        ("RemoveImage", "s", ["a/b"], (f"{ERROR}InvalidArgs", "Image name 'a/b' is invalid.")),
        ("RemoveImage", "s", ["x"], ("org.freedesktop.machine1.NoSuchImage", "No image 'x' known")),
        ("RemoveImage", "s", [".host"], ("System.Error.EROFS", "Read-only file system")),
        ("RenameImage", "ss", ["web", ".#x"], (f"{ERROR}InvalidArgs", "Image name '.#x' is invalid.")),
        (
            "RenameImage",
            "ss",
            ["web", "web"],
            (f"{ERROR}FileExists", "Failed to rename image: File exists"),
        ),
        (
            "RenameImage",
            "ss",
            [".host", "x"],
            ("System.Error.EROFS", "Failed to rename image: Read-only file system"),
        ),
        ("CloneImage", "ssb", ["web", "web", False], (f"{ERROR}FileExists", "File exists")),
        ("CloneImage", "ssb", ["web", ".host", False], ("System.Error.EBUSY", "Device or resource busy")),
        ("SetImageLimit", "st", ["web", 2**63], (f"{ERROR}InvalidArgs", "New limit out of range")),
        ("SetImageLimit", "st", ["web", 5], (f"{ERROR}NotSupported", "Operation not supported")),
        ("SetPoolLimit", "t", [2**63], (f"{ERROR}InvalidArgs", "New limit out of range")),
        ("CleanPool", "s", ["secure"], (f"{ERROR}InvalidArgs", "Unknown mode 'secure'.")),
    ],
)
async def test_errors(
    service: Served, member: str, signature: str, body: list[Any], answer: tuple[str, str]
) -> None:
    assert await refused(service.client, member, signature, *body) == answer


@pytest.mark.parametrize(
    ("member", "signature", "body", "action", "details"),
    [
        ("RemoveImage", "s", ["web"], "manage-images", {"image": "web", "verb": "remove"}),
        (
            "RenameImage",
            "ss",
            ["web", "x"],
            "manage-images",
            {"image": "web", "verb": "rename", "new_name": "x"},
        ),
        (
            "CloneImage",
            "ssb",
            ["web", "x", True],
            "manage-images",
            {"image": "web", "verb": "clone", "new_name": "x"},
        ),
        (
            "MarkImageReadOnly",
            "sb",
            ["web", True],
            "manage-images",
            {"image": "web", "verb": "mark_read_only", "read_only": "1"},
        ),
        ("SetImageLimit", "st", ["web", 5], "manage-images", {"machine": "web", "verb": "set_limit"}),
        ("SetPoolLimit", "t", [5], "manage-machines", {"verb": "set_pool_limit"}),
        ("CleanPool", "s", ["all"], "manage-machines", {"verb": "clean_pool", "mode": "all"}),
    ],
)
async def test_polkit_is_asked(
    service: Served, member: str, signature: str, body: list[Any], action: str, details: dict[str, str]
) -> None:
    service.pretend(1000)
    service.polkit.answer = NO
    assert (await refused(service.client, member, signature, *body))[0] == f"{ERROR}AccessDenied"
    question = service.polkit.questions.get_nowait()
    assert question.action == f"org.freedesktop.machine1.{action}"
    assert question.details == details
    assert (service.sandbox.pool / "web").is_dir()


async def test_whatever_changed_while_polkit_was_asked_counts(service: Served) -> None:
    service.pretend(1000)
    service.polkit.go_on.clear()
    removal = asyncio.ensure_future(refused(service.client, "RemoveImage", "s", "web"))
    await service.polkit.questions.get()
    (service.sandbox.pool / "web").rename(service.sandbox.pool / "other")
    service.polkit.go_on.set()
    assert await removal == ("org.freedesktop.machine1.NoSuchImage", "No image 'web' known")
    assert (service.sandbox.pool / "other").is_dir()


async def test_one_image_by_its_object(service: Served) -> None:
    values = await service.client.get_all(WEB)
    assert list(values) == [
        "Name",
        "Path",
        "Type",
        "ReadOnly",
        "CreationTimestamp",
        "ModificationTimestamp",
        "Usage",
        "Limit",
        "UsageExclusive",
        "LimitExclusive",
    ]
    name, _ = await refused(service.client, "GetAll", "s", "", path=f"{IMAGES}/x", interface=PROPERTIES)
    assert name == f"{ERROR}UnknownObject"
