# SPDX-License-Identifier: LGPL-2.1-or-later
"""Takes out of an answer what is different each time: process ids, times, terminals, unique names."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Mapping
from typing import Any, Final

# What is longer is compared by its hash: a name of 64 KB that comes back in an error.
LONGEST: Final = 6000

# Lists of names in the order of a hash table.
UNORDERED: Final = frozenset({"filterDomains"})
# When the host has begun, by its own clock: stock computes it, and it comes out as 0 or 1 µs.
STARTS: Final = frozenset({"TimestampMonotonic", "monotonic"})

PATTERNS: Final = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r":1\.\d+", ":1.N"),
        (r"\bpts/\d+", "pts/N"),
        (r"/systemd1/job/\d+", "/systemd1/job/N"),
        (r"container-(shell|getty)@\d+", r"container-\1@N"),
        (r"\b(REALTIME|MONOTONIC)=\d+", r"\1=T"),
        (r"(Since: ).*", r"\1T"),
        (r"((?:Created|Modified): .*; ).* ago", r"\1AGO"),
        (r'("(?:realtime|monotonic)":)\d+', r"\1T"),
        # The daemon's number for a descriptor that came with a message.
        (r"(Failed to parse PIDFD )\d+", r"\1N"),
        # Processes of machines and of the host: PID 1 tells of them, and they come and go.
        (r"(?m)^\t\t  [├└│ ].*\n", ""),
        (r"\.#(\S+?)[0-9a-f]{16}\b", r".#\1RANDOM"),
        (r"(?m)^(Timestamp|TimestampMonotonic)=.*", r"\1=T"),
        # Of the daemon that dbus-daemon did not let a message pass to.
        (r'\(uid=0 pid=\d+ comm="[^"]*"\)', "(the daemon)"),
        # How far `varlinkctl` and `busctl` had read when an answer came.
        (r"0x[0-9a-f]{6,}", "0xN"),
    )
)


class Normal:
    """The rules of one run.

    `labels`: numbers that mean something, and what they are called; `since`: when this daemon took over, in
    µs of the monotonic clock.
    """

    def __init__(self, labels: Mapping[int, str], since: int) -> None:
        self._labels = labels
        self._monotonic = since
        self._boot = (time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)) // 1000
        self._realtime = (time.time_ns() - time.monotonic_ns()) // 1000 + since

    def value(self, value: Any) -> Any:
        """A value as JSON can have it. Dictionaries become lists of pairs: their order counts."""
        if isinstance(value, bool) or value is None:
            return value
        if isinstance(value, int):
            return self._number(value)
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, bytes | bytearray):
            return "bytes:" + self.text(bytes(value).hex())
        if isinstance(value, dict):
            return [[self.value(key), self._item(key, item)] for key, item in value.items()]
        if isinstance(value, list | tuple):
            return [self.value(item) for item in value]
        return str(value)

    def _item(self, key: str, value: Any) -> Any:
        if key in UNORDERED:
            value = sorted(value)
        if key in STARTS and value in (0, 1, ("t", 0), ("t", 1)):
            return "<start>"
        return self.value(value)

    def text(self, text: str) -> str:
        """A string, also one that has numbers of ours in it."""
        for pattern, replacement in PATTERNS:
            text = pattern.sub(replacement, text)
        text = re.sub(r"\b\d+\b", self._labelled, text)
        if len(text) > LONGEST:
            text = f"<{len(text)} characters, {hashlib.sha256(text.encode()).hexdigest()[:16]}>"
        return text

    def _labelled(self, match: re.Match[str]) -> str:
        return self._labels.get(int(match[0]), match[0]) if len(match[0]) < 20 else match[0]

    def _number(self, number: int) -> int | str:
        if number in self._labels:
            return self._labels[number]
        if self._realtime <= number <= time.time_ns() // 1000:
            return "<realtime>"
        if self._monotonic <= number <= time.monotonic_ns() // 1000:
            return "<monotonic>"
        if abs(number - self._boot) < 1_000_000:
            return "<boot>"
        return number
