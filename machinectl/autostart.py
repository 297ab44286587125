# SPDX-License-Identifier: LGPL-2.1-or-later
"""`enable` and `disable`: start at boot, or not."""

from __future__ import annotations

from . import names, power
from .bus import ASKING_TIMEOUT, OURS, SYSTEMD1, Bus
from .context import Context
from .errors import BusError
from .output import is_utf8, message

Change = tuple[str, str, str]
"""kind ("symlink", "unlink", …), file, source"""


def enable(context: Context, arguments: list[str]) -> int:
    for name in arguments:
        names.check(name)
    _change(context, arguments, "EnableMachine", "enable")
    return power.start(context, arguments) if context.options.now else 0


def disable(context: Context, arguments: list[str]) -> int:
    for name in arguments:
        names.check(name)
    _change(context, arguments, "DisableMachine", "disable")
    return power.poweroff(context, arguments) if context.options.now else 0


def _change(context: Context, machines: list[str], member: str, doing: str) -> None:
    bus = context.mutating_bus()
    if context.options.runner != "nspawn":
        _report(context, _stock(context, bus, machines, doing))
        return
    try:
        for name in machines:
            _report(context, _ours(context, bus, member, doing, name))
    except BusError as error:
        if not error.not_there:
            raise
        _report(context, _stock(context, bus, machines, doing))


def _ours(context: Context, bus: Bus, member: str, doing: str, name: str) -> list[Change]:
    """Raises BusError where the manager is systemd's."""
    try:
        changes: list[Change] = bus.call(
            OURS, member, "sa{sv}", name, {}, reply="a(sss)", timeout=ASKING_TIMEOUT
        )
    except BusError as error:
        if error.not_there:
            raise
        raise power.job_refused(context, error, doing, name) from error
    return changes


def _stock(context: Context, bus: Bus, machines: list[str], doing: str) -> list[Change]:
    power.check_images(context, bus, machines)
    units = [power.stock_unit(name, context.options.runner) for name in machines]
    try:
        if doing == "enable":
            reply: tuple[bool, list[Change]] = bus.call(
                SYSTEMD1, "EnableUnitFiles", "asbb", ["machines.target", *units], False, False,
                reply="ba(sss)", timeout=ASKING_TIMEOUT,
            )  # fmt: skip
            changes = reply[1]
        else:
            changes = bus.call(
                SYSTEMD1, "DisableUnitFiles", "asb", units, False, reply="a(sss)", timeout=ASKING_TIMEOUT
            )
        bus.call(SYSTEMD1, "Reload", timeout=ASKING_TIMEOUT)
    except BusError as error:
        raise context.failure(error, f"Failed to {doing} unit") from error
    return changes


def _report(context: Context, changes: list[Change]) -> None:
    if context.options.quiet:
        return
    arrow = "→" if is_utf8() else "->"
    for kind, file, source in changes:
        if kind == "symlink":
            message(f"Created symlink '{file}' {arrow} '{source}'.")
        elif kind == "unlink":
            message(f"Removed '{file}'.")
        else:
            message(f"{file}: {kind}" + (f" ({source})" if source else ""))
