# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a builder makes of its argument: the commands that fill a tree, and what is known about them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

TREE: Final = "\0tree"
"""Stands in a command for the path of the tree."""

Hint = tuple[str, str]
"""A regular expression for the tool's last lines, and what to do when one of them fits."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a machine is to have at its first boot, so that the packages for it can come along."""

    locale: str = ""
    timezone: str = ""

    @property
    def language(self) -> str:
        """The language of a locale that has to be made first, empty for those every system has."""
        language = re.split(r"[_.@]", self.locale)[0]
        return "" if language in {"", "C", "POSIX"} else language


@dataclass(frozen=True, slots=True)
class Plan:
    """Commands to fill a tree, and commands in it afterwards whose failure is no reason to fail."""

    command: tuple[str, ...] = ()
    afterwards: tuple[tuple[str, ...], ...] = ()
    copies: str = ""
    """The directory to copy, when there is no command."""
    reads: str = ""
    """A file that has to be there."""
    confined: bool = False
    """Whether all it needs is the tree: no network, and nothing else to write to."""
    installs: bool = True
    """Whether packages are installed, by a tool that gives the tree traits of the host it runs on."""

    def in_tree(self, path: str) -> tuple[tuple[str, ...], ...]:
        """All commands with the path of the tree put in."""
        return tuple(
            tuple(word.replace(TREE, path) for word in command)
            for command in (self.command, *self.afterwards)
        )


_HINTS: Final[tuple[Hint, ...]] = (
    (
        r"(?i)no space left|enough free space|not enough space|Disk quota exceeded|requires .* more space",
        "There is not enough room in /var/lib/machines: 'machinectl clean' removes what is hidden there, "
        "'machinectl set-limit' changes the limit, if it has one.",
    ),
)


@dataclass(frozen=True, slots=True)
class Builder:
    """One kind of source. `plan` gets what follows the colon; it raises MachineError (INVALID_ARGS)."""

    name: str
    syntax: str
    summary: str
    plan: Callable[[str, Wishes], Plan]
    program: str = ""
    package: str = ""
    """Which package of the host has the program."""
    hints: tuple[Hint, ...] = field(default=())

    def hint(self, lines: list[str]) -> str:
        """What to do about the tool's last words; empty when nothing is known of them."""
        for pattern, text in (*_HINTS, *self.hints):
            if any(re.search(pattern, line) for line in lines):
                return text
        return ""


ENABLE_NETWORK: Final = ("systemctl", f"--root={TREE}", "enable", "systemd-networkd.service")
"""Nothing else would set up the network link that a machine gets."""


def make_locale(locale: str) -> tuple[tuple[str, ...], ...]:
    """The command that makes a locale in the tree of a system with glibc's sources of locales."""
    name, _, modifier = locale.partition("@")
    language, _, charset = name.partition(".")
    source = f"{language}@{modifier}" if modifier else language
    return (("chroot", TREE, "localedef", "-i", source, "-f", charset or "UTF-8", locale),)
