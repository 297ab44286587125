# SPDX-License-Identifier: LGPL-2.1-or-later
"""Giving the files of an image to the users of another range: what a chown of systemd-nspawn did, undone."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from typing import Final

from machined.linux.overlay import RANGE
from machined.model import image_locks
from machined.model.errors import MachineError, Problem
from machined.model.image_ops import ImageOps
from machined.model.images import Image, ImageType
from machined.model.preflight import LETTING_GO
from machined.model.roots import Roots
from machined.model.state import States, unit_of_machine

_CHOWNING: Final = "machined.linux.chowning"
# The range after it has the user that is none.
_LAST: Final = 0xFFFE_0000


async def chown(
    operations: ImageOps, roots: Roots, states: States, image: Image, base: int
) -> tuple[int, int]:
    """Give all files of a tree to the users from `base` on, 0 for unshifted ones.

    Returns how many were changed, and how many belonged to others and were left. One that did not come to
    its end is finished by another one. Raises OSError (EROFS, EBUSY, …), MachineError (IMAGE_BUSY,
    INVALID_ARGS, NOT_SUPPORTED, LIMITS_EXCEEDED).
    """
    if base % RANGE or not 0 <= base <= _LAST:
        raise MachineError(
            Problem.INVALID_ARGS,
            f"No range of users begins with {base}: that is 0, or a multiple of {RANGE} up to {_LAST}.",
        )
    operations.check_writable(image)
    if why := _why_not(image):
        raise MachineError(
            Problem.NOT_SUPPORTED, f"Image '{image.name}' cannot be given to other users: {why}"
        )
    await _let_go(roots, states, image.name)
    if roots.holds(image.name):
        # Also where systemd-nspawn has not locked it yet: it has been told whose the tree is.
        raise MachineError(
            Problem.IMAGE_BUSY,
            f"Image '{image.name}' cannot be given to other users: machine '{image.name}' runs, or is about "
            f"to. Power it off first.",
        )
    with image_locks.image(image, exclusive=True):
        changed, left = await operations.begin(f"{_CHOWNING}:chown_tree", image.path, base)
    return changed, left


async def _let_go(roots: Roots, states: States, name: str) -> None:
    """Let a machine that has just ended give back what it had, and wait a moment for that."""

    def settled() -> bool:
        unit = states.tracked(unit_of_machine(name))
        return not roots.holds(name) or (unit is not None and unit.is_up) or states.record(name).starting

    with suppress(TimeoutError):
        async with asyncio.timeout(LETTING_GO):
            await states.wait_until(name, settled)


def _why_not(image: Image) -> str:
    """Why an image has no owners to be changed, or may not be; empty when it may."""
    if image.type is ImageType.MSTACK:
        return (
            f"it is made of layers, which are mapped at each start and never changed. "
            f"'machinectl flatten {image.name}' makes a plain tree of it."
        )
    if not image.is_tree:
        return f"it is a disk image ({image.type}), whose owners are up to systemd-nspawn at each start."
    if os.path.realpath(image.path) == "/":
        return "it is the tree that this host runs on."
    if image.read_only:
        return f"it is read-only. 'machinectl read-only {image.name} no' makes it writable."
    return ""
