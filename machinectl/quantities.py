# SPDX-License-Identifier: LGPL-2.1-or-later
"""Arguments of verbs that are more than names: yes or no, and sizes."""

from __future__ import annotations

from .errors import CommandError
from .timefmt import UINT64_MAX

_YES = frozenset(("1", "yes", "y", "true", "t", "on"))
_NO = frozenset(("0", "no", "n", "false", "f", "off"))
_UNLIMITED = frozenset(("-", "none", "infinity"))
# From large to small: that is the order they may follow each other in.
_UNITS = (*((letter, 1024**power) for power, letter in reversed(list(enumerate("BKMGTPE")))), ("", 1))
_BLANKS = " \t\n\r"


def boolean(text: str) -> bool:
    """Raises CommandError."""
    word = text.lower()
    if word not in _YES and word not in _NO:
        raise CommandError(f"Failed to parse boolean argument: {text}", "It is 'yes' or 'no'.")
    return word in _YES


def limit(text: str) -> int:
    """A size in bytes; UINT64_MAX for "-", "none" and "infinity". Raises CommandError."""
    return UINT64_MAX if text in _UNLIMITED else size(text)


def size(text: str) -> int:
    """ "4096", "1.5G", "1G 500M": bytes, units of 1024, from large to small. Raises CommandError."""
    total, rest, allowed = 0, text.strip(_BLANKS), 0
    try:
        if not rest:
            raise ValueError(text)
        while rest:
            amount, rest = _number(rest)
            index, rest = _unit(rest, allowed)
            whole, fraction = amount
            factor = _UNITS[index][1]
            total += whole * factor
            if fraction:
                total += int(fraction) * factor // 10 ** len(fraction)
            allowed = index + 1
            if total > UINT64_MAX:
                raise ValueError(text)
    except ValueError as error:
        raise CommandError(
            f"Failed to parse size: {text}", "Write it as '512M', '1.5G' or '1G 500M'; 'none' for no limit."
        ) from error
    return total


def _number(text: str) -> tuple[tuple[int, str], str]:
    """((whole, digits after the point), what follows). Raises ValueError."""
    text = text.removeprefix("+")
    digits = _digits(text)
    rest = text[len(digits) :]
    if not digits or len(digits) > 20:
        raise ValueError(text)
    fraction = ""
    if rest.startswith("."):
        fraction = _digits(rest[1:])
        rest = rest[1 + len(fraction) :]
    # Beyond that a digit is no byte any more, whatever the unit.
    return (int(digits), fraction[:20]), rest.lstrip(_BLANKS)


def _digits(text: str) -> str:
    return text[: len(text) - len(text.lstrip("0123456789"))]


def _unit(text: str, allowed: int) -> tuple[int, str]:
    """(row of _UNITS, what follows). Raises ValueError for a unit that is not one, or is not smaller."""
    letter = text[:1]
    for index in range(allowed, len(_UNITS)):
        if _UNITS[index][0] == letter:
            return index, text[1:].lstrip(_BLANKS)
    raise ValueError(text)
