# SPDX-License-Identifier: LGPL-2.1-or-later
"""All images of a pool, copied into another one: directories become subvolumes, or subvolumes directories.

As cp(1) copies: owners, times, extended attributes, ACLs, hard links within an image, holes. What is marked
read-only stays so, by whichever means the target has, and what layers lie over for as long as they do.
"""

from __future__ import annotations

import os
import shutil
from typing import Final

from machined.linux import btrfs, inventory, mstack, quotas, statx, trees

_VERSIONED: Final = ".v"
_LAYERED: Final = ".mstack"
# Names on one command line: hard links among them are kept.
_BATCH: Final = 4000


def copy(source: str, target: str) -> None:
    """Fill the empty directory `target`, and make it what `source` is like. OSError."""
    subvolumes = statx.is_btrfs(target)
    with os.scandir(source) as found:
        entries = sorted((e for e in found if not inventory.is_passing(e.name)), key=lambda e: e.name)
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            _copy_directory(entry.path, os.path.join(target, entry.name), subvolumes)
    files = [entry.path for entry in entries if not entry.is_dir(follow_symlinks=False)]
    for start in range(0, len(files), _BATCH):
        _cp(*files[start : start + _BATCH], target)
    be_like(source, target)


def _cp(*paths: str) -> None:
    trees.run("cp", "--archive", "--reflink=auto", "--sparse=always", "--", *paths)


def be_like(source: str, target: str) -> None:
    """Give a directory the owner, mode, times and extended attributes of another one."""
    status = os.lstat(source)
    os.chown(target, status.st_uid, status.st_gid)
    shutil.copystat(source, target)


def _copy_directory(source: str, target: str, subvolumes: bool) -> None:
    if source.endswith(_VERSIONED):
        os.mkdir(target, 0o700)
        copy(source, target)  # it holds images, and is none
        return
    read_only, base = mstack.is_read_only(source), mstack.is_base(source)
    if subvolumes and not source.endswith(_LAYERED):
        with btrfs.open_directory(os.path.dirname(target)) as parent:
            btrfs.create(parent.fileno(), os.path.basename(target))
        with btrfs.open_directory(target) as directory:
            # Before there is anything in it: then it is counted from the start.
            quotas.set_up(directory.fileno())
    else:
        os.mkdir(target, 0o700)
    # By "source/." the attributes of the top come along.
    _cp(os.path.join(source, "."), target)
    if base:
        mstack.protect(target)  # until the last layer has gone
    elif read_only:
        mstack.set_read_only(target, True)
