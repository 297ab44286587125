# SPDX-License-Identifier: LGPL-2.1-or-later
"""`remove`, `rename`, `clone`, `read-only`, `set-limit`, `clean`: what changes images."""

from __future__ import annotations

from . import quantities
from .bus import ASKING_TIMEOUT, MACHINE1
from .context import Context
from .errors import BusError
from .output import message
from .timefmt import UINT64_MAX, size

# A tree takes as long as it takes.
_NO_LIMIT = None


def remove(context: Context, arguments: list[str]) -> int:
    """One after the other; the first that fails is the last."""
    bus = context.mutating_bus()
    for name in arguments:
        try:
            bus.call(MACHINE1, "RemoveImage", "s", name, timeout=_NO_LIMIT)
        except BusError as error:
            raise context.failure(error, f"Could not remove image '{name}'") from error
    return 0


def rename(context: Context, arguments: list[str]) -> int:
    old, new = arguments
    try:
        context.mutating_bus().call(MACHINE1, "RenameImage", "ss", old, new, timeout=ASKING_TIMEOUT)
    except BusError as error:
        raise context.failure(error, f"Could not rename image '{old}' to '{new}'") from error
    return 0


def clone(context: Context, arguments: list[str]) -> int:
    old, new = arguments
    marked = context.options.read_only
    try:
        context.mutating_bus().call(MACHINE1, "CloneImage", "ssb", old, new, marked, timeout=_NO_LIMIT)
    except BusError as error:
        raise context.failure(error, f"Could not clone image '{old}' as '{new}'") from error
    return 0


def read_only(context: Context, arguments: list[str]) -> int:
    name = arguments[0]
    wanted = quantities.boolean(arguments[1]) if len(arguments) > 1 else True
    try:
        context.mutating_bus().call(
            MACHINE1, "MarkImageReadOnly", "sb", name, wanted, timeout=ASKING_TIMEOUT
        )
    except BusError as error:
        doing = "mark image '{}' read-only" if wanted else "make image '{}' writable"
        raise context.failure(error, f"Could not {doing.format(name)}") from error
    return 0


def set_limit(context: Context, arguments: list[str]) -> int:
    """Of one image, or without a name of the pool."""
    limit = quantities.limit(arguments[-1])
    bus = context.mutating_bus()
    what = f"of image '{arguments[0]}'" if len(arguments) > 1 else "of the pool"
    try:
        if len(arguments) > 1:
            bus.call(MACHINE1, "SetImageLimit", "st", arguments[0], limit, timeout=ASKING_TIMEOUT)
        else:
            bus.call(MACHINE1, "SetPoolLimit", "t", limit, timeout=ASKING_TIMEOUT)
    except BusError as error:
        raise context.failure(error, f"Could not set limit {what}") from error
    return 0


def clean(context: Context, arguments: list[str]) -> int:
    mode = "all" if context.options.all else "hidden"
    try:
        removed: list[tuple[str, int]] = context.mutating_bus().call(
            MACHINE1, "CleanPool", "s", mode, reply="a(st)", timeout=_NO_LIMIT
        )
    except BusError as error:
        raise context.failure(error, "Could not clean pool") from error
    if context.options.quiet:
        return 0
    for name, freed in removed:
        known = "" if freed == UINT64_MAX else f". Freed exclusive disk space: {size(freed)}"
        message(f"Removed image '{name}'{known}")
    total = f"Removed {len(removed)} images in total."
    if all(freed != UINT64_MAX for _, freed in removed):
        total += f" Total freed exclusive disk space: {size(sum(freed for _, freed in removed))}."
    message(total)
    return 0
