# SPDX-License-Identifier: LGPL-2.1-or-later
"""A tree that is being made: it grows hidden beside the images, and gets its name when it is whole.

For machined.linux.worker. What is left when the daemon is killed is swept like an unfinished copy.
"""

from __future__ import annotations

import contextlib
import os
from typing import Final

from machined.linux import btrfs, filesystem, quotas, removal, statx

TREE: Final = "tree"
"""The tree itself, in the hidden directory,"""
SCRATCH: Final = "tmp"
"""and room for what the tools need on the way."""


def begin(place: str, *, empty_tree: bool) -> None:
    """Make the hidden directory and, with `empty_tree`, the tree in it: on btrfs a subvolume."""
    pool = os.path.dirname(place)
    os.makedirs(pool, 0o700, exist_ok=True)
    os.mkdir(place, 0o755)
    os.mkdir(os.path.join(place, SCRATCH), 0o1777)
    os.chmod(os.path.join(place, SCRATCH), 0o1777)
    if not empty_tree:
        return
    if statx.is_btrfs(place):
        with btrfs.open_directory(place) as directory:
            btrfs.create(directory.fileno(), TREE)
        with btrfs.open_directory(os.path.join(place, TREE)) as tree, contextlib.suppress(OSError):
            quotas.set_up(tree.fileno())  # without quotas there is nothing to set up
    else:
        os.mkdir(os.path.join(place, TREE), 0o755)
    os.chmod(os.path.join(place, TREE), 0o755)


def begin_empty(place: str) -> None:
    begin(place, empty_tree=True)


def begin_copy(place: str) -> None:
    begin(place, empty_tree=False)


def publish(place: str, target: str) -> None:
    """Give the tree its name. FileExistsError."""
    filesystem.rename_noreplace(os.path.join(place, TREE), target)


def is_unpublished(place: str) -> bool:
    """Whether the tree still has no name."""
    return os.path.lexists(os.path.join(place, TREE))


def discard(place: str) -> None:
    """Remove the hidden directory and all that is in it, if it is there. OSError."""
    if os.path.lexists(place):
        removal.remove(place, "tree")
