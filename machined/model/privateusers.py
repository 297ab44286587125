# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the settings of a machine say of its users, where we have to know before systemd-nspawn does."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

from machined.linux.overlay import RANGE, SHIFT
from machined.model.errors import MachineError, Problem
from machined.model.settings.merge import Effective

PICK: Final = -1
"""In the place of a user: it may be any."""


@dataclass(frozen=True, slots=True)
class Range:
    """Users of the host that are some machine's. `named`: by its settings, for what purpose ever."""

    base: int
    count: int = RANGE
    named: bool = False

    @property
    def end(self) -> int:
        return self.base + self.count

    def overlaps(self, other: Range) -> bool:
        return self.base < other.end and other.base < self.end


def named(settings: Effective) -> Range | None:
    """The range that the settings name; None when they do not."""
    first, colon, count = settings.get("Exec", "PrivateUsers").partition(":")
    if not colon or not first.isdecimal() or not count.isdecimal():
        return None
    return Range(int(first), int(count), named=True)


def shift_of(tree: str) -> int | None:
    """By how much the owners of a tree are shifted, as systemd-nspawn reads it: off its root directory.

    None when its user and its group are not shifted alike. OSError.
    """
    status = os.stat(tree)
    shift = status.st_uid & SHIFT
    return shift if status.st_gid & SHIFT == shift else None


def base_of(name: str, settings: Effective, pick: int) -> int:
    """The first user of a machine, 0 when its users are the host's; `pick` where it may be any.

    Raises MachineError (INVALID_ARGS) for what cannot be had on a tree that is mounted in layers.
    """
    value = settings.all("Exec", "PrivateUsers")[-1]
    if value.text in {"pick", "yes"}:
        return pick
    if value.text in {"no", "identity"}:
        return 0
    first, _, count = value.text.partition(":")
    if first.isdecimal() and int(first) < 2**31 and int(first) % RANGE == 0 and count == str(RANGE):
        return int(first)
    raise MachineError(
        Problem.INVALID_ARGS,
        f"Machine '{name}' is made of layers, which cannot be had with 'PrivateUsers={value.text}' "
        f"({value.origin}): use 'pick', 'no', or a multiple of {RANGE}, or make the image a plain tree by "
        f"'machinectl flatten'.",
    )
