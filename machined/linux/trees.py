# SPDX-License-Identifier: LGPL-2.1-or-later
"""What can be done to the trees and files of a pool, for machined.linux.worker: all of it may take long.

Copying is imagecopy's, removing is removal's; renaming, marking and limiting are here.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Sequence

from machined.linux import btrfs, filesystem, mstack, quotas, statx
from machined.linux.imagecopy import copy_beside, copy_image, copy_tree
from machined.linux.partials import PARTIAL, unfinished
from machined.linux.removal import remove, sweep, unlink
from machined.linux.tools import run

__all__ = [
    "PARTIAL",
    "copy_beside",
    "copy_image",
    "copy_tree",
    "limit_pool",
    "limit_subvolume",
    "mark_read_only",
    "remove",
    "rename",
    "run",
    "sweep",
    "unfinished",
    "unlink",
]


def rename(source: str, target: str, beside: Sequence[tuple[str, str]] = ()) -> None:
    """Rename a file or tree, immutable or not, and the files beside it. FileExistsError."""
    immutable = False
    with contextlib.suppress(OSError):
        immutable = bool(filesystem.attributes(source) & filesystem.IMMUTABLE)
    if immutable:
        filesystem.set_attributes(source, 0, filesystem.IMMUTABLE)
    place = source
    try:
        filesystem.rename_noreplace(source, target)
        place = target
    finally:
        if immutable:
            filesystem.set_attributes(place, filesystem.IMMUTABLE, filesystem.IMMUTABLE)
    for old, new in beside:
        with contextlib.suppress(OSError):
            filesystem.rename_noreplace(old, new)


def mark_read_only(path: str, kind: str, read_only: bool) -> None:
    """Make a "tree", "subvolume", "file" or "disk" read-only, or writable by its owner again."""
    if kind in {"subvolume", "tree"}:
        mstack.unprotect(path)  # from now on it is as its owner wants it, whatever layers there are
    if kind == "subvolume":
        with btrfs.open_directory(path) as directory:
            btrfs.set_read_only(directory.fileno(), read_only)
    elif kind == "tree":
        wanted = filesystem.IMMUTABLE if read_only else 0
        filesystem.set_attributes(path, wanted, filesystem.IMMUTABLE)
    elif kind == "disk":
        filesystem.set_disk_read_only(path, read_only)
    else:
        os.chmod(path, os.stat(path).st_mode & 0o444 | (0 if read_only else 0o200))
        if read_only:
            # Nothing will scatter it again.
            with contextlib.suppress(OSError):
                filesystem.defragment(path)


def limit_pool(path: str, referenced_max: int) -> None:
    """Make the pool a subvolume with quotas as far as that goes, and limit it. OSError ENOTTY: no btrfs."""
    if not statx.is_btrfs(path if os.path.exists(path) else os.path.dirname(path)):
        raise OSError(errno.ENOTTY, os.strerror(errno.ENOTTY), path)
    if not os.path.exists(path):
        with btrfs.open_directory(os.path.dirname(path)) as parent:
            btrfs.create(parent.fileno(), os.path.basename(path))
        os.chmod(path, 0o700)
    with btrfs.open_directory(path) as directory:
        btrfs.enable_quota(directory.fileno())
        quotas.set_up(directory.fileno())
    quotas.limit(path, referenced_max)


def limit_subvolume(path: str, referenced_max: int) -> None:
    quotas.limit(path, referenced_max)
