# SPDX-License-Identifier: LGPL-2.1-or-later
"""Times and sizes in the notation of systemd's tools. Times are in microseconds."""

from __future__ import annotations

import time

_S = 1_000_000
_MIN, _H, _D = 60 * _S, 3600 * _S, 86400 * _S
_W, _MONTH, _Y = 7 * _D, 2629800 * _S, 31557600 * _S
UINT64_MAX = 2**64 - 1
_LAST = 253402214399 * _S  # the end of the year 9999, where systemd stops printing too


def timestamp(usec: int) -> str:
    """ "Sun 2026-11-22 21:13:14 UTC", local time; "" for unknown."""
    if usec in (0, UINT64_MAX):
        return ""
    if usec > _LAST:
        return "--- XXXX-XX-XX XX:XX:XX"
    return time.strftime("%a %Y-%m-%d %H:%M:%S %Z", time.localtime(usec // _S))


def relative(usec: int, now: int | None = None) -> str:
    """ "5min ago", "2h left"."""
    distance = (time.time_ns() // 1000 if now is None else now) - usec
    if distance == 0:
        return "now"
    return _span(abs(distance)) + (" ago" if distance > 0 else " left")


def _span(d: int) -> str:
    def plural(n: int, unit: str) -> str:
        return f"{n} {unit}" + ("" if n == 1 else "s")

    if d >= _Y:
        return f"{plural(d // _Y, 'year')} {plural(d % _Y // _MONTH, 'month')}"
    if d >= _MONTH:
        return f"{plural(d // _MONTH, 'month')} {plural(d % _MONTH // _D, 'day')}"
    if d >= _W:
        return f"{plural(d // _W, 'week')} {plural(d % _W // _D, 'day')}"
    if d >= 2 * _D:
        return plural(d // _D, "day")
    for least, unit, part, smaller in (
        (25 * _H, _D, _H, "day h"), (6 * _H, _H, 0, "h"), (_H, _H, _MIN, "h min"),
        (5 * _MIN, _MIN, 0, "min"), (_MIN, _MIN, _S, "min s"), (_S, _S, 0, "s"), (1000, 1000, 0, "ms"),
    ):  # fmt: skip
        if d >= least:
            big, _, small = smaller.partition(" ")
            first = f"{d // unit} day" if big == "day" else f"{d // unit}{big}"
            return f"{first} {d % unit // part}{small}" if part else first
    return f"{d}us"


def size(count: int) -> str:
    """ "105.9M", powers of 1024; "" for unknown."""
    if count == UINT64_MAX:
        return ""
    unit = 0
    factor = 1
    while count // factor >= 1024 and unit < 6:
        factor *= 1024
        unit += 1
    if unit == 0:
        return f"{count}B"
    tenth = count * 10 // factor % 10
    return f"{count // factor}{f'.{tenth}' if tenth else ''}{'BKMGTPE'[unit]}"
