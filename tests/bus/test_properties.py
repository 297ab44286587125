# SPDX-License-Identifier: LGPL-2.1-or-later
"""SetMachineProperties on the bus: who may, what PID 1 is told, how a refusal is explained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from dbus_fast import Variant

from machined.bus.connection import RemoteError
from machined.linux import cgroup
from machined.linux.usage import UNKNOWN
from machined.model.errors import ServiceManagerError
from machined.model.settings import sources, unit_dropins
from tests.fakes.polkit import NO
from tests.fakes.service import OWN_MANAGER, Served

UNIT = "machine-box.service"


@pytest.fixture(autouse=True)
def settings(service: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unit_dropins, "UNITS", (tmp_path / "units", tmp_path / "usr"))
    monkeypatch.setattr(sources, "CONFIGURATION", tmp_path / "etc")
    monkeypatch.setattr(sources, "RUNTIME", tmp_path / "run")
    monkeypatch.setattr(sources, "NSPAWN", (tmp_path / "nspawn",))
    (service.sandbox.pool / "box").mkdir()


async def do(service: Served, words: list[str], *, name: str = "box", **options: Variant) -> Any:
    return await service.client.call(
        "SetMachineProperties", "sasa{sv}", name, words, options, interface=OWN_MANAGER
    )


async def refused(service: Served, words: list[str], **more: Any) -> tuple[str, str]:
    with pytest.raises(RemoteError) as raised:
        await do(service, words, **more)
    return raised.value.name.rpartition(".")[2], raised.value.text


def written(tmp_path: Path) -> list[Path]:
    return [
        path.relative_to(tmp_path) for top in ("etc", "run") for path in (tmp_path / top).rglob("*.conf")
    ]


async def test_at_once_and_for_good(service: Served, tmp_path: Path) -> None:
    await service.machine("box")
    files, pending, findings = await do(
        service, ["MemoryMax=2G", "IPAddressAllow=10.0.0.0/8", "TimeoutStopSec=5"]
    )
    assert files == [str(tmp_path / "etc/machines/box.conf.d/50-set.conf")]
    assert (pending, findings) == (["TimeoutStopSec"], [])
    ((unit, runtime, rows),) = service.pid1.called("SetUnitProperties")
    assert (unit, runtime) == (UNIT, True)
    assert [(name, value.signature, value.value) for name, value in rows] == [
        ("MemoryMax", "t", 2 * 1024**3),
        ("IPAddressAllow", "a(iayu)", []),
        ("IPAddressAllow", "a(iayu)", [(2, b"\x0a\0\0\0", 8)]),
    ]
    await do(service, ["TasksMax=5"], runtime=Variant("b", True))
    assert sorted(map(str, written(tmp_path))) == [
        "etc/machines/box.conf.d/50-set.conf", "run/machines/box.conf.d/51-set.conf"
    ]  # fmt: skip


async def test_pid_1_refuses(service: Served, tmp_path: Path) -> None:
    await service.machine("box")

    def no(*_: Any) -> None:
        raise ServiceManagerError("org.freedesktop.DBus.Error.InvalidArgs", "Not like this.")

    service.pid1.hooks["SetUnitProperties"] = no
    assert await refused(service, ["TasksMax=5"]) == (
        "Failed",
        f"Nothing was changed: PID 1 refuses it for machine 'box' ({UNIT}): Not like this.",
    )
    assert written(tmp_path) == []


async def test_polkit_is_asked(service: Served, tmp_path: Path) -> None:
    service.pretend(1000)
    service.polkit.answer = NO
    assert (await refused(service, ["TasksMax=5", "MemoryMax=1G", "TasksMax=6"]))[0] == "AccessDenied"
    question = service.polkit.questions.get_nowait()
    assert question.action == "org.machined1.set-machine-property"
    assert question.details == {
        "machine": "box", "verb": "set_property", "properties": "TasksMax MemoryMax"
    }  # fmt: skip
    assert written(tmp_path) == []
    # What is wrong is said before anybody is asked for a password.
    assert (await refused(service, ["TasksMax=no"]))[0] == "InvalidArgs"
    assert service.polkit.questions.empty()


async def test_usage(service: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroup, "_mount", lambda: str(tmp_path))
    monkeypatch.setattr(cgroup, "_root", lambda: "")
    group = tmp_path / UNIT
    group.mkdir()
    (group / "cpu.stat").write_text("usage_usec 5\n", encoding="ascii")
    await service.machine("box")
    rows = await service.client.call("ListUsage", interface=OWN_MANAGER)
    assert [tuple(row) for row in rows] == [("box", 5, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN)]


async def test_bad_arguments(service: Served) -> None:
    for words, more, name, text in (
        ([], {}, "InvalidArgs", "From 1 to 256 properties at a time"),
        (["TasksMax=5"] * 257, {}, "InvalidArgs", "From 1 to 256"),
        (["TasksMax=5"], {"force": Variant("b", True)}, "InvalidArgs", "Unknown option 'force'"),
        (["TasksMax=5"], {"runtime": Variant("s", "yes")}, "InvalidArgs", "has type 's'"),
        (["TasksMax=5"], {"name": "other"}, "NoSuchMachine", "No machine 'other' known"),
        (["TasksMax=5"], {"name": "../x"}, "InvalidArgs", "../x"),
        (["Boot=no"], {}, "InvalidArgs", "is no limit of the unit"),
        (["X=" + "y" * 5000], {}, "InvalidArgs", "There is no setting 'X'"),
    ):
        kind, said = await refused(service, words, **more)
        assert kind == name
        assert text in said
