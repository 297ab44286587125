# SPDX-License-Identifier: LGPL-2.1-or-later
"""`list-transfers` and `cancel-transfer`: what systemd-importd is at."""

from __future__ import annotations

from . import transfer_reasons
from .bus import ASKING_TIMEOUT, Bus, Target
from .context import Context
from .errors import BusError, CommandError
from .output import Cell, print_rows, text_cell

_NAME = "org.freedesktop.import1"
_MANAGER = Target(_NAME, "/org/freedesktop/import1", f"{_NAME}.Manager")
_COLUMNS = ("ID", "PROGRESS", "TYPE", "CLASS", "LOCAL", "REMOTE")
_CLASS = "machine"


def list_transfers(context: Context, arguments: list[str]) -> int:
    options = context.options
    try:
        transfers = _transfers(context.bus())
    except BusError as error:
        raise transfer_reasons.refused(context, error, "Could not get transfers") from error
    rows = [
        [
            Cell(str(number), number), _progress(progress), text_cell(kind), text_cell(_CLASS),
            text_cell(local), text_cell(remote),
        ]
        for local, number, kind, remote, progress in sorted(transfers)
    ]  # fmt: skip
    pager = None
    if options.pager and not options.json:
        from .pager import Pager

        pager = Pager.start()
    try:
        print_rows(options, _COLUMNS, rows, "transfers", right=frozenset(("ID", "PROGRESS")))
    finally:
        if pager is not None:
            pager.close()
    return 0


def cancel_transfer(context: Context, arguments: list[str]) -> int:
    """One after the other; the first that fails is the last."""
    numbers = [_number(argument) for argument in arguments]
    bus = context.mutating_bus()
    for number in numbers:
        try:
            bus.call(_MANAGER, "CancelTransfer", "u", number, timeout=ASKING_TIMEOUT)
        except BusError as error:
            raise transfer_reasons.refused(context, error, f"Could not cancel transfer {number}") from error
    return 0


def _transfers(bus: Bus) -> list[tuple[str, int, str, str, float]]:
    """(local name, id, type, remote, progress) of all those of machines."""
    try:
        rows = bus.call(_MANAGER, "ListTransfersEx", "st", _CLASS, 0, reply="a(ussssdo)")
        return [
            (local, number, kind, remote, progress) for number, kind, remote, local, _, progress, _ in rows
        ]
    except BusError as error:
        if not error.not_there:
            raise
    rows = bus.call(_MANAGER, "ListTransfers", reply="a(usssdo)")
    return [(local, number, kind, remote, progress) for number, kind, remote, local, progress, _ in rows]


def _progress(fraction: float) -> Cell:
    if not 0 <= fraction <= 1:
        return Cell("-", None)
    percent = int(fraction * 100 + 0.0005)
    return Cell(f"{percent}%", percent)


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or int(text) >= 2**32:
        raise CommandError(
            f"Failed to parse transfer id: {text}",
            "'machinectl list-transfers' shows the ids of those there are.",
        )
    return int(text)
