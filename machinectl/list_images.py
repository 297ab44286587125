# SPDX-License-Identifier: LGPL-2.1-or-later
"""`list-images`"""

from __future__ import annotations

from .bus import MACHINE1
from .context import Context
from .errors import BusError
from .output import Cell, print_rows, text_cell
from .timefmt import UINT64_MAX, size, timestamp

_COLUMNS = ("NAME", "TYPE", "RO", "USAGE", "CREATED", "MODIFIED")


def list_images(context: Context, arguments: list[str]) -> int:
    options = context.options
    try:
        images: list[tuple[str, str, bool, int, int, int, str]] = context.bus().call(
            MACHINE1, "ListImages", reply="a(ssbttto)"
        )
    except BusError as error:
        raise context.failure(error, "Could not get images") from error
    rows = [
        [
            text_cell(name), text_cell(kind), Cell("yes" if read_only else "no", read_only),
            Cell(size(usage), None if usage == UINT64_MAX else usage), _time(created), _time(modified),
        ]
        for name, kind, read_only, created, modified, usage, _ in sorted(images)
        if options.all or not name.startswith(".")
    ]  # fmt: skip
    pager = None
    if options.pager and not options.json:
        from .pager import Pager

        pager = Pager.start()
    try:
        print_rows(options, _COLUMNS, rows, "images", right=frozenset(("USAGE",)))
    finally:
        if pager is not None:
            pager.close()
    return 0


def _time(usec: int) -> Cell:
    return Cell(timestamp(usec) or "-", usec)
