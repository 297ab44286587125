# SPDX-License-Identifier: LGPL-2.1-or-later
"""Switches of the kernel's network below /proc/sys/net (sysctl(8)), by names with slashes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

ROOT: Final = Path("/proc/sys/net")


def read(name: str) -> str:
    """A switch as it is. OSError."""
    return (ROOT / name).read_text(encoding="ascii").strip()


def write(name: str, value: str) -> str:
    """Set a switch; returns what it was before. OSError."""
    before = read(name)
    if before != value:
        (ROOT / name).write_text(value, encoding="ascii")
    return before


def has_ipv6() -> bool:
    """Whether this host has IPv6."""
    try:
        return read("ipv6/conf/all/disable_ipv6") == "0"
    except OSError:
        return False


def interfaces(family: str) -> list[str]:
    """The names that have switches of their own; `family` is ipv4 or ipv6."""
    try:
        return sorted(set(os.listdir(ROOT / family / "conf")) - {"all", "default"})
    except FileNotFoundError:
        return []
