# SPDX-License-Identifier: LGPL-2.1-or-later
"""`status`: what there is to know about a machine, its processes, and the end of its journal."""

from __future__ import annotations

import os
import socket
import sys

from .bus import OURS, PROPERTIES, SYSTEMD1, Bus, get_all
from .context import Context
from .errors import BusError, CommandError
from .list_machines import address_texts
from .names import clean, escape_label
from .output import terminal_width
from .show import MACHINE, OUR_MACHINE, Properties, details, machine_path, our_properties
from .timefmt import relative, timestamp
from .tree import Process, draw

_INDENT = "\t\t  "


def status(context: Context, arguments: list[str]) -> int:
    bus = context.bus()
    pager = None
    if context.options.pager:
        from .pager import Pager

        pager = Pager.start()
    try:
        for number, name in enumerate(arguments):
            if number:
                print()
            _machine(context, bus, name)
    finally:
        if pager is not None:
            pager.close()
    return 0


def _machine(context: Context, bus: Bus, name: str) -> None:
    try:
        path = machine_path(context, bus, name)
    except CommandError as error:
        properties = our_properties(bus, name)
        if properties is not None:
            _at_rest(context, name, properties)
            state = _Getter(properties).text("State")
            error.hint = f"It is {state}. 'machinectl start {name}' starts it."
        raise
    calls = [get_all(OURS, path, MACHINE), get_all(OURS, path, OUR_MACHINE), *details(name)]
    properties, ours, addresses, release, shift = bus.call_all(calls)
    if isinstance(properties, BusError):
        raise context.failure(properties, f"Could not get properties of machine '{name}'")
    get = _Getter(properties)
    print(clean(get.text("Name")) + (f"({get.id()})" if get.id() else ""))
    since = get.number("Timestamp")
    if since:
        _line("Since", f"{timestamp(since)}; {relative(since)}")
    if not isinstance(ours, BusError):
        _line("State", _Getter(ours).text("State"))
    if leader := get.number("Leader"):
        comm = _comm(leader) if context.local else ""
        _line("Leader", f"{leader} ({comm})" if comm else str(leader))
    if supervisor := get.number("Supervisor"):  # 258 and later
        comm = _comm(supervisor) if context.local else ""
        _line("Superv.", f"{supervisor} ({comm})" if comm else str(supervisor))
    service, kind = get.text("Service"), get.text("Class")
    if service:
        _line("Service", f"{service}; class {kind}" if kind else service)
    elif kind:
        _line("Class", kind)
    if owner := get.number("UID"):  # 258 and later
        _line("UID", str(owner))
    if root := get.text("RootDirectory"):
        _line("Root", root)
    interfaces = get.numbers("NetworkInterfaces")
    if interfaces:
        _line("Iface", " ".join(map(_interface_name, interfaces)))
    if not isinstance(addresses, BusError):
        scope = interfaces[0] if len(interfaces) == 1 else 0
        for number, text in enumerate(address_texts(addresses, scope)):
            _line("" if number else "Address", text)
    if not isinstance(release, BusError) and release.get("PRETTY_NAME"):
        _line("OS", release["PRETTY_NAME"])
    if not isinstance(shift, BusError) and shift:
        # The words of either version of systemd's own client.
        print(f"\tID Shift: {shift}" if "UID" in properties else f"  UID Shift: {shift}")
    unit, subgroup = get.text("Unit"), get.text("Subgroup").strip("/")
    if unit:
        _line("Unit", unit)
        if subgroup:
            _line("Subgroup", subgroup)
        _tree(bus, unit, subgroup)
        if context.local and kind != "host":
            _journal(context, unit, since)


def _at_rest(context: Context, name: str, properties: Properties) -> None:
    """A machine of ours that is not registered: it has not started, has ended, or is on its way."""
    get = _Getter(properties)
    print(clean(name))
    when = get.number("StateTimestamp")
    _line("State", get.text("State") + (f" since {timestamp(when)}; {relative(when)}" if when else ""))
    if result := get.text("Result"):
        _line("Result", result)
    if image := get.text("Image"):
        _line("Image", image)
    if unit := get.text("Unit"):
        _line("Unit", unit)
        if context.local:
            _journal(context, unit, 0)


class _Getter:
    """Properties by name, with the type we expect or nothing."""

    def __init__(self, properties: Properties) -> None:
        self._properties = properties

    def _get(self, name: str) -> object:
        return self._properties.get(name, ("", None))[1]

    def text(self, name: str) -> str:
        value = self._get(name)
        return value if isinstance(value, str) else ""

    def number(self, name: str) -> int:
        value = self._get(name)
        return value if isinstance(value, int) else 0

    def numbers(self, name: str) -> list[int]:
        value = self._get(name)
        return [n for n in value if isinstance(n, int)] if isinstance(value, list) else []

    def id(self) -> str:
        value = self._get("Id")
        return value.hex() if isinstance(value, bytes) else ""


def _line(label: str, text: str) -> None:
    head = f"{label:>8}: " if label else " " * 10
    print(f"\t{head}{clean(text)}")


def _comm(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().rstrip("\n")
    except OSError:
        return ""


def _interface_name(index: int) -> str:
    try:
        return socket.if_indextoname(index)
    except OSError:
        return str(index)


def _tree(bus: Bus, unit: str, subgroup: str) -> None:
    """The processes of a unit, or of a group below it.

    Silent where systemd does not tell: the machine may just have gone.
    """
    path = f"{SYSTEMD1.path}/unit/{escape_label(unit)}"
    suffix = unit.rpartition(".")[2]
    interface = f"org.freedesktop.systemd1.{suffix.capitalize()}"
    try:
        group: tuple[str, str] = bus.call(
            SYSTEMD1.at(path, PROPERTIES), "Get", "ss", interface, "ControlGroup", reply="v"
        )
        processes: list[Process] = bus.call(SYSTEMD1, "GetUnitProcesses", "s", unit, reply="a(sus)")
    except BusError:
        return
    width = terminal_width() - 18 if sys.stdout.isatty() else 0
    root = f"{group[1].rstrip('/')}/{subgroup}" if subgroup else group[1]
    for line in draw(processes, root):
        print(_INDENT + (line[:width] if width > 0 else line))


def _journal(context: Context, unit: str, since: int) -> None:
    """The last lines of the unit's journal, by journalctl; silent without it."""
    options = context.options
    if options.lines == 0:
        return
    command = ["journalctl", "--no-pager", "--quiet", f"--unit={unit}", f"--lines={options.lines}"]
    command.append(f"--output={options.output}")
    if since:
        command.append(f"--since=@{since // 1_000_000}")
    if options.full:
        command.append("--full")
    print(flush=True)
    try:
        pid = os.posix_spawnp(command[0], command, os.environ)
    except OSError:
        return
    os.waitpid(pid, 0)
