# SPDX-License-Identifier: LGPL-2.1-or-later
"""The unit of a machine, and the command line of systemd-nspawn (row S13 of the features)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from dbus_fast import Variant

from machined.model.unit import DEVICES, properties

ROOT = Path(__file__).parents[3]

# What systemd-nspawn@.service of Debian 13 sets (`systemctl cat`), in D-Bus's words, and what is ours.
COMMON: dict[str, tuple[str, Any]] = {
    "Type": ("s", "notify"),
    "KillMode": ("s", "mixed"),
    "RestartForceExitStatus": ("(aiai)", [[133], []]),
    "SuccessExitStatus": ("(aiai)", [[133], []]),
    "Slice": ("s", "machine.slice"),
    "Delegate": ("b", True),
    "DelegateSubgroup": ("s", "supervisor"),
    "CoredumpReceive": ("b", True),
    "TasksMax": ("t", 16384),
    "WatchdogUSec": ("t", 180_000_000),
    "DevicePolicy": ("s", "closed"),
    "DeviceAllow": (
        "a(ss)",
        [
            ["/dev/net/tun", "rwm"],
            ["char-pts", "rw"],
            ["/dev/fuse", "rwm"],
            ["/dev/loop-control", "rw"],
            ["block-loop", "rw"],
            ["block-blkext", "rw"],
            ["/dev/mapper/control", "rw"],
            ["block-device-mapper", "rw"],
        ],
    ),
    "PartOf": ("as", ["machines.target"]),
    "Before": ("as", ["machines.target"]),
    "Wants": ("as", ["modprobe@tun.service", "modprobe@loop.service", "modprobe@dm_mod.service"]),
    "RequiresMountsFor": ("as", ["/var/lib/machines/web"]),
    "CollectMode": ("s", "inactive-or-failed"),
}
COMMAND = [
    "systemd-nspawn",
    "--quiet",
    "--keep-unit",
    "--boot",
    "--network-veth",
    "--link-journal=try-guest",
    "-U",
    "--settings=no",
    "--machine=web",
]


def table(version: int) -> dict[str, tuple[str, Any]]:
    rows = properties("web", version, "/lib/cleanup")
    assert len({row.name for row in rows}) == len(rows), "PID 1 takes the last of two, nobody notices"
    return {row.name: (row.type, row.value) for row in rows}


@pytest.mark.parametrize("version", [257, 262])
@pytest.mark.parametrize("name", COMMON)
def test_as_the_stock_template(version: int, name: str) -> None:
    assert table(version)[name] == COMMON[name]


@pytest.mark.parametrize("version", [257, 262])
def test_command(version: int) -> None:
    assert table(version)["ExecStart"] == ("a(sasb)", [["systemd-nspawn", COMMAND, False]])


def test_cleaning_up_is_ours_on_257() -> None:
    rows = table(257)
    # A leading "-" in the unit file: a cleanup that fails must not fail the unit.
    assert rows["ExecStopPost"] == ("a(sasb)", [["/lib/cleanup", ["/lib/cleanup", "web"], True]])
    assert "TimeoutStartUSec" not in rows
    assert "TimeoutStopUSec" not in rows


def test_cleaning_up_is_nspawns_on_262() -> None:
    rows = table(262)
    argv = ["systemd-nspawn", "--cleanup", "--machine=web"]
    assert rows["ExecStopPost"] == ("a(sasb)", [["systemd-nspawn", argv, False]])
    assert rows["TimeoutStartUSec"] == rows["TimeoutStopUSec"] == ("t", 120_000_000)


@pytest.mark.parametrize("version", [257, 262])
def test_shutdown_order(version: int) -> None:
    """Units stop in the reverse order: the machine goes before us, who go before the bus."""
    _, after = table(version)["After"]
    assert {"systemd-machined.service", "network.target"} <= set(after)
    ours = (ROOT / "units/systemd-machined.service.in").read_text(encoding="utf-8").splitlines()
    assert any(line.startswith("After=") and "dbus.service" in line for line in ours)


@pytest.mark.parametrize("version", [257, 262])
def test_values_fit_their_types(version: int) -> None:
    for name, (kind, value) in table(version).items():
        Variant(kind, value, verify=True)
        assert name


def test_devices_are_those_of_the_template() -> None:
    assert [list(row) for row in DEVICES] == COMMON["DeviceAllow"][1]
