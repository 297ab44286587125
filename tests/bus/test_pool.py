# SPDX-License-Identifier: LGPL-2.1-or-later
"""The pool on the bus: what is told, who may change it, and how a change that failed is explained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from dbus_fast import Variant

from machined.bus.connection import RemoteError
from machined.model import poolfile, poolservice
from machined.model.images import UNKNOWN
from machined.model.poolfile import Kind, PoolState
from tests.fakes.polkit import NO
from tests.fakes.service import OWN_MANAGER, Served

UNIT = poolservice.UNIT
FILED = PoolState("/pool", Kind.FILE, "btrfs", 100, 40, 50, UNKNOWN, "/pool.raw", 30, 90)


@pytest.fixture(autouse=True)
def idle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(poolfile, "LOCK", tmp_path / "pool.lock")


async def do(service: Served, member: str, signature: str = "", *body: Any) -> Any:
    return await service.client.call(member, signature, *body, interface=OWN_MANAGER)


async def refused(service: Served, member: str, signature: str, *body: Any) -> tuple[str, str]:
    with pytest.raises(RemoteError) as raised:
        await do(service, member, signature, *body)
    return raised.value.name, raised.value.text


async def test_what_is_told(service: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    told = {key: value.value for key, value in (await do(service, "GetPool")).items()}
    assert told["path"] == str(service.sandbox.pool)
    assert told["used"] + told["available"] <= told["size"]
    assert "file" not in told or told["type"] == "file"
    monkeypatch.setattr(poolfile, "state", lambda pool: FILED)
    answer = await do(service, "GetPool")
    assert {key: (value.signature, value.value) for key, value in answer.items()} == {
        "path": ("s", "/pool"), "type": ("s", "file"), "file-system": ("s", "btrfs"), "size": ("t", 100),
        "used": ("t", 40), "available": ("t", 50), "limit": ("t", UNKNOWN), "file": ("s", "/pool.raw"),
        "allocated": ("t", 30), "size-max": ("t", 100),
    }  # fmt: skip
    service.core.image_ops.pool = Path("/nowhere")
    monkeypatch.undo()
    assert await refused(service, "GetPool", "") == (
        "org.freedesktop.DBus.Error.FileNotFound", "There is no pool: /nowhere does not exist."
    )  # fmt: skip


@pytest.mark.parametrize(
    ("member", "signature", "body", "verb"),
    [
        ("CreatePool", "ta{sv}", [0, {}], "create_pool"),
        ("GrowPool", "t", [2**30], "grow_pool"),
        ("RemovePool", "a{sv}", [{}], "remove_pool"),
    ],
)
async def test_polkit_is_asked(
    service: Served, member: str, signature: str, body: list[Any], verb: str
) -> None:
    service.pretend(1000)
    service.polkit.answer = NO
    name, _ = await refused(service, member, signature, *body)
    assert name == "org.freedesktop.DBus.Error.AccessDenied"
    question = service.polkit.questions.get_nowait()
    assert (question.action, question.details) == ("org.machined1.manage-images", {"verb": verb})
    assert service.pid1.called("StartTransientUnit") == []


async def test_options_that_nobody_knows(service: Served) -> None:
    for member, signature, body in (("CreatePool", "ta{sv}", [0]), ("RemovePool", "a{sv}", [])):
        name, text = await refused(service, member, signature, *body, {"force": Variant("b", True)})
        assert name == "org.freedesktop.DBus.Error.InvalidArgs"
        assert "Unknown option 'force'" in text


async def test_a_pool_is_made(service: Served) -> None:
    service.pid1.hooks["StartTransientUnit"] = lambda *_: service.pid1.finish(UNIT)
    assert await do(service, "CreatePool", "ta{sv}", 2**30, {}) == []
    [(name, mode, properties)] = service.pid1.called("StartTransientUnit")
    assert (name, mode) == (UNIT, "fail")
    values = {key: value for key, _, value in properties}
    assert list(map(list, values["ExecStart"])) == [["poolctl", ["poolctl", "create", str(2**30)], False]]


async def test_why_it_failed(service: Served) -> None:
    def fail(*_: Any) -> None:
        text = "LimitsExceeded:Make room first."
        service.pid1.emit(UNIT, ActiveState="failed", SubState="failed", StatusText=text)
        service.pid1.finish(UNIT, "failed")

    service.pid1.hooks["StartTransientUnit"] = fail
    assert await refused(service, "RemovePool", "a{sv}", {}) == (
        "org.freedesktop.DBus.Error.LimitsExceeded", "Make room first."
    )  # fmt: skip
    with poolfile.moving():
        name, text = await refused(service, "GrowPool", "t", 2**40)
    assert name == "org.machined1.Error.JobRunning"
    assert "is being moved" in text
