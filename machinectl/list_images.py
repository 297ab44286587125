# SPDX-License-Identifier: LGPL-2.1-or-later
"""`list-images`"""

from __future__ import annotations

from collections.abc import Callable

from .bus import MACHINE1
from .context import Context
from .errors import BusError
from .output import print_columns, to_json
from .timefmt import UINT64_MAX, size, timestamp

Row = tuple[str, str, bool, int, int, int, str]
_COLUMNS = ("NAME", "TYPE", "RO", "USAGE", "CREATED", "MODIFIED")


def list_images(context: Context, arguments: list[str]) -> int:
    options = context.options
    try:
        images: list[Row] = context.bus().call(MACHINE1, "ListImages", reply="a(ssbttto)")
    except BusError as error:
        raise context.failure(error, "Could not get images") from error
    shown = [row for row in sorted(images) if options.all or not row[0].startswith(".")]
    pager = None
    if options.pager and not options.json:
        from .pager import Pager

        pager = Pager.start()
    try:
        if options.json:
            print(to_json([*map(_record, shown)], pretty=options.output == "json-pretty"))
        else:
            print_columns(options, _COLUMNS, _columns(shown), "images", right=frozenset(("USAGE",)))
    finally:
        if pager is not None:
            pager.close()
    return 0


def _columns(rows: list[Row]) -> list[list[str]]:
    """The texts of each column. Many images were made in the same second, and have the same size."""
    times, sizes = _Texts(_time), _Texts(size)
    return [
        [row[0] or "-" for row in rows],
        [row[1] or "-" for row in rows],
        ["yes" if row[2] else "no" for row in rows],
        [sizes[row[5]] for row in rows],
        [times[_second(row[3])] for row in rows],
        [times[_second(row[4])] for row in rows],
    ]


class _Texts(dict[int, str]):
    """What a number is called, found out once."""

    def __init__(self, name: Callable[[int], str]) -> None:
        self._name = name

    def __missing__(self, number: int) -> str:
        text = self[number] = self._name(number)
        return text


def _second(usec: int) -> int:
    """A time with the same text."""
    return usec if usec in (0, UINT64_MAX) else usec - usec % 1_000_000 or 1


def _time(usec: int) -> str:
    return timestamp(usec) or "-"


def _record(row: Row) -> dict[str, object]:
    name, kind, read_only, created, modified, usage, _ = row
    return {
        "name": name or None, "type": kind or None, "ro": read_only,
        "usage": None if usage == UINT64_MAX else usage, "created": created, "modified": modified,
    }  # fmt: skip
