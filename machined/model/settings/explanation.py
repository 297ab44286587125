# SPDX-License-Identifier: LGPL-2.1-or-later
"""What holds for a machine, and what becomes of it, as text for people and their scripts."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from machined.model.ports import UnitProperty
from machined.model.settings.layers import Finding
from machined.model.settings.merge import Effective

Row = tuple[str, str, str, str, str]
"""Section, key, value, source, origin: "file:line", or the source's word."""

_NEVER: Final = 2**64 - 1
_SECRET: Final = "SetCredential"
_HIDDEN: Final = "…"
_OPTION: Final = re.compile(r"(--set-credential=[^:]*:).*", re.DOTALL)
# In a sentence about a value, and in one about a line as a whole.
_SENTENCE: Final = re.compile(rf"({_SECRET}\s*=).*?(?= is not valid: | is no assignment |$)", re.DOTALL)
_UNITS: Final = (("h", 3_600_000_000), ("min", 60_000_000), ("s", 1_000_000), ("ms", 1_000), ("us", 1))


@dataclass(slots=True)
class Explanation:
    """Settings with their origin, and what PID 1 would be told; without the latter where nothing starts."""

    settings: list[Row] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    """What systemd-nspawn would be started with."""
    properties: list[tuple[str, str]] = field(default_factory=list)
    """Of the unit; one with several values is there several times."""
    findings: list[Finding] = field(default_factory=list)


def explain(
    effective: Effective, unit: Iterable[UnitProperty], findings: Sequence[Finding], *, secrets: bool
) -> Explanation:
    """All of it; without `secrets` no value of a credential is in it."""
    found = Explanation(findings=visible(findings, secrets=secrets))
    for setting, value in effective.rows():
        text = value.text if secrets or setting.key != _SECRET else _masked(value.text)
        found.settings.append((setting.section, setting.key, text, value.source.value, value.origin))
    for one in unit:
        if one.name == "ExecStart":
            found.command = [word if secrets else _OPTION.sub(rf"\1{_HIDDEN}", word) for word in _argv(one)]
        else:
            found.properties += [(one.name, text) for text in texts(one)]
    return found


def visible(findings: Iterable[Finding], *, secrets: bool) -> list[Finding]:
    """The same; without `secrets` no sentence has the value of a credential in it."""
    if secrets:
        return list(findings)
    return [
        Finding(finding.severity, finding.place, _SENTENCE.sub(rf"\1{_HIDDEN}", finding.text))
        for finding in findings
    ]


def _masked(text: str) -> str:
    return f"{text.partition(':')[0]}:{_HIDDEN}"


def _argv(command: UnitProperty) -> list[str]:
    return [word for _, argv, _ in command.value for word in argv]


def texts(one: UnitProperty) -> list[str]:
    """The values of a property, much as a unit file would have them."""
    match one.type:
        case "as":
            return [" ".join(map(_word, one.value))]
        case "a(sasb)":
            return [("-" if ignored else "") + shlex.join(argv) for _, argv, ignored in one.value]
        case "(aiai)":
            return [" ".join(str(number) for numbers in one.value for number in numbers)]
        case kind if kind.startswith("a("):
            return [_plain(row) for row in one.value]
        case "t" if one.name.endswith("USec"):
            return [timespan(one.value)]
    return [_plain(one.value)]


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return " ".join(map(_plain, value))
    if isinstance(value, bytes):
        return value.hex()
    return "infinity" if value == _NEVER else str(value)


def _word(text: str) -> str:
    return f'"{text}"' if " " in text or not text else text


def timespan(usec: int) -> str:
    """As systemd.time(7) has it: "1min 30s"."""
    if usec == _NEVER:
        return "infinity"
    parts = []
    for name, size in _UNITS:
        count, usec = divmod(usec, size)
        if count:
            parts.append(f"{count}{name}")
    return " ".join(parts) or "0"
