# SPDX-License-Identifier: LGPL-2.1-or-later
"""The transient unit of a machine: what the template systemd-nspawn@.service of the host's version sets.

Users lose these when they write their own (reboot, clean stop, devices, limits), so every one of them is
here and a test compares them with `systemctl show` of the template.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from machined.model.ports import UnitProperty
from machined.model.settings import command, unit_properties
from machined.model.settings.managed import is_managed
from machined.model.settings.merge import Effective, merge

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
# What is said together with the tree, or depends on it.
_SAID: Final = frozenset({"Exec.PrivateUsers", "Files.PrivateUsersOwnership", "Exec.LinkJournal"})


@dataclass(frozen=True, slots=True)
class Source:
    """What systemd-nspawn boots, where that is not simply the image with the machine's name."""

    directory: str = ""
    """A tree that is mounted for the machine; its owners are mapped already, from user `base` on."""
    mapped: bool = True
    """Whether they are; else `directory` is just somewhere else."""
    base: int = 0
    """The first of its users. 0: those of the host, or of a tree that is not mapped, as the settings say."""
    ownership: str = ""
    """What systemd-nspawn does about the owners of a tree that is not mapped, where `base` was picked."""
    image: str = ""
    """A disk image."""
    bundle: str = ""
    """A bundle as OCI's runtimes have it, of a tree and what runs in it."""
    ephemeral: bool = False
    read_only: bool = False
    options: tuple[str, ...] = ()
    """More of systemd-nspawn's."""

    @property
    def is_mapped(self) -> bool:
        return bool(self.directory) and self.mapped

    @property
    def is_by_name(self) -> bool:
        """Whether systemd-nspawn finds it by the machine's name."""
        return not (self.directory or self.image or self.bundle)

    def first_user(self, settings: Effective) -> int | None:
        """The first of the host's users that are a machine's; None when systemd-nspawn picks it."""
        if self.is_mapped or self.base:
            return self.base
        users = settings.get("Exec", "PrivateUsers")
        if users in {"no", "identity"}:
            return 0
        first = users.partition(":")[0]
        return int(first) if first.isdecimal() else None

    def words(self, settings: Effective) -> list[str]:
        """Options of systemd-nspawn that say what is booted, and whose it is."""
        words = [f"--directory={self.directory}"] if self.directory else []
        words += [f"--image={self.image}"] if self.image else []
        words += [f"--oci-bundle={self.bundle}"] if self.bundle else []
        if self.is_mapped:
            users = f"{self.base}:65536" if self.base else "no"
            words += [f"--private-users={users}"]
            words += ["--private-users-ownership=off"] if self.base else []
        else:
            words += self._picked() if self.base else _users(settings)
            words += ["--ephemeral"] if self.ephemeral else []
        if self.read_only and not settings.yes("Files", "ReadOnly"):
            words.append("--read-only")
        return [*words, *self.options]

    def _picked(self) -> list[str]:
        return [f"--private-users={self.base}:65536", f"--private-users-ownership={self.ownership}"]


def _users(settings: Effective) -> list[str]:
    users, ownership = settings.get("Exec", "PrivateUsers"), settings.get("Files", "PrivateUsersOwnership")
    # -U is "pick" on kernels that can and nothing on others. It is for what systemd-nspawn has to pick for:
    # whose the files of a disk image are is known when it has mounted it.
    words = ["-U"] if users == "pick" else [f"--private-users={users}"]
    return words + ([f"--private-users-ownership={ownership}"] if ownership else [])


def command_line(name: str, source: Source, settings: Effective, version: int) -> list[str]:
    """The nspawn command of a machine.

    All settings are on it, and none read from files by systemd-nspawn itself, for which a file with one key
    of a section is a file without the others.
    """
    words = command.options(settings, version, without=_SAID)
    # The journal of a machine that leaves nothing behind goes with it.
    journal = settings.get("Exec", "LinkJournal")
    if source.ephemeral and not settings.is_set("Exec", "LinkJournal"):
        journal = "no"
    parameters = command.parameters(settings)
    return [
        "systemd-nspawn",
        "--quiet",
        "--keep-unit",
        *words,
        f"--link-journal={journal}",
        *source.words(settings),
        # (What a bundle says are settings as well, and instead of those of files.)
        *(["--settings=no"] if not source.bundle else []),
        f"--machine={name}",
        *(["--", *parameters] if parameters else []),
    ]


def properties(
    name: str,
    version: int,
    cleanup: str,
    source: Source | None = None,
    settings: Effective | None = None,
    more: Sequence[UnitProperty] = (),
) -> list[UnitProperty]:
    """The properties of machine-NAME.service on a host with this systemd.

    What the settings say of the unit counts more than what is here, and `more` more than that. `cleanup` is
    the program that takes away what a killed nspawn leaves, for versions where nspawn cannot, and the tree
    that was mounted for the machine.
    """
    source, settings = source or Source(), settings or merge([])
    nspawn = ["systemd-nspawn", "--cleanup", f"--machine={name}"]
    # Its own --cleanup wants to find an image by the name of the machine.
    given = any(settings.all("Machine", key) for key in ("Device", "XAuthority"))
    ours = not source.is_by_name or is_managed(settings) or given
    stop_post = [cleanup, name] if version < 262 or ours else nspawn
    tree = source.directory or source.image or source.bundle or f"/var/lib/machines/{name}"
    environment = command.environment(settings)
    rows = [
        UnitProperty("Description", "s", f"Machine {name} (container managed by machined)"),
        UnitProperty("Documentation", "as", ["man:systemd-nspawn(1)", "man:machinectl(1)"]),
        UnitProperty("Wants", "as", list(MODULES)),
        UnitProperty("PartOf", "as", ["machines.target"]),
        UnitProperty("Before", "as", ["machines.target"]),
        # At shutdown units stop in the reverse order: the machine before us, we before the bus. No more than
        # that: PID 1 tells of each unit named here anew, which is a good part of what a start costs.
        UnitProperty("After", "as", ["network.target", *MODULES, "systemd-machined.service"]),
        UnitProperty(
            "RequiresMountsFor", "as", [tree if not source.is_mapped else f"/var/lib/machines/{name}"]
        ),
        UnitProperty("Type", "s", "notify"),
        _command("ExecStart", command_line(name, source, settings, version)),
        _command("ExecStopPost", stop_post, ignore_failure=stop_post is not nspawn),
        UnitProperty("KillMode", "s", "mixed"),
        UnitProperty("RestartForceExitStatus", "(aiai)", [[REBOOT_STATUS], []]),
        UnitProperty("SuccessExitStatus", "(aiai)", [[REBOOT_STATUS], []]),
        UnitProperty("Slice", "s", settings.get("Exec", "Slice")),
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
    if environment:
        rows.append(UnitProperty("Environment", "as", environment))
    more = [*unit_properties.properties(settings), *more]
    said = {row.name for row in more}
    return [row for row in rows if row.name not in said or row.name == "DeviceAllow"] + more


def _command(name: str, argv: list[str], *, ignore_failure: bool = False) -> UnitProperty:
    return UnitProperty(name, "a(sasb)", [[argv[0], argv, ignore_failure]])
