# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a control group uses, as the kernel counts it; of controllers that are not there nothing is known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from machined.linux import cgroup

UNKNOWN: Final = 2**64 - 1


@dataclass(frozen=True, slots=True)
class Usage:
    """Since the group was made, or now. UNKNOWN where nobody counts."""

    cpu_usec: int = UNKNOWN
    memory: int = UNKNOWN
    """Bytes."""
    tasks: int = UNKNOWN
    read: int = UNKNOWN
    """Bytes from disks."""
    written: int = UNKNOWN


def of_unit(path: str) -> Usage:
    """Of the unit that owns this group, as `cgroup.path_of` names it, with all below it."""
    top = cgroup.unit_group(path)
    disks = [part.partition("=") for part in _read(top, "io.stat").split()]
    counted = any(key == "rbytes" for key, _, _ in disks)
    return Usage(
        _number(_value(_read(top, "cpu.stat"), "usage_usec")),
        _number(_read(top, "memory.current")),
        _number(_read(top, "pids.current")),
        _sum(disks, "rbytes") if counted else UNKNOWN,
        _sum(disks, "wbytes") if counted else UNKNOWN,
    )


def _read(top: str, file: str) -> str:
    try:
        with open(f"{top}/{file}", encoding="ascii") as opened:
            return opened.read()
    except OSError:
        return ""  # no such controller here, or the group went meanwhile


def _value(text: str, key: str) -> str:
    return next((line.partition(" ")[2] for line in text.splitlines() if line.startswith(f"{key} ")), "")


def _number(text: str) -> int:
    return int(text) if text.strip().isdecimal() else UNKNOWN


def _sum(parts: list[tuple[str, str, str]], key: str) -> int:
    return sum(int(value) for name, _, value in parts if name == key and value.isdecimal())
