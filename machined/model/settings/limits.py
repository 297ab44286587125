# SPDX-License-Identifier: LGPL-2.1-or-later
"""Kinds of values that PID 1 takes as properties of a unit: amounts, weights, words.

Each of them knows the type on the bus (org.freedesktop.systemd1(5)) and what stands there for "not said".
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from machined.model.settings import kinds, quantities
from machined.model.settings.kinds import Kind, Read
from machined.model.settings.quantities import UINT64_MAX
from machined.model.settings.system import PROCESSORS

Property = tuple[str, str, Any]
"""Name, D-Bus type, value."""
Convert = Callable[[str, tuple[str, ...]], Property]
"""Makes a property of its name and values that were read; no values: what PID 1 begins with."""


@dataclass(frozen=True, slots=True)
class UnitKind(Kind):
    """A kind of value for a property of a unit."""

    convert: Convert = lambda name, values: (name, "s", values[-1] if values else "")
    live: bool = True
    """Whether PID 1 changes it while the unit runs."""


def single(
    shown: str,
    read: Read,
    signature: str,
    to_bus: Callable[[str], Any],
    unset: Any,
    *,
    choices: tuple[str, ...] = (),
    live: bool = True,
) -> UnitKind:
    """One value; of several the last."""

    def convert(name: str, values: tuple[str, ...]) -> Property:
        return name, signature, to_bus(values[-1]) if values else unset

    return UnitKind(shown, read, choices=choices, convert=convert, live=live)


def array(
    shown: str,
    read: Read,
    signature: str,
    to_bus: Callable[[str], list[Any]],
    *,
    words: bool = False,
    choices: tuple[str, ...] = (),
    live: bool = True,
) -> UnitKind:
    """Values that add up; `to_bus` makes the elements of one."""

    def convert(name: str, values: tuple[str, ...]) -> Property:
        return name, signature, [element for value in values for element in to_bus(value)]

    return UnitKind(shown, read, words, choices, convert, live)


def _spaced(text: str) -> str:
    return " ".join(text.split())


def _share_of_memory(text: str) -> int:
    """In whole pages, as PID 1 counts."""
    pages, page = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return pages * quantities.permyriad(text) // 10_000 * page


def size(*, zero: bool = False, unset: int = UINT64_MAX, scale: bool = True) -> UnitKind:
    """Bytes, or a share of the memory of the host; `scale`: there is a property that takes shares."""
    valid = "must be a size as '512M' or '1.5G', a share of the host's as '20%', or 'infinity'"

    def read(text: str) -> str:
        text = _spaced(text)
        try:
            percentage = quantities.is_percentage(text)
            value = quantities.permyriad(text) if percentage else quantities.size(text)
        except ValueError:
            raise ValueError(valid) from None
        if not value and not zero:
            raise ValueError(f"{valid}; not nothing")
        return text

    def convert(name: str, values: tuple[str, ...]) -> Property:
        if values and quantities.is_percentage(values[-1]):
            if scale:
                return f"{name}Scale", "u", quantities.share(values[-1])
            return name, "t", _share_of_memory(values[-1])
        return name, "t", quantities.size(values[-1]) if values else unset

    return UnitKind("BYTES|PERCENT", read, choices=("infinity",), convert=convert)


SIZE: Final = size()
"""What is not nothing."""
SIZE_OR_NOTHING: Final = size(zero=True)
PROTECTION: Final = size(zero=True, unset=0)
AT_STARTUP: Final = size(scale=False)
AT_STARTUP_OR_NOTHING: Final = size(zero=True, scale=False)
PROTECTION_AT_STARTUP: Final = size(zero=True, unset=0, scale=False)


def _tasks() -> UnitKind:
    def read(text: str) -> str:
        if text == quantities.INFINITY or (quantities.is_percentage(text) and quantities.permyriad(text)):
            return text
        if text.isascii() and text.isdigit() and 0 < int(text) < UINT64_MAX:
            return str(int(text))
        raise ValueError("must be a number from 1, a share of the host's as '20%', or 'infinity'")

    def convert(name: str, values: tuple[str, ...]) -> Property:
        if values and quantities.is_percentage(values[-1]):
            return f"{name}Scale", "u", quantities.share(values[-1])
        whole = UINT64_MAX if not values or values[-1] == quantities.INFINITY else int(values[-1])
        return name, "t", whole

    return UnitKind("NUMBER|PERCENT", read, choices=("infinity",), convert=convert)


TASKS: Final = _tasks()


def weight(idle: bool = False) -> UnitKind:
    """From 1 to 10000, 100 being the usual."""

    def read(text: str) -> str:
        if idle and text == "idle":
            return text
        if text.isascii() and text.isdigit() and len(text) < 6 and 1 <= int(text) <= 10_000:
            return str(int(text))
        raise ValueError("must be a weight from 1 to 10000, 100 being the usual" + ", or 'idle'" * idle)

    def to_bus(text: str) -> int:
        return 0 if text == "idle" else int(text)

    return single("WEIGHT", read, "t", to_bus, UINT64_MAX, choices=("idle",) if idle else ())


CPU_WEIGHT: Final = weight(idle=True)
IO_WEIGHT: Final = weight()


def _quota(text: str) -> str:
    if not quantities.permyriad(text, bounded=False):
        raise ValueError("must be more than nothing; '50%' is half of a processor, '200%' are two")
    return text


QUOTA: Final = single(
    "PERCENT",
    _quota,
    "t",
    # Of a second, in microseconds.
    lambda text: quantities.permyriad(text, bounded=False) * 100,
    UINT64_MAX,
)


def span(low: int = 0, high: int = UINT64_MAX, unset: int = UINT64_MAX, *, live: bool = True) -> UnitKind:
    """A time, `low` and `high` in microseconds."""

    def read(text: str) -> str:
        text = _spaced(text)
        if not low <= quantities.span(text) <= high:
            least = f"no less than {low // 1000}ms" if low else ""
            most = f"no more than {high // 1000}ms" if high < UINT64_MAX else ""
            raise ValueError("must be " + " and ".join(filter(None, (least, most))))
        return text

    return single("TIME", read, "t", quantities.span, unset, live=live)


QUOTA_PERIOD: Final = span(1000, 1_000_000)
"""What the kernel can do."""
PRESSURE_DURATION: Final = span(1_000_000)
PRESSURE_THRESHOLD: Final = span(1, live=False)
TIMEOUT: Final = span(unset=90_000_000, live=False)
RUNTIME: Final = span(1, live=False)
WATCHDOG: Final = span(unset=0, live=False)


def boolean(unset: bool = False, *, live: bool = True) -> UnitKind:
    return single(
        "BOOLEAN", kinds.boolean, "b", lambda t: t == "yes", unset, choices=("yes", "no"), live=live
    )


OFF: Final = boolean()
ON: Final = boolean(True)
ON_AT_START: Final = boolean(True, live=False)


def one_of(*choices: str, live: bool = True, unset: str | None = None) -> UnitKind:
    """One of these; where nothing is said, `unset` or the first."""
    kind = kinds.one_of(*choices)
    without = choices[0] if unset is None else unset
    return single(kind.shown, kind.read, "s", str, without, choices=choices, live=live)


OOM_MODE: Final = one_of("auto", "kill")
OOM_PREFERENCE: Final = one_of("none", "avoid", "omit")
OOM_POLICY: Final = one_of("continue", "stop", "kill", unset="stop", live=False)
DEVICE_POLICY: Final = one_of("auto", "closed", "strict")
PRESSURE_WATCH: Final = one_of("auto", "on", "off", "skip", live=False)
PARTITION: Final = one_of("member", "root", "isolated", unset="")


def _pressure_limit(text: str) -> str:
    quantities.permyriad(text)
    return text


PRESSURE_LIMIT: Final = single("PERCENT", _pressure_limit, "u", quantities.share, 0)


def _nice(text: str) -> str:
    return kinds.number(-20, 19).read(text)


NICE: Final = single("NUMBER", _nice, "i", int, 0, live=False)


def bits(numbers: str) -> int:
    """'0-3,8' as the set of these bits."""
    found = 0
    for part in numbers.split(","):
        first, _, last = part.partition("-")
        for number in range(int(first), int(last or first) + 1):
            found |= 1 << number
    return found


def _cpus(name: str, values: tuple[str, ...]) -> Property:
    found = 0
    for value in values:
        found |= bits(value)
    # The lowest ones first, in as many bytes as it takes.
    return name, "ay", found.to_bytes((found.bit_length() + 7) // 8, "little")


CPUS: Final = UnitKind("CPUS", PROCESSORS.read, words=True, convert=_cpus)
NODES: Final = UnitKind("NODES", PROCESSORS.read, words=True, convert=_cpus)

_CONTROLLERS: Final = ("cpu", "cpuset", "io", "memory", "pids")
CONTROLLERS: Final = array(
    "CONTROLLER…",
    kinds.one_of(*_CONTROLLERS).read,
    "as",
    lambda text: [text],
    words=True,
    choices=_CONTROLLERS,
)
OOM_RULES: Final = array(
    "RULE…",
    kinds.matching(r"[A-Za-z0-9_.-]{1,255}", "names of rules, oomd.conf(5)", shown="").read,
    "as",
    lambda text: [text],
    words=True,
)
