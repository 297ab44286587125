# SPDX-License-Identifier: LGPL-2.1-or-later
"""Names of machines, D-Bus object paths made of them, and text of guests made safe for a terminal."""

from __future__ import annotations

from .errors import CommandError

_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-")
_LIMIT = 64
HOST = ".host"  # the host itself, which is no machine that could be started


def is_valid(name: str) -> bool:
    """Machine names follow the rules of host names: labels of letters, digits and inner '-', 64 at most."""
    if not 0 < len(name) <= _LIMIT:
        return False
    return all(
        label and _LETTERS.issuperset(label) and not (label[0] == "-" or label[-1] == "-")
        for label in name.split(".")
    )


def suggest(name: str) -> str:
    """The nearest valid name, "" when there is none."""
    labels = "".join(c if c in _LETTERS or c == "." else "-" for c in name).split(".")
    nearest = ".".join(label.strip("-") for label in labels if label.strip("-"))[:_LIMIT].rstrip("-.")
    return nearest if is_valid(nearest) else ""


def check(name: str) -> None:
    """Raises CommandError for a name no machine can have, before anything is asked of the manager."""
    if is_valid(name):
        return
    nearest = suggest(name)
    raise CommandError(
        f"Machine name '{clean(name)}' is not valid: only letters, digits, '-' and '.' are allowed"
        + (f" (try '{nearest}')." if nearest else f", {_LIMIT} characters at most."),
        "" if not nearest else "An image of such a name can be renamed, see 'machinectl list-images'.",
    )


def escape_label(name: str) -> str:
    """A name as one element of an object path, as sd-bus escapes it."""
    if not name:
        return "_"
    parts = []
    for index, byte in enumerate(name.encode()):
        char = chr(byte)
        plain = char.isascii() and (char.isalpha() or (char.isdigit() and index > 0))
        parts.append(char if plain else f"_{byte:02x}")
    return "".join(parts)


def clean(text: str) -> str:
    """Text a guest or its owner wrote, without control and direction characters: it goes to a terminal."""
    return text if text.isprintable() else "".join(filter(str.isprintable, text))
