# SPDX-License-Identifier: LGPL-2.1-or-later
"""Rows of org.machined1.Manager about the pool: what it is, and a file for it made, grown and removed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from dbus_fast import Variant

from machined.bus.call import Call
from machined.bus.verbs import ACTION, options
from machined.bus.vtable import Row, method
from machined.model.core import Core
from machined.model.errors import MachineError, Problem
from machined.model.poolfile import Kind


def get_pool(call: Call, core: Core) -> dict[str, Variant]:
    try:
        pool = core.pool_file.state()
    except FileNotFoundError:
        raise MachineError(
            Problem.FILE_NOT_FOUND, f"There is no pool: {core.image_ops.pool} does not exist."
        ) from None
    told = {
        "path": Variant("s", pool.path),
        "type": Variant("s", pool.kind.value),
        "file-system": Variant("s", pool.file_system),
        "size": Variant("t", pool.size),
        "used": Variant("t", pool.used),
        "available": Variant("t", pool.available),
        "limit": Variant("t", pool.limit),
    }
    if pool.kind is Kind.FILE:
        told |= {
            "file": Variant("s", pool.file),
            "allocated": Variant("t", pool.allocated),
            "size-max": Variant("t", max(pool.size, pool.ceiling)),
        }
    return told


async def _authorize(call: Call, verb: str) -> None:
    await call.authorize(f"{ACTION}manage-images", {"verb": verb})


async def create(call: Call, core: Core, size: int, given: Mapping[str, Variant]) -> None:
    options(given, {})
    await _authorize(call, "create_pool")
    await core.pool_file.create(size)


async def grow(call: Call, core: Core, size: int) -> None:
    await _authorize(call, "grow_pool")
    await core.pool_file.grow(size)


async def remove(call: Call, core: Core, given: Mapping[str, Variant]) -> None:
    options(given, {})
    await _authorize(call, "remove_pool")
    await core.pool_file.remove()


ROWS: Final[tuple[Row, ...]] = (
    method(
        "GetPool",
        "",
        "a{sv} pool",
        get_pool,
        doc=(
            "What /var/lib/machines is: `path`, `type` (directory; btrfs: of the host; file: a btrfs in a "
            "file), `file-system`, and in bytes `size`, `used`, `available`, `limit` (2^64-1: none). Of a "
            "file also its name, `file`, the bytes it takes of the disk, `allocated`, and the size it may "
            "grow to, `size-max`."
        ),
    ),
    method(
        "CreatePool",
        "t size, a{sv} options",
        "",
        create,
        doc=(
            "Move /var/lib/machines into a btrfs of this many bytes (0: half of what the disk has free, and "
            "room for what is there) in the file /var/lib/machines.raw. Returns when all images are in it; "
            "after an error all is as it was. No machine of the pool may run. No options."
        ),
    ),
    method(
        "GrowPool",
        "t size",
        "",
        grow,
        doc="Make that file, and the btrfs in it, larger; machines go on running.",
    ),
    method(
        "RemovePool",
        "a{sv} options",
        "",
        remove,
        doc="Take back what CreatePool did, with all images as plain directories and files. No options.",
    ),
)
