# SPDX-License-Identifier: LGPL-2.1-or-later
"""The hierarchy of quota groups that systemd's tools keep for trees of subvolumes.

A subvolume that is counted as a whole has a group of its own number one level below the groups of the
subvolume around it (255 where there are none); what is nested in it is counted there as well.
"""

from __future__ import annotations

import contextlib
import errno
import os

from machined.linux import btrfs

TOP_LEVEL = 255


def set_up(fd: int) -> None:
    """Give the subvolume of an open directory a group for its subtree, unless it is counted already.

    OSError: ENOTCONN when there are no quotas, EBUSY when there is no level left.
    """
    own = btrfs.info(fd)
    if btrfs.parents(fd, own.id):
        return
    around = btrfs.parents(fd, own.parent) if own.parent else []
    lowest = min((btrfs.level_of(parent) for parent in around), default=TOP_LEVEL + 1)
    if lowest <= 1:
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
    between = btrfs.group(lowest - 1, own.id)
    with contextlib.suppress(FileExistsError):
        btrfs.create_group(fd, between)
    for parent in around:
        with contextlib.suppress(FileExistsError):
            btrfs.assign(fd, between, parent)
    with contextlib.suppress(FileExistsError):
        btrfs.assign(fd, own.id, between)


def inherit(fd: int, original: int) -> None:
    """Count a new snapshot as its original is counted, and limit it alike."""
    old = btrfs.info(original)
    own = btrfs.info(fd)
    groups = btrfs.parents(fd, old.id)
    if any(btrfs.id_of(group) == old.id for group in groups):
        set_up(fd)
        limit = btrfs.quota(fd, btrfs.subtree_group(fd, old.id)).referenced_max
        if limit != btrfs.UNLIMITED:
            btrfs.set_limit(fd, btrfs.subtree_group(fd, own.id), limit)
    elif old.parent and set(groups) & set(btrfs.parents(fd, old.parent)):
        for group in btrfs.parents(fd, own.parent):
            with contextlib.suppress(FileExistsError):
                btrfs.assign(fd, own.id, group)


def forget(fd: int, number: int) -> None:
    """Remove the group of a subvolume that is gone, and those made for its subtree."""
    for parent in btrfs.parents(fd, number):
        if btrfs.id_of(parent) == btrfs.id_of(number):
            with contextlib.suppress(OSError):
                btrfs.assign(fd, number, parent, remove=True)
            forget(fd, parent)
    # The kernel keeps the group of a subvolume that it still cleans up, and removes it itself then.
    with contextlib.suppress(OSError):
        btrfs.destroy_group(fd, number)


def limit(path: str, referenced_max: int) -> None:
    """Limit a subvolume with all that is counted in it (bytes). OSError: ENOTCONN without quotas."""
    with btrfs.open_directory(path) as directory:
        fd = directory.fileno()
        number = btrfs.info(fd).id
        # Tools of before there were groups for subtrees look at the subvolume's own.
        with contextlib.suppress(OSError):
            btrfs.set_limit(fd, number, referenced_max)
        with contextlib.suppress(OSError):
            set_up(fd)
        btrfs.set_limit(fd, btrfs.subtree_group(fd, number), referenced_max)
