# SPDX-License-Identifier: LGPL-2.1-or-later
"""`show`: properties as KEY=value, for scripts."""

from __future__ import annotations

from .bus import MACHINE1, OURS, Bus, Call, get_all
from .context import Context
from .errors import BusError
from .names import escape_label
from .timefmt import UINT64_MAX, timestamp

Properties = dict[str, tuple[str, object]]
"""name → (signature, value), in the order of the reply"""

MANAGER = MACHINE1.interface
MACHINE = "org.freedesktop.machine1.Machine"
OUR_MACHINE = "org.machined1.Machine"

# Ours, by the names of machine1 where they say the same; its State knows three words, ours is the whole
# story.
_RENAMED = {"State": "MachineState"}


def show(context: Context, arguments: list[str]) -> int:
    bus = context.bus()
    pager = None
    if context.options.pager:
        from .pager import Pager

        pager = Pager.start()
    try:
        if not arguments:
            print_properties(context, _manager(context, bus))
        for number, name in enumerate(arguments):
            if number:
                print()
            print_properties(context, machine_properties(context, bus, name))
    finally:
        if pager is not None:
            pager.close()
    return 0


def _manager(context: Context, bus: Bus) -> Properties:
    try:
        properties: Properties = bus.call(
            MACHINE1.at(MACHINE1.path, "org.freedesktop.DBus.Properties"),
            "GetAll",
            "s",
            MANAGER,
            reply="a{sv}",
        )
    except BusError as error:
        raise context.failure(error, "Could not get properties") from error
    return properties


def machine_properties(context: Context, bus: Bus, name: str) -> Properties:
    """Properties of a registered machine: machine1's, then ours. Raises CommandError."""
    path = machine_path(context, bus, name)
    theirs, ours = bus.call_all([get_all(MACHINE1, path, MACHINE), get_all(OURS, path, OUR_MACHINE)])
    if isinstance(theirs, BusError):
        raise context.failure(theirs, f"Could not get properties of machine '{name}'")
    properties: Properties = dict(theirs)
    if not isinstance(ours, BusError):
        for key, value in ours.items():
            properties.setdefault(_RENAMED.get(key, key), value)
    return properties


def machine_path(context: Context, bus: Bus, name: str) -> str:
    try:
        path: str = bus.call(MACHINE1, "GetMachine", "s", name, reply="o")
    except BusError as error:
        raise context.failure(error, "Could not get path to machine") from error
    return path


def our_properties(bus: Bus, name: str) -> Properties | None:
    """What our manager knows of a machine that need not be registered; None where there is no such thing."""
    path = f"{OURS.path}/machine/{escape_label(name)}"
    result: Properties | BusError = bus.call_all([get_all(OURS, path, OUR_MACHINE)])[0]
    return None if isinstance(result, BusError) else result


def details(name: str) -> list[Call]:
    """The calls whose answers status shows beside the properties; each may fail for good reasons."""
    return [
        Call(MACHINE1, "GetMachineAddresses", "s", name, reply="a(iay)"),
        Call(MACHINE1, "GetMachineOSRelease", "s", name, reply="a{ss}"),
        Call(MACHINE1, "GetMachineUIDShift", "s", name, reply="u"),
    ]


def print_properties(context: Context, properties: Properties) -> None:
    options = context.options
    # Who asks for a property by its name wants to see it even when it is empty.
    everything = options.all or bool(options.properties)
    for name, (signature, value) in properties.items():
        if options.properties and name not in options.properties:
            continue
        text = format_value(name, signature, value)
        if text is None:
            if not everything:
                continue
            text = "[unprintable]"
        if text or everything:
            print(text if options.value else f"{name}={text}")


def format_value(name: str, signature: str, value: object) -> str | None:
    """A property's value as text; None for what has no notation."""
    if isinstance(value, str):
        return value if value.isprintable() else "[unprintable]"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, int):
        if signature == "t" and name.endswith("Timestamp"):
            return timestamp(value)
        if signature == "t" and name.startswith("Limit") and value == UINT64_MAX:
            return "infinity"
        if signature == "u" and name == "UID" and value == 2**32 - 1:
            return "[not set]"
        return str(value)
    return None
