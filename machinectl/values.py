# SPDX-License-Identifier: LGPL-2.1-or-later
"""Reading the values of options and settings: numbers, time spans, output modes, environment assignments."""

from __future__ import annotations

import os

from .errors import CommandError

OUTPUT_MODES = (
    "short", "short-full", "short-iso", "short-iso-precise", "short-precise", "short-monotonic",
    "short-delta", "short-unix", "verbose", "export", "json", "json-pretty", "json-sse", "json-seq",
    "cat", "with-unit",
)  # fmt: skip

RUNNERS = ("nspawn", "vmspawn")
VERIFY_MODES = ("no", "checksum", "signature")
FORMATS = ("uncompressed", "xz", "gzip", "bzip2", "zstd")

ALL = 2**32 - 1
"""--max-addresses=all"""

_UNITS = {
    "us": 1e-6, "usec": 1e-6, "ms": 1e-3, "msec": 1e-3,
    "": 1.0, "s": 1.0, "sec": 1.0, "second": 1.0, "seconds": 1.0,
    "m": 60.0, "min": 60.0, "minute": 60.0, "minutes": 60.0,
    "h": 3600.0, "hr": 3600.0, "hour": 3600.0, "hours": 3600.0,
    "d": 86400.0, "day": 86400.0, "days": 86400.0, "w": 604800.0, "week": 604800.0, "weeks": 604800.0,
}  # fmt: skip


def _unsigned(text: str) -> int | None:
    text = text.strip()
    return int(text) if text.isascii() and text.isdigit() and int(text) < 2**32 else None


def text(value: str) -> str:
    return value


def lines(value: str) -> int:
    number = _unsigned(value)
    if number is None:
        raise CommandError(f"Failed to parse lines '{value}'")
    return number


def max_addresses(value: str) -> int:
    number = ALL if value == "all" else _unsigned(value)
    if number is None:
        raise CommandError(f"Invalid number of addresses: {value}")
    return number


def shift(value: str) -> int:
    """The first user of a range of 65536."""
    number = _unsigned(value)
    if number is None or number % 65536:
        raise CommandError(f"No range of users begins with '{value}'.", "It is 0 or a multiple of 65536.")
    return number


def output(value: str) -> str:
    if value == "help":
        raise Answer("\n".join(OUTPUT_MODES))
    if value not in OUTPUT_MODES:
        raise CommandError(f"Unknown output '{value}'.", "'--output=help' lists the output modes.")
    return value


def runner(value: str) -> str:
    return _one_of(value, RUNNERS, f"Failed to parse --runner= setting: {value}")


def verify(value: str) -> str:
    if value == "help":
        raise Answer("\n".join(VERIFY_MODES))
    return _one_of(value, VERIFY_MODES, f"Failed to parse --verify= setting: {value}")


def compression(value: str) -> str:
    return _one_of(value, FORMATS, f"Unknown format: {value}")


def _one_of(value: str, words: tuple[str, ...], complaint: str) -> str:
    if value not in words:
        raise CommandError(complaint, f"It can be {', '.join(words[:-1])} or {words[-1]}.")
    return value


def host(value: str) -> str:
    """An empty one would mean this host, which nobody who writes --host= wants."""
    if not value:
        raise CommandError("Failed to connect to system scope bus via remote transport: --host= is empty.")
    return value


def machine(value: str) -> str:
    if not value:
        raise CommandError(
            "Failed to connect to system scope bus via machine transport: --machine= is empty."
        )
    return value


def signal_name(value: str) -> str:
    """Checked at once, a wrong name is reported before any call. "help" and "list" print them all."""
    from . import signals

    if value in ("help", "list"):
        raise Answer(signals.table() if value == "list" else signals.short_names())
    signals.number(value)
    return value


def assignment(value: str) -> str:
    """VAR=VALUE, or VAR to take the value from our own environment."""
    name, equals, _ = value.partition("=")
    if not name or name[0].isdigit() or not all(c == "_" or (c.isascii() and c.isalnum()) for c in name):
        raise CommandError(f"Cannot assign environment variable {value}: Invalid argument")
    return value if equals else f"{name}={os.environ.get(name, '')}"


def seconds(value: str) -> float:
    """A time span as systemd writes them ("90", "1min 30s", "infinity"), in seconds; infinity is inf."""
    if value.strip() == "infinity":
        return float("inf")
    total, rest, seen = 0.0, value.strip(), False
    while rest:
        digits = len(rest) - len(rest.lstrip("0123456789."))
        number, rest = rest[:digits], rest[digits:].lstrip()
        letters = len(rest) - len(rest.lstrip("abcdefghijklmnopqrstuvwxyz"))
        unit, rest = rest[:letters], rest[letters:].lstrip()
        try:
            total += float(number) * _UNITS[unit]
        except (KeyError, ValueError):
            seen = False
            break
        seen = True
    if not seen:
        raise CommandError(f"Failed to parse time span '{value}': write it as '90', '90s' or '1min 30s'.")
    return total


def delay(value: str) -> float:
    """A time span that one waits for."""
    found = seconds(value)
    if not 0.05 <= found <= 86400:
        raise CommandError(f"A delay of '{value}' is not possible.", "It is from 50ms to 1d.")
    return found


def iterations(value: str) -> int:
    """How often."""
    number = _unsigned(value)
    if not number:
        raise CommandError(f"'{value}' is no number of looks.", "It is 1 or more.")
    return number


ORDERS = ("cpu", "memory", "tasks", "io", "name")


def order(value: str) -> str:
    """What `top` sorts by."""
    return _one_of(value, ORDERS, "Unknown order")


class Answer(Exception):
    """An option that is itself the question (--output=help): the text to print, exit status 0."""
