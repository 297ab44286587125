# SPDX-License-Identifier: LGPL-2.1-or-later
"""`remove`, `rename`, `clone`, `chown`, `read-only`, `set-limit`, `clean`: what changes images."""

from __future__ import annotations

from . import quantities
from .bus import ASKING_TIMEOUT, MACHINE1, OURS, Bus
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
            _remove(context, bus, name)
        except BusError as error:
            raise context.failure(error, f"Could not remove image '{name}'") from error
    return 0


def _remove(context: Context, bus: Bus, name: str) -> None:
    purge = context.options.purge
    settings = {"purge": ("b", True)} if purge else {}
    try:
        kept: list[str] = bus.call(
            OURS, "RemoveImage", "sa{sv}", name, settings, reply="as", timeout=_NO_LIMIT
        )
    except BusError as error:
        if not error.not_there:
            raise
        # systemd-machined takes the settings with it.
        bus.call(MACHINE1, "RemoveImage", "s", name, timeout=_NO_LIMIT)
        return
    if kept and not context.options.quiet:
        files = ", ".join(f"'{path}'" for path in kept)
        message(f"Kept the settings of '{name}' in {files}; --purge removes them as well.")


def rename(context: Context, arguments: list[str]) -> int:
    old, new = arguments
    bus = context.mutating_bus()
    try:
        try:
            bus.call(OURS, "RenameImage", "ssa{sv}", old, new, {}, timeout=ASKING_TIMEOUT)
        except BusError as error:
            if not error.not_there:
                raise
            bus.call(MACHINE1, "RenameImage", "ss", old, new, timeout=ASKING_TIMEOUT)
    except BusError as error:
        raise context.failure(error, f"Could not rename image '{old}' to '{new}'") from error
    return 0


def clone(context: Context, arguments: list[str]) -> int:
    """As cheap as the file system allows, unless told to copy."""
    old, new = arguments
    options = context.options
    settings: dict[str, tuple[str, object]] = {}
    if options.read_only:
        settings["read-only"] = ("b", True)
    if options.clone_mode != "auto":
        settings["mode"] = ("s", options.clone_mode)
    bus = context.mutating_bus()
    try:
        try:
            cost = bus.call(OURS, "CloneImage", "ssa{sv}", old, new, settings, reply="s", timeout=_NO_LIMIT)
        except BusError as error:
            if not error.not_there or options.clone_mode == "layer":
                raise
            bus.call(MACHINE1, "CloneImage", "ssb", old, new, options.read_only, timeout=_NO_LIMIT)
            return 0
    except BusError as error:
        raise context.failure(error, f"Could not clone image '{old}' as '{new}'") from error
    if cost == "layer" and not options.quiet:
        layers: list[str] = bus.call(OURS, "GetImageLayers", "s", new, reply="as")
        message(
            f"'{new}' is a layer over '{layers[0]}', which is read-only as long as it has layers. "
            f"'machinectl flatten {new}' makes a plain tree of it."
        )
    return 0


def flatten(context: Context, arguments: list[str]) -> int:
    """Layered images as plain trees."""
    bus = context.mutating_bus()
    for name in arguments:
        try:
            bus.call(OURS, "FlattenImage", "sa{sv}", name, {}, timeout=_NO_LIMIT)
        except BusError as error:
            raise context.failure(error, f"Could not flatten image '{name}'") from error
    return 0


def chown(context: Context, arguments: list[str]) -> int:
    """Files of an image for the users of another range, or unshifted again."""
    name, base = arguments[0], context.options.shift
    settings = {"shift": ("u", base)} if base else {}
    try:
        changed, left = context.mutating_bus().call(
            OURS, "ChownImage", "sa{sv}", name, settings, reply="tt", timeout=_NO_LIMIT
        )
    except BusError as error:
        raise context.failure(error, f"Could not change the owners of image '{name}'") from error
    if not context.options.quiet:
        more = f" {left} belong to users outside of its range, and were left." if left else ""
        message(f"Changed the owners of {changed} files of image '{name}'.{more}")
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
