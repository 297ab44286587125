# SPDX-License-Identifier: LGPL-2.1-or-later
"""The transient unit of a machine: what the template systemd-nspawn@.service of the host's version sets.

Users lose these when they write their own (reboot, clean stop, devices, limits), so every one of them is
here and a test compares them with `systemctl show` of the template.
"""

from __future__ import annotations

from typing import Final

from machined.model.ports import UnitProperty

# sysexits of a guest's reboot: nspawn asks its unit to be started again (systemd-nspawn(1), "Exit Status").
REBOOT_STATUS: Final = 133
TASKS_MAX: Final = 16384
WATCHDOG_USEC: Final = 180_000_000

MODULES: Final = tuple(f"modprobe@{name}.service" for name in ("tun", "loop", "dm_mod"))
DEVICES: Final = (
    ("/dev/net/tun", "rwm"),
    ("char-pts", "rw"),
    ("/dev/fuse", "rwm"),
    # For images in files and encrypted ones.
    ("/dev/loop-control", "rw"),
    ("block-loop", "rw"),
    ("block-blkext", "rw"),
    ("/dev/mapper/control", "rw"),
    ("block-device-mapper", "rw"),
)


def command_line(name: str) -> list[str]:
    """The nspawn command of a machine, with the defaults of the template."""
    return [
        "systemd-nspawn",
        "--quiet",
        "--keep-unit",
        "--boot",
        "--link-journal=try-guest",
        "--network-veth",
        "-U",
        "--settings=override",
        f"--machine={name}",
    ]


def properties(name: str, version: int, cleanup: str) -> list[UnitProperty]:
    """The properties of machine-NAME.service on a host with this systemd.

    `cleanup` is the program that takes away what a killed nspawn leaves, for versions where nspawn cannot.
    """
    stop_post = ["systemd-nspawn", "--cleanup", f"--machine={name}"] if version >= 262 else [cleanup, name]
    rows = [
        UnitProperty("Description", "s", f"Machine {name} (container managed by machined)"),
        UnitProperty("Documentation", "as", ["man:systemd-nspawn(1)", "man:machinectl(1)"]),
        UnitProperty("Wants", "as", list(MODULES)),
        UnitProperty("PartOf", "as", ["machines.target"]),
        UnitProperty("Before", "as", ["machines.target"]),
        # At shutdown units stop in the reverse order: the machine before us, we before the bus. No more than
        # that: PID 1 tells of each unit named here anew, which is a good part of what a start costs.
        UnitProperty("After", "as", ["network.target", *MODULES, "systemd-machined.service"]),
        UnitProperty("RequiresMountsFor", "as", [f"/var/lib/machines/{name}"]),
        UnitProperty("Type", "s", "notify"),
        _command("ExecStart", command_line(name)),
        _command("ExecStopPost", stop_post, ignore_failure=version < 262),
        UnitProperty("KillMode", "s", "mixed"),
        UnitProperty("RestartForceExitStatus", "(aiai)", [[REBOOT_STATUS], []]),
        UnitProperty("SuccessExitStatus", "(aiai)", [[REBOOT_STATUS], []]),
        UnitProperty("Slice", "s", "machine.slice"),
        UnitProperty("Delegate", "b", True),
        UnitProperty("DelegateSubgroup", "s", "supervisor"),
        UnitProperty("CoredumpReceive", "b", True),
        UnitProperty("TasksMax", "t", TASKS_MAX),
        UnitProperty("WatchdogUSec", "t", WATCHDOG_USEC),
        UnitProperty("DevicePolicy", "s", "closed"),
        UnitProperty("DeviceAllow", "a(ss)", [list(row) for row in DEVICES]),
        # A failed unit must not stand in the way of the next start; its result is remembered by us.
        UnitProperty("CollectMode", "s", "inactive-or-failed"),
    ]
    if version >= 262:
        rows += [
            UnitProperty("TimeoutStartUSec", "t", 120_000_000),
            UnitProperty("TimeoutStopUSec", "t", 120_000_000),
        ]
    return rows


def _command(name: str, argv: list[str], *, ignore_failure: bool = False) -> UnitProperty:
    return UnitProperty(name, "a(sasb)", [[argv[0], argv, ignore_failure]])
