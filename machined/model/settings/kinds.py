# SPDX-License-Identifier: LGPL-2.1-or-later
"""Kinds of values: what may be written, and the one form that it has from then on.

A kind makes strings of a string: systemd-nspawn takes nothing else, and checks them again. What is not valid
raises ValueError with what would be; the sentence goes on after "[Section] Key=value: ".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from machined.model.settings.words import split_words

Read = Callable[[str], str]
"""Makes the one form of a value. Raises ValueError."""

_TRUE: Final = frozenset({"1", "yes", "y", "true", "t", "on"})
_FALSE: Final = frozenset({"0", "no", "n", "false", "f", "off"})
_NUMBER: Final = re.compile(r"[+-]?[0-9]+")


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of value."""

    shown: str
    """As documentation names it."""
    read: Read
    words: bool = False
    """A line may have several, with spaces between them."""
    choices: tuple[str, ...] = ()
    """All, or the usual values, for completion."""

    def values(self, text: str) -> list[str]:
        """The values of a line. Raises ValueError."""
        if _has_controls(text):
            raise ValueError("control characters are not allowed")
        parts = split_words(text) if self.words else [text]
        return [self.read(part) for part in parts]


def _has_controls(text: str) -> bool:
    return any(ord(char) < 32 or ord(char) == 127 for char in text.replace("\t", " "))


def boolean(text: str) -> str:
    """'yes' or 'no'."""
    lower = text.lower()
    if lower in _TRUE:
        return "yes"
    if lower in _FALSE:
        return "no"
    raise ValueError("must be 'yes' or 'no'")


BOOLEAN: Final = Kind("BOOLEAN", boolean, choices=("yes", "no"))


def one_of(*choices: str, booleans: Iterable[str] = (), shown: str = "", yes: str = "yes") -> Kind:
    """One of these words; those of them in `booleans` may be written in any way a boolean may.

    `yes` is the word for true.
    """

    def read(text: str) -> str:
        if text in choices:
            return text
        try:
            value = boolean(text)
        except ValueError:
            value = ""
        value = {"yes": yes, "no": "off" if "off" in choices else "no"}.get(value, "")
        if value in booleans:
            return value
        raise ValueError(f"must be one of {', '.join(map(repr, choices))}")

    return Kind(shown or "|".join(choices), read, choices=choices)


def number(low: int, high: int, shown: str = "NUMBER") -> Kind:
    """A whole number between the two."""

    def read(text: str) -> str:
        if _NUMBER.fullmatch(text) and low <= int(text) <= high:
            return str(int(text))
        raise ValueError(f"must be a number from {low} to {high}")

    return Kind(shown, read)


def matching(pattern: str, valid: str, *, shown: str, words: bool = False) -> Kind:
    """What this matches as a whole; `valid` goes on after "must be "."""
    compiled = re.compile(pattern)

    def read(text: str) -> str:
        if compiled.fullmatch(text):
            return text
        raise ValueError(f"must be {valid}")

    return Kind(shown, read, words)


def text(shown: str, *, words: bool = False) -> Kind:
    """Anything but nothing."""

    def read(value: str) -> str:
        if not value:
            raise ValueError("must not be empty")
        return value

    return Kind(shown, read, words)
