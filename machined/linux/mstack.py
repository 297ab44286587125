# SPDX-License-Identifier: LGPL-2.1-or-later
"""Stacks of layers on disk, as in systemd.mstack(7), and the trees at their bottom.

Links `layer@N` to the trees below, `rw/data` and `rw/work` for what is written. Nobody is to write to the
trees below, not even who knows nothing of layers: they are read-only, and a mark says that it was us.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Sequence
from typing import Final

from machined.linux import btrfs, filesystem

LAYER: Final = "layer@"
WRITABLE: Final = "rw"
DATA: Final = "data"
WORK: Final = "work"
FLATTENED: Final = ".flattened"
"""A file in a stack that a flat copy is to take the place of."""
BASE: Final = "trusted.machined.base"
"""An attribute of a tree that was made read-only because others are layers over it. No guest can set it."""


def make_writable(path: str, like: str) -> None:
    """A directory of this name with `data`, which is as the directory `like` is, and `work`. OSError."""
    os.mkdir(path, 0o700)
    data = os.path.join(path, DATA)
    os.mkdir(data, 0o700)
    os.mkdir(os.path.join(path, WORK), 0o700)
    status = os.stat(like)
    os.chown(data, status.st_uid, status.st_gid)
    with contextlib.suppress(OSError):
        shutil.copystat(like, data)  # an attribute that the other file system has not is none of the root's
    with contextlib.suppress(OSError):
        os.removexattr(data, BASE)
    os.chmod(data, stat.S_IMODE(status.st_mode))


def write(path: str, layers: Sequence[str], *, beside: str) -> None:
    """The links of a stack in a new directory, to be renamed to one `beside` it: relative ones. OSError."""
    os.mkdir(path, 0o700)
    # What is relative counts from where the directory really is.
    around, name = os.path.split(beside)
    start = os.path.join(os.path.realpath(around), name)
    # The lowest has the least number.
    for number, layer in enumerate(reversed(layers)):
        link = os.path.relpath(os.path.realpath(layer), start)
        os.symlink(link, os.path.join(path, f"{LAYER}{number}"))


# -- the trees below ---------------------------------------------------------------------------------------


def is_read_only(path: str) -> bool:
    """By the flag of a subvolume, or by the attribute of a directory. Follows links; OSError."""
    with btrfs.open_directory(path) as directory:
        if btrfs.is_subvolume(path) and btrfs.info(directory.fileno()).read_only:
            return True
        try:
            return bool(filesystem.attributes_of(directory.fileno()) & filesystem.IMMUTABLE)
        except OSError:
            return False  # a file system without attributes


def set_read_only(path: str, read_only: bool) -> None:
    """Make a tree read-only in the way of its kind, or writable whichever way it is not. OSError."""
    with btrfs.open_directory(path) as directory:
        is_subvolume = btrfs.is_subvolume(path)
        if is_subvolume:
            btrfs.set_read_only(directory.fileno(), read_only)
        if not (is_subvolume and read_only):
            wanted = filesystem.IMMUTABLE if read_only else 0
            filesystem.set_attributes_of(directory.fileno(), wanted, filesystem.IMMUTABLE)


def is_base(path: str) -> bool:
    """Whether it was us who made a tree read-only."""
    try:
        os.getxattr(path, BASE)
    except OSError:
        return False
    return True


def protect(path: str) -> None:
    """Make a tree read-only for the layers over it, unless it is already. OSError."""
    if is_read_only(path):
        return
    try:
        os.setxattr(path, BASE, b"1")
    except OSError as error:
        if error.errno == errno.EROFS:
            return  # all of its file system is
        raise
    try:
        set_read_only(path, True)
    except OSError:
        with contextlib.suppress(OSError):
            os.removexattr(path, BASE)
        raise


def unprotect(path: str) -> None:
    """Make a tree writable again, and forget that it was not, if that was us. OSError."""
    if is_base(path):
        set_read_only(path, False)
        os.removexattr(path, BASE)
