# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a row of the table of settings says."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from machined.model.settings.kinds import Kind

OLDEST: Final = 257
"""The oldest systemd that is supported."""
RENAMED: Final = 261
"""systemd's version that gave options other names."""


class Form(StrEnum):
    """How systemd-nspawn is told."""

    FLAG = "flag"
    """The option alone; there is no way to say 'no', which is what holds without it."""
    VALUE = "value"
    """--option=value, once."""
    EACH = "each"
    """--option=value, for each value."""
    JOINED = "joined"
    """--option=value,value,…"""
    LINES = "lines"
    """--option=the values of a line, for each line."""
    VARIABLE = "variable"
    """In a variable of its environment."""
    UNIT = "unit"
    """Not at all: it is a property of the machine's unit."""
    OWN = "own"
    """Not at all: it is ours to do, or said together with another one."""


class Trust(StrEnum):
    """What of it may come from a file beside an image, whose author is whoever made the image."""

    ALL = "all"
    NOTHING = "nothing"
    PROHIBITING = "prohibiting"
    """Values after a `~`."""


@dataclass(frozen=True, slots=True, eq=False)
class Setting:
    """One setting: where it is written, what may be written, and what becomes of it."""

    section: str
    key: str
    kind: Kind
    option: str
    """systemd-nspawn's, or the variable."""
    help: str
    form: Form = Form.VALUE
    many: bool = False
    """Values add up; an empty one forgets those before."""
    trust: Trust = Trust.ALL
    since: int = OLDEST
    """systemd's version that knows it first."""
    until: int = 0
    """… and the first one that does not any more."""
    nspawn_since: int | None = OLDEST
    """The version from which on it is a key of systemd.nspawn(5) too; None: it is one of our files alone."""
    default: str = ""
    """What holds for a machine of ours where nothing is said."""
    whole: bool = False
    """Of `many`: those of one file take the place of those of another."""
    option_before: str = ""
    """The option's name before systemd 261."""

    @property
    def name(self) -> str:
        return f"{self.section}.{self.key}"

    def __str__(self) -> str:
        return f"[{self.section}] {self.key}="

    def option_of(self, version: int) -> str:
        return self.option_before if self.option_before and version < RENAMED else self.option

    def is_known_to(self, version: int) -> bool:
        return version >= self.since and (not self.until or version < self.until)
