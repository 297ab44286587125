# SPDX-License-Identifier: LGPL-2.1-or-later
"""The transient unit of a machine: what the template systemd-nspawn@.service of the host's version sets.

Users lose these when they write their own (reboot, clean stop, devices, limits), so every one of them is
here and a test compares them with `systemctl show` of the template.
"""

from __future__ import annotations

from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class Source:
    """What systemd-nspawn boots, where that is not simply the image with the machine's name."""

    directory: str = ""
    """A tree that is mounted for the machine; its owners are mapped already, from user `base` on."""
    base: int = 0
    image: str = ""
    """A disk image."""
    ephemeral: bool = False
    read_only: bool = False
    options: tuple[str, ...] = ()
    """More of systemd-nspawn's."""

    def words(self) -> list[str]:
        """Options of systemd-nspawn in place of the template's `-U`."""
        words = []
        if self.directory:
            users = f"{self.base}:65536" if self.base else "no"
            words = [f"--directory={self.directory}", f"--private-users={users}"]
            words += ["--private-users-ownership=off"] if self.base else []
        else:
            words = ["-U", *([f"--image={self.image}"] if self.image else [])]
            words += ["--ephemeral"] if self.ephemeral else []
        return [*words, *(["--read-only"] if self.read_only else []), *self.options]


def command_line(name: str, source: Source) -> list[str]:
    """The nspawn command of a machine, with the defaults of the template."""
    return [
        "systemd-nspawn",
        "--quiet",
        "--keep-unit",
        "--boot",
        # The journal of a machine that leaves nothing behind goes with it.
        f"--link-journal={'no' if source.ephemeral else 'try-guest'}",
        "--network-veth",
        *source.words(),
        "--settings=override",
        f"--machine={name}",
    ]


def properties(name: str, version: int, cleanup: str, source: Source | None = None) -> list[UnitProperty]:
    """The properties of machine-NAME.service on a host with this systemd.

    `cleanup` is the program that takes away what a killed nspawn leaves, for versions where nspawn cannot,
    and the tree that was mounted for the machine.
    """
    source = source or Source()
    # Its own --cleanup wants to find an image by the name of the machine.
    by_name = not (source.directory or source.image)
    nspawn = ["systemd-nspawn", "--cleanup", f"--machine={name}"]
    stop_post = nspawn if version >= 262 and by_name else [cleanup, name]
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
        _command("ExecStart", command_line(name, source)),
        _command("ExecStopPost", stop_post, ignore_failure=stop_post is not nspawn),
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
