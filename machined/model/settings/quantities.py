# SPDX-License-Identifier: LGPL-2.1-or-later
"""Amounts as systemd writes them: sizes, spans of time, shares of a whole.

What is no amount raises ValueError with what would be one.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Final

UINT64_MAX: Final = 2**64 - 1
"""What PID 1 takes for "no limit" and for "not said"."""
UINT32_MAX: Final = 2**32 - 1
INFINITY: Final = "infinity"

# From large to small, as they may follow each other.
_UNITS: Final = "EPTGMKB"
_SIZE: Final = re.compile(r"([0-9]{1,20}(?:\.[0-9]{0,20})?)\s*([EPTGMKB]?)\s*")
_SPAN: Final = re.compile(r"([0-9]{1,20}(?:\.[0-9]{0,20})?)\s*([A-Za-zµ]*)\s*")
_PERCENT: Final = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,2})?)\s*%")
_SECOND: Final = 1_000_000
_USEC: Final = {
    name: usec
    for names, usec in (
        ("us usec µs", 1),
        ("ms msec", 1000),
        ("s sec second seconds", _SECOND),
        ("m min minute minutes", 60 * _SECOND),
        ("h hr hour hours", 3600 * _SECOND),
        ("d day days", 86400 * _SECOND),
        ("w week weeks", 7 * 86400 * _SECOND),
    )
    for name in names.split()
} | {"": _SECOND}


def size(text: str, base: int = 1024) -> int:
    """Bytes: '512M', '1.5G', '1G 500M'; the units are powers of `base`. UINT64_MAX for 'infinity'."""
    if text == INFINITY:
        return UINT64_MAX
    total, place, units = Decimal(0), 0, _UNITS + " "
    while place < len(text):
        found = _SIZE.match(text, place)
        unit = units.find(found[2] or " ") if found else -1
        if found is None or unit < 0:
            break
        # Each one smaller than the one before.
        total += Decimal(found[1]) * base ** ("BKMGTPE".find(found[2]) if found[2] else 0)
        units, place = units[unit + 1 :], found.end()
    if not text or place < len(text) or total >= UINT64_MAX:
        raise ValueError("must be a size as '512M' or '1.5G', or 'infinity'")
    return int(total)


def span(text: str) -> int:
    """Microseconds: '90', '1min 30s', '250ms'; a number alone is seconds. UINT64_MAX for 'infinity'."""
    if text == INFINITY:
        return UINT64_MAX
    total, place = Decimal(0), 0
    while place < len(text):
        found = _SPAN.match(text, place)
        if found is None or found[2] not in _USEC:
            break
        total += Decimal(found[1]) * _USEC[found[2]]
        place = found.end()
    if not text or place < len(text) or total >= UINT64_MAX:
        raise ValueError("must be a time as '90', '1min 30s' or '250ms', or 'infinity'")
    return int(total)


def is_percentage(text: str) -> bool:
    return text.endswith("%")


def permyriad(text: str, *, bounded: bool = True) -> int:
    """Hundredths of a percent: '20%', '33.3%'; up to 100 %, or without bounds."""
    found = _PERCENT.fullmatch(text)
    value = int(Decimal(found[1]) * 100) if found else -1
    if value < 0 or (bounded and value > 10_000):
        raise ValueError("must be a percentage as '20%'" + (", up to '100%'" if bounded else ""))
    return value


def share(text: str) -> int:
    """A percentage as PID 1 takes it on the bus: of 2^32-1, rounded."""
    return (permyriad(text) * UINT32_MAX + 5000) // 10_000
