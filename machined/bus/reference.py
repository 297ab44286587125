# SPDX-License-Identifier: LGPL-2.1-or-later
"""The reference of our D-Bus interfaces, as Markdown, from the tables that serve them.

`python3 -m machined.bus.reference > docs/dbus.md`
"""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Final, cast

from machined.bus import images, logcontrol, machine1, machined1, manager1
from machined.bus.names import IMAGES, JOBS, LOG_CONTROL, MACHINES, ROOT, SERVICE
from machined.bus.vtable import Access, Arg, Emits, Interface, Method, Property, Row, Signal
from machined.model.core import Core

OLDEST: Final = 257
# Beyond every row's first version.
NEWEST: Final = 10_000

INTRODUCTION: Final = f"""\
# D-Bus interfaces

<!-- Made by `python3 -m machined.bus.reference > docs/dbus.md`: change the tables, not this file. -->

machined owns the name `{SERVICE}` on the system bus. `org.freedesktop.machine1` is the interface of
systemd-machined and is served as the systemd of the host has it: "since 258" means that the member is there
on hosts with systemd 258 or later. `org.machined1` is ours, on the same objects: starting, stopping and
following machines, which machine1 cannot do. Its names are chosen for good; more may be added.

Types are those of the D-Bus specification. "root only" means that the caller has to be root; all else that
changes something asks polkit. Names in paths are escaped as sd_bus_path_encode(3) does.
"""

# One sentence for each member of machine1, whose tables carry the contract alone.
_MANAGER: Final = {
    "PoolPath": "Where images are kept.",
    "PoolUsage": "Bytes used by images; 18446744073709551615: not known.",
    "PoolLimit": "Bytes that images may use; 18446744073709551615: not known.",
    "GetMachine": "The object of a registered machine.",
    "GetImage": "The object of an image.",
    "GetMachineByPID": "The machine that a process belongs to (0: the caller).",
    "ListMachines": "Registered machines and `.host`: name, class, service, object.",
    "ListImages": "Images: name, type, read-only, born and modified (µs since 1970), bytes used, object.",
    "CreateMachine": "Register a machine and make a scope for it; returns when that is up.",
    "CreateMachineWithNetwork": "As CreateMachine, with the machine's network interfaces on the host.",
    "CreateMachineEx": "As CreateMachine, with everything but the name in a list of properties.",
    "RegisterMachine": "Register a machine that runs in a unit already: that of its leader (0: the caller).",
    "RegisterMachineWithNetwork": "As RegisterMachine, with the machine's network interfaces on the host.",
    "RegisterMachineEx": "As RegisterMachine, with everything but the name in a list of properties.",
    "UnregisterMachine": "Forget a machine; its processes stay.",
    "TerminateMachine": "Stop the machine's unit; returns at once.",
    "KillMachine": "Send a signal to the leader, the supervisor (since 258) or all processes.",
    "GetMachineAddresses": "Addresses of a container, best first: family, bytes.",
    "GetMachineSSHInfo": "How to reach the machine with ssh, if it said so.",
    "GetMachineOSRelease": "The machine's os-release, as pairs.",
    "OpenMachinePTY": "A new terminal in the machine.",
    "OpenMachineLogin": "A login prompt on a new terminal in the machine.",
    "OpenMachineShell": "A program (empty path: the user's shell) on a new terminal in the machine.",
    "BindMountMachine": "Shows a file or directory of the host in a container without users of its own.",
    "CopyFromMachine": "Copies a file or tree to the host; what is there stays. Answers when it is done.",
    "CopyToMachine": "Copies a file or tree into a container; what is there stays. Answers when it is done.",
    "CopyFromMachineWithFlags": "As CopyFromMachine; flag 1 replaces files that are there.",
    "CopyToMachineWithFlags": "As CopyToMachine; flag 1 replaces files that are there.",
    "OpenMachineRootDirectory": "A descriptor of the machine's root directory.",
    "GetMachineUIDShift": "First user ID on the host of a container with a plain mapping.",
    "RemoveImage": "Remove an image with its settings files.",
    "RenameImage": "Rename an image with its settings files.",
    "CloneImage": "Copy an image into the pool: a snapshot where the file system can.",
    "MarkImageReadOnly": "Make an image read-only, or writable again.",
    "GetImageHostname": "The hostname in an image that does not run; empty: none.",
    "GetImageMachineID": "The machine ID in an image that does not run; empty: none.",
    "GetImageMachineInfo": "The machine-info of an image that does not run, as pairs.",
    "GetImageOSRelease": "The os-release of an image that does not run, as pairs.",
    "SetPoolLimit": "Limit all images together (bytes; 18446744073709551615: no limit); btrfs only.",
    "SetImageLimit": "Limit one subvolume (bytes; 18446744073709551615: no limit).",
    "CleanPool": "Remove `all` or `hidden` images that are not in use: names and bytes that were theirs.",
    "MapFromMachineUser": "The user of the host that a user of a container is.",
    "MapToMachineUser": "The container that a user of the host belongs to, and the user in there.",
    "MapFromMachineGroup": "The group of the host that a group of a container is.",
    "MapToMachineGroup": "The container that a group of the host belongs to, and the group in there.",
    "MachineNew": "A machine has been registered.",
    "MachineRemoved": "A machine has gone.",
}
_MACHINE: Final = {
    "Name": "Name of the machine.",
    "Id": "128-bit ID, empty when there is none.",
    "Timestamp": "When it was registered, µs since 1970.",
    "TimestampMonotonic": "The same by CLOCK_MONOTONIC.",
    "Service": "What registered it, as systemd-nspawn.",
    "Unit": "The unit it runs in.",
    "Subgroup": "Its control group below that of the unit, empty when it has the whole unit.",
    "Leader": "Its first process.",
    "LeaderPIDFDId": "Inode of that process's pidfd, 0 when not known.",
    "Supervisor": "The process that runs it from outside, 0 when there is none.",
    "SupervisorPIDFDId": "Inode of that process's pidfd.",
    "Class": "container, vm or host.",
    "RootDirectory": "Its tree on the host, empty when there is none.",
    "NetworkInterfaces": "Its network interfaces on the host.",
    "VSockCID": "Its address family VSOCK CID; 4294967295: none.",
    "SSHAddress": "How ssh reaches it.",
    "SSHPrivateKeyPath": "The key for that.",
    "State": "opening, running or closing.",
    "UID": "The user who registered it.",
}
_IMAGE: Final = {
    "Name": "Name of the image.",
    "Path": "Where it is.",
    "Type": "directory, subvolume, raw or block.",
    "ReadOnly": "Whether it cannot be written to.",
    "CreationTimestamp": "Birth, µs since 1970; 0: not known.",
    "ModificationTimestamp": "Last change, µs since 1970; 0: not known.",
    "Usage": "Bytes used; 18446744073709551615: not known.",
    "Limit": "Bytes it may use; 18446744073709551615: not known.",
    "UsageExclusive": "Bytes used and shared with no other image.",
    "LimitExclusive": "Limit of those.",
    "Remove": "As Manager.RemoveImage.",
    "Rename": "As Manager.RenameImage; the object gets another path.",
    "Clone": "As Manager.CloneImage.",
    "MarkReadOnly": "As Manager.MarkImageReadOnly.",
    "SetLimit": "As Manager.SetImageLimit.",
    "GetHostname": "As Manager.GetImageHostname.",
    "GetMachineID": "As Manager.GetImageMachineID.",
    "GetMachineInfo": "As Manager.GetImageMachineInfo.",
    "GetOSRelease": "As Manager.GetImageOSRelease.",
}
_LOG_CONTROL: Final = {
    "LogLevel": "emerg, alert, crit, err, warning, notice, info or debug; root may set it.",
    "LogTarget": "auto, console, journal, journal-or-kmsg or null; root may set it.",
    "SyslogIdentifier": "What log records are filed under.",
}
_SENTENCES: Final = {
    "org.freedesktop.machine1.Manager": _MANAGER,
    "org.freedesktop.machine1.Machine": _MACHINE
    | {
        member.replace("Machine", ""): f"See org.freedesktop.machine1.Manager.{member}."
        for member in _MANAGER
        if "Machine" in member
    },
    "org.freedesktop.machine1.Image": _IMAGE,
    "org.freedesktop.LogControl1": _LOG_CONTROL,
}


def tables(version: int) -> list[tuple[str, Interface]]:
    """Every interface that a host of this version gets, with the path of the objects that have it."""
    # The tables are made of nothing but the version; handlers want the rest of it.
    core = cast(Core, SimpleNamespace(version=version))
    return [
        (ROOT, manager1.table(version)),
        (f"{MACHINES}/NAME", machine1.machine_table(core)),
        (f"{IMAGES}/NAME", images.image_table(core)),
        (ROOT, machined1.MANAGER),
        (f"{MACHINES}/NAME", machined1.machine_table(core)),
        (f"{JOBS}/NUMBER", machined1.JOB),
        (LOG_CONTROL, logcontrol.TABLE),
    ]


def sentence(interface: Interface, row: Row) -> str:
    return row.doc or _SENTENCES.get(interface.name, {}).get(row.name, "")


def render() -> str:
    """The whole reference."""
    oldest = {table.name: table for _, table in tables(OLDEST)}
    parts = [INTRODUCTION]
    for path, table in tables(NEWEST):
        parts.append(f"\n## {table.name}\n\nObject: `{path}`\n")
        for title, kind in (("Methods", Method), ("Properties", Property), ("Signals", Signal)):
            rows = [row for row in table.rows if isinstance(row, kind)]
            if rows:
                parts.append(f"\n### {title}\n\n")
                parts += [line for row in rows for line in _row(table, row, oldest[table.name])]
    return "".join(parts)


def _row(table: Interface, row: Row, oldest: Interface) -> Iterator[str]:
    notes = [f"since {row.since}"] if row.since else []
    match row:
        case Method():
            before = oldest.method(row.name)
            if row.access is Access.PRIVILEGED:
                notes.append("root only")
            elif before is not None and before.access is Access.PRIVILEGED:
                notes.append("root only before 258")
            result = f" → ({_args(row.out_args)})" if row.out_args else ""
            shown = f"{row.name}({_args(row.in_args)}){result}"
        case Property():
            changes = {Emits.CONST: "constant", Emits.TRUE: "changes are signalled"}.get(row.emits)
            notes += [note for note in (changes, "hidden" if row.hidden else None) if note]
            if row.setter is not None:
                notes.append("writable")
            shown = f"{row.name} {row.type}"
        case Signal():
            shown = f"{row.name}({_args(row.args)})"
    text = sentence(table, row)
    if isinstance(row, Property) and row.hidden:
        text = text or "An old name of Unit."
    yield f"- `{shown}`{' (' + ', '.join(notes) + ')' if notes else ''}\n"
    yield f"  {text}\n"


def _args(args: tuple[Arg, ...]) -> str:
    return ", ".join(f"{arg.type} {arg.name}" for arg in args)


if __name__ == "__main__":
    print(render(), end="")
