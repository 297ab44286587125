# SPDX-License-Identifier: LGPL-2.1-or-later
"""Limits changed at once and for good, or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from machined.linux import wholefile
from machined.model import setproperty
from machined.model.errors import MachineError, Problem, ServiceManagerError
from machined.model.ports import UnitProperty
from machined.model.settings import sources, unit_dropins
from machined.model.unit import DEVICES
from tests.fakes.sandbox import Sandbox
from tests.fakes.systemd import NO_REPLY, raising
from tests.fakes.world import World, turns, world

UNIT = "machine-box.service"
REFUSES = ServiceManagerError("org.freedesktop.DBus.Error.InvalidArgs", "Not like this.")
DEVICE_ROWS = [list(row) for row in DEVICES]


@pytest.fixture
async def host(sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    """A world with an image 'box' and settings of its own."""
    monkeypatch.setattr(unit_dropins, "UNITS", (tmp_path / "units", tmp_path / "usr"))
    monkeypatch.setattr(sources, "CONFIGURATION", tmp_path / "etc")
    monkeypatch.setattr(sources, "RUNTIME", tmp_path / "run")
    monkeypatch.setattr(sources, "NSPAWN", (tmp_path / "nspawn",))
    monkeypatch.setattr(setproperty, "TRANSIENT", tmp_path / "transient")
    (sandbox.pool / "box").mkdir()
    async with world(sandbox) as made:
        yield made


def told(host: World) -> list[list[tuple[str, Any]]]:
    return [
        [(row.name, row.value) for row in rows]
        for unit, rows, runtime in host.systemd.called("set_unit_properties")
        if unit == UNIT and runtime
    ]


def kept(tmp_path: Path) -> dict[str, list[str]]:
    """What our files say, without comments."""
    return {
        os_path.relative_to(tmp_path).as_posix(): [
            line for line in os_path.read_text(encoding="utf-8").splitlines() if line and line[0] not in "#["
        ]
        for top in ("etc", "run")
        for os_path in sorted((tmp_path / top).rglob("*.conf"))
    }


FILE = "etc/machines/box.conf.d/50-set.conf"
RUNTIME = "run/machines/box.conf.d/51-set.conf"


async def change(host: World, *words: str, runtime: bool = False) -> setproperty.Changed:
    return await host.core.set_property.change("box", words, runtime=runtime)


async def test_of_one_that_does_not_run(host: World, tmp_path: Path) -> None:
    changed = await change(host, "MemoryMax=2G", "Slice=a.slice", "CPUQuota=200%")
    assert [str(path.relative_to(tmp_path)) for path in changed.files] == [FILE]
    assert (changed.applied, changed.pending, told(host)) == ([], [], [])
    assert kept(tmp_path) == {FILE: ["MemoryMax=2G", "CPUQuota=200%", "Slice=a.slice"]}
    await change(host, "MemoryMax=", "Slice=")
    assert kept(tmp_path) == {FILE: ["CPUQuota=200%"]}
    await change(host, "CPUQuota=")
    assert kept(tmp_path) == {}
    assert not (tmp_path / "etc/machines/box.conf.d").exists()


async def test_what_else_is_in_the_file_stays(host: World, tmp_path: Path) -> None:
    path = tmp_path / FILE
    path.parent.mkdir(parents=True)
    path.write_text("# mine\n[Exec]\nBoot=yes\n[Service]\nMemoryMax=1G\nTasksMax=5\n", encoding="utf-8")
    await change(host, "MemoryMax=2G")
    assert (
        path.read_text(encoding="utf-8") == "# mine\n[Exec]\nBoot=yes\n[Service]\nMemoryMax=2G\nTasksMax=5\n"
    )


async def test_of_one_that_runs(host: World, tmp_path: Path) -> None:
    await host.run("box")
    changed = await change(host, "MemoryMax=2G", "TimeoutStopSec=5", "DeviceAllow=/dev/kvm rw")
    assert [setting.key for setting in changed.pending] == ["TimeoutStopSec"]
    assert [setting.key for setting in changed.applied] == ["MemoryMax", "DeviceAllow"]
    devices = [("DeviceAllow", []), ("DeviceAllow", [*DEVICE_ROWS, ["/dev/kvm", "rw"]])]
    assert told(host) == [[("MemoryMax", 2 * 1024**3), *devices]]
    await change(host, "DeviceAllow+=/dev/tty", "MemoryMax=1G", runtime=True)
    devices[1][1].append(["/dev/tty", "rwm"])
    assert told(host)[1] == [*devices, ("MemoryMax", 1024**3)]
    assert kept(tmp_path)[RUNTIME] == ["DeviceAllow=/dev/tty", "MemoryMax=1G"]
    # For good: what was said for this boot is over.
    await change(host, "MemoryMax=3G")
    assert "MemoryMax=1G" not in kept(tmp_path)[RUNTIME]
    assert told(host)[2] == [("MemoryMax", 3 * 1024**3)]
    await change(host, "MemoryMax=", "DeviceAllow=")
    assert told(host)[3] == [
        ("MemoryMax", 2**64 - 1), ("DeviceAllow", []), ("DeviceAllow", DEVICE_ROWS),
    ]  # fmt: skip
    assert kept(tmp_path) == {FILE: ["TimeoutStopSec=5"]}


async def test_a_value_of_another_file_is_reset(host: World, tmp_path: Path) -> None:
    await host.run("box")
    (tmp_path / "etc/machines").mkdir(parents=True)
    (tmp_path / "etc/machines/box.conf").write_text("[Service]\nMemoryMax=1G\n", encoding="utf-8")
    await change(host, "MemoryMax=")
    assert told(host) == [[("MemoryMax", 2**64 - 1)]]
    assert kept(tmp_path)[FILE] == ["MemoryMax="]


@pytest.mark.parametrize("runtime", [False, True])
async def test_pid_1_refuses(host: World, tmp_path: Path, runtime: bool) -> None:
    await host.run("box")
    await change(host, "TasksMax=5")
    before = kept(tmp_path)
    host.systemd.hooks["set_unit_properties"] = raising(REFUSES, times=1)
    with pytest.raises(
        MachineError, match=r"Nothing was changed: PID 1 refuses .*: Not like this\."
    ) as raised:
        await change(host, "TasksMax=6", "MemoryMax=2G", runtime=runtime)
    assert raised.value.problem is Problem.FAILED
    assert kept(tmp_path) == before
    await change(host, "TasksMax=6")
    assert kept(tmp_path) == {FILE: ["TasksMax=6"]}


async def test_a_file_that_cannot_be_written(
    host: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await host.run("box")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(wholefile, "write", full)
    with pytest.raises(
        MachineError, match=r"Could not write .*50-set\.conf', nothing was changed: No space"
    ):
        await change(host, "MemoryMax=2G")
    assert told(host) == []


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["MemoryMax=2X"], r"\[Service\] MemoryMax=2X is not valid: must be a size"),
        (["MemoryMx=2G"], "There is no setting 'MemoryMx'; did you mean 'MemoryMax'"),
        (["Boot=yes"], r"\[Exec\] Boot= is no limit of the unit; 'machinectl set box Boot=…' changes it\."),
        (["CPUPressureWatch=on"], "needs systemd 262, this host has 257"),
        (["TasksMax+=5"], "one value only"),
        (["MemoryMax"], "must be Key=value"),
        (["TasksMax=0", "MemoryMax=-1"], r"(?s)TasksMax=0 .*MemoryMax=-1 "),
    ],
)
async def test_bad_values_change_nothing(host: World, tmp_path: Path, words: list[str], text: str) -> None:
    await host.run("box")
    with pytest.raises(MachineError, match=text) as raised:
        await change(host, "CPUWeight=5", *words)
    assert raised.value.problem is Problem.INVALID_ARGS
    assert raised.value.text.startswith("Nothing was done:\n")
    assert (told(host), kept(tmp_path)) == ([], {})


async def test_machines_that_are_not_known(host: World) -> None:
    for name, problem in (("other", Problem.NO_SUCH_MACHINE), (".host", Problem.INVALID_ARGS),
                          ("a/b", Problem.INVALID_ARGS)):  # fmt: skip
        with pytest.raises(MachineError) as raised:
            await host.core.set_property.change(name, ["TasksMax=5"], runtime=False)
        assert raised.value.problem is problem


async def test_one_that_goes_with_its_end(host: World, tmp_path: Path) -> None:
    """Made of another's image: there is nothing to write down."""
    await host.run("gone")
    setter = host.core.set_property
    with pytest.raises(MachineError, match="With --runtime its limits are changed until then"):
        await setter.change("gone", ["TasksMax=5"], runtime=False)
    changed = await setter.change("gone", ["TasksMax=5", "Nice=3"], runtime=True)
    assert [setting.key for setting in changed.pending] == ["Nice"]
    assert host.systemd.called("set_unit_properties") == [
        ("machine-gone.service", (UnitProperty("TasksMax", "t", 5),), True)
    ]
    assert kept(tmp_path) == {}
    with pytest.raises(MachineError, match="of a machine that runs cannot be changed"):
        await setter.change("gone", ["Nice=3"], runtime=True)
    host.systemd.hooks["set_unit_properties"] = raising(REFUSES)
    with pytest.raises(MachineError, match="Not like this"):
        await setter.change("gone", ["TasksMax=5"], runtime=True)


@pytest.mark.parametrize("unit", ["systemd-nspawn@box.service", "machine-box.scope"])
async def test_in_other_units_of_its_own(host: World, unit: str) -> None:
    await host.register("box", unit)
    await change(host, "TasksMax=5")
    assert [call[0] for call in host.systemd.called("set_unit_properties")] == [unit]


async def test_in_a_unit_that_others_share(host: World, tmp_path: Path) -> None:
    await host.register("box", "session-3.scope")
    with pytest.raises(MachineError, match=r"runs in session-3\.scope, which may not be its own alone"):
        await change(host, "TasksMax=5")
    assert (host.systemd.called("set_unit_properties"), kept(tmp_path)) == ([], {})


async def test_an_amount_after_a_share(host: World, tmp_path: Path) -> None:
    """What PID 1 has written of the share would count again at its next reload."""
    await host.run("box")
    share = tmp_path / "transient" / f"{UNIT}.d" / "50-MemoryMaxScale.conf"
    share.parent.mkdir(parents=True)
    share.touch()
    await change(host, "MemoryMax=2G")
    assert not share.exists()
    assert told(host) == [[("MemoryMax", 2 * 1024**3)]] * 2
    share.touch()
    await change(host, "MemoryMax=20%")
    assert share.exists()


async def test_while_it_starts(host: World, tmp_path: Path) -> None:
    """PID 1 was told of what held before: it is told again afterwards."""
    (host.sandbox.pool / "box/usr/lib").mkdir(parents=True)
    go = asyncio.Event()
    host.boots()
    boot = host.systemd.hooks["start_transient"]

    async def slowly(*args: Any) -> None:
        await go.wait()
        if (done := boot(*args)) is not None:
            await done

    host.systemd.hooks["start_transient"] = slowly
    (host.sandbox.pool / "box/usr/lib/os-release").write_text("ID=x\n", encoding="utf-8")
    (host.sandbox.pool / "box/sbin").mkdir()
    (host.sandbox.pool / "box/sbin/init").touch(mode=0o755)
    await host.core.lifecycle.start("box")
    task = asyncio.ensure_future(change(host, "TasksMax=5"))
    await turns()
    assert kept(tmp_path) == {}
    go.set()
    await task
    assert told(host) == [[("TasksMax", 5)]]
    assert kept(tmp_path) == {FILE: ["TasksMax=5"]}


async def test_pid_1_does_not_answer(host: World, tmp_path: Path) -> None:
    await host.run("box")
    host.systemd.hooks["set_unit_properties"] = raising(NO_REPLY)
    with pytest.raises(
        MachineError, match=r"does not say whether .* Its settings are as before\."
    ) as raised:
        await change(host, "TasksMax=6")
    assert raised.value.problem is Problem.TIMEOUT
    assert kept(tmp_path) == {}


async def test_what_somebody_else_wrote_meanwhile_stays(host: World, tmp_path: Path) -> None:
    await host.run("box")

    def write(*_: object) -> None:
        (tmp_path / FILE).write_text("[Service]\nTasksMax=9\n", encoding="utf-8")
        raise REFUSES

    host.systemd.hooks["set_unit_properties"] = write
    with pytest.raises(MachineError, match="Nothing was changed"):
        await change(host, "TasksMax=6")
    assert kept(tmp_path) == {FILE: ["TasksMax=9"]}
