# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the settings of a machine say of its users, where we have to know before systemd-nspawn does."""

from __future__ import annotations

from machined.linux.overlay import RANGE
from machined.model.errors import MachineError, Problem
from machined.model.settings.merge import Effective


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
