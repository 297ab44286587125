# SPDX-License-Identifier: LGPL-2.1-or-later
"""`top`: what machines use, again and again."""

from __future__ import annotations

import os
import select
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from .bus import OURS
from .context import Context
from .errors import BusError, CommandError
from .names import clean
from .output import Cell, layout, print_rows, to_json
from .terminal import ENDING, RawMode, SignalPipe, size

UNKNOWN = 2**64 - 1
# By what lines are sorted, the most first: the key to type, and the column.
ORDERS = {"name": "MACHINE", "cpu": "CPU%", "memory": "MEMORY", "tasks": "TASKS", "io": "READ/S"}
_KEYS = {ord(order[0]): order for order in ORDERS}
_COLUMNS = ("MACHINE", "TASKS", "CPU%", "MEMORY", "READ/S", "WRITTEN/S")
_RIGHT = frozenset(_COLUMNS[1:])
_HOME, _CLEAR = "\x1b[H", "\x1b[J"
_LEAVE = {ord("q"), 3, 4}


class Used(NamedTuple):
    """What a machine uses: bytes, and shares of a processor or bytes by second since the look before."""

    machine: str
    tasks: int | None
    cpu: float | None
    memory: int | None
    read: float | None
    written: float | None


class Looks:
    """Looks again and again."""

    def __init__(self, context: Context, names: list[str]) -> None:
        self._context = context
        self._names = names
        self._before: dict[str, tuple[int, ...]] = {}
        self._time = 0.0

    def take(self) -> list[Used]:
        """One look. What is counted by time is there from the second on. Raises CommandError."""
        try:
            rows = self._context.bus().call(OURS, "ListUsage", reply="a(sttttt)")
        except BusError as error:
            if error.not_there:
                raise CommandError(
                    "'top' needs machined's own manager, but systemd's is running.",
                    "'systemctl status systemd-machined.service' shows which one it is; systemd-cgtop does "
                    "without.",
                ) from error
            raise self._context.failure(error, "Could not look at what machines use") from error
        now = time.monotonic()
        found = {name: tuple(numbers) for name, *numbers in rows if not self._names or name in self._names}
        passed, before = now - self._time, self._before
        self._time, self._before = now, found
        return [_used(name, before.get(name, ()), numbers, passed) for name, numbers in found.items()]

    def check(self) -> None:
        """Raises CommandError for the first name of those given that nothing runs under."""
        for name in self._names:
            if name not in self._before:
                raise CommandError(
                    f"Machine '{name}' does not run, or nobody counts what it uses.",
                    "'machinectl list' shows what runs.",
                )


def _used(name: str, before: tuple[int, ...], now: tuple[int, ...], passed: float) -> Used:
    def rate(index: int) -> float | None:
        if not before or UNKNOWN in (before[index], now[index]) or now[index] < before[index]:
            return None
        return (now[index] - before[index]) / max(passed, 1e-6)

    cpu = rate(0)
    return Used(name, _known(now[2]), None if cpu is None else cpu / 1e6, _known(now[1]), rate(3), rate(4))


def _known(number: int) -> int | None:
    return None if number == UNKNOWN else number


def ordered(rows: list[Used], order: str) -> list[Used]:
    """The most first, what is not known last; by name among equals."""
    values: dict[str, Callable[[Used], float | None]] = {
        "name": lambda row: 0, "cpu": lambda row: row.cpu, "memory": lambda row: row.memory,
        "tasks": lambda row: row.tasks,
        "io": lambda row: None if row.read is None else row.read + (row.written or 0),
    }  # fmt: skip

    def rank(row: Used) -> tuple[float, str]:
        value = values[order](row)
        return (1.0 if value is None else -value), row.machine

    return sorted(rows, key=rank)


def top(context: Context, arguments: list[str]) -> int:
    """On a terminal until 'q' is typed, else two looks; or as many as --iterations= says."""
    options = context.options
    looks = Looks(context, arguments)
    rows = looks.take()
    looks.check()
    if options.json or not (sys.stdout.isatty() and sys.stdin.isatty()):
        _batch(context, looks)
    else:
        _interactive(context, looks, rows)
    return 0


def _batch(context: Context, looks: Looks) -> None:
    options = context.options
    for number in range(options.iterations or 1):
        time.sleep(options.delay)
        rows = ordered(looks.take(), options.order)
        if options.json:
            print(
                to_json([row._asdict() for row in rows], pretty=options.output == "json-pretty"), flush=True
            )
            continue
        if number:
            print()
        print_rows(options, _COLUMNS, [*map(_cells, rows)], "machines", right=_RIGHT)
        sys.stdout.flush()


@contextmanager
def _keys() -> Iterator[SignalPipe]:
    raw = RawMode(sys.stdin.fileno())
    pipe = SignalPipe()
    try:
        raw.enter()
        yield pipe
    finally:
        raw.leave()
        pipe.close()
        print()


def _interactive(context: Context, looks: Looks, rows: list[Used]) -> None:
    """The first screen has no rates yet."""
    options = context.options
    order, shown = options.order, 0
    with _keys() as pipe:
        deadline = time.monotonic() + options.delay
        while True:
            if time.monotonic() >= deadline:
                rows, shown, deadline = looks.take(), shown + 1, time.monotonic() + options.delay
            _show(ordered(rows, order), order)
            if options.iterations and shown >= options.iterations:
                return
            wait = max(0.0, deadline - time.monotonic())
            ready = select.select([sys.stdin, pipe.fd], [], [], wait)[0]
            typed = os.read(sys.stdin.fileno(), 64) if sys.stdin in ready else None
            ends = any(number in ENDING for number in pipe.read()) if pipe.fd in ready else False
            if typed == b"" or ends or (typed and _LEAVE & set(typed)):
                return
            for key in typed or b"":
                order = _KEYS.get(key, order)


def _show(rows: list[Used], order: str) -> None:
    height, columns = size()
    header = [Cell(f"*{name}" if name == ORDERS[order] else name) for name in _COLUMNS]
    lines = layout([header, *map(_cells, rows)], [name in _RIGHT for name in _COLUMNS], limit=columns)
    lines = [
        *lines[: height - 2],
        "Sorted by *; q: quit, c m t i n: by CPU, memory, tasks, I/O, name"[:columns],
    ]
    print(_HOME + _CLEAR + "\r\n".join(lines), end="", flush=True)


def _cells(row: Used) -> list[Cell]:
    return [
        Cell(clean(row.machine)),
        Cell("-" if row.tasks is None else str(row.tasks)),
        Cell("-" if row.cpu is None else f"{row.cpu * 100:.1f}"),
        *(Cell(_bytes(number)) for number in (row.memory, row.read, row.written)),
    ]


def _bytes(number: float | None) -> str:
    """In the units of systemd-cgtop: "1.5G"."""
    if number is None:
        return "-"
    for unit in ("B", "K", "M", "G", "T"):
        if number < 1024 or unit == "T":
            break
        number /= 1024
    return f"{number:.0f}B" if unit == "B" else f"{number:.1f}{unit}"
