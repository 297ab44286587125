# SPDX-License-Identifier: LGPL-2.1-or-later
"""Trees, subvolumes and files, removed: what goes loses its name first, so that half of it is never seen.

All of it may take long: for machined.linux.worker.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Sequence
from typing import Final

from machined.linux import btrfs, filesystem, mounts, nested, partials, statx
from machined.linux.fds import OwnedFd
from machined.linux.tools import run
from machined.linux.treecopy import DEPTH_MAX, unlimit

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Where a directory cannot get another name, it is removed under its own: on overlayfs one of a lower layer,
# and where there is no room for the longer name.
_NOT_RENAMABLE: Final = frozenset({errno.EXDEV, errno.ENOSPC, errno.EDQUOT, errno.ENAMETOOLONG})


def remove(path: str, kind: str, beside: Sequence[str] = ()) -> None:
    """Remove a "tree", a "subvolume" or a "file", then the files beside it, which may be missing.

    Of a link only the link goes. OSError: EBUSY when something is mounted in a tree, which then stays.
    """
    if kind == "file" or os.path.islink(path):
        os.unlink(path)
    else:
        _remove_directory(path)
    unlink(beside)


def unlink(paths: Sequence[str]) -> None:
    """Remove files that may be missing, and that are no reason to fail."""
    for path in paths:
        with contextlib.suppress(OSError):
            os.unlink(path)


def sweep(paths: Sequence[str]) -> list[tuple[str, str]]:
    """Remove what has been left under hidden names of ours, unless somebody works there.

    Answers what could not be removed, and why.
    """
    failures = []
    for path in paths:
        with partials.abandoned(path) as free:
            if not free:
                continue
            try:
                _sweep_one(path)
            except FileNotFoundError:
                continue  # whoever made it has taken it back
            except OSError as error:
                failures.append((path, error.strerror or str(error)))
    return failures


def _sweep_one(path: str) -> None:
    remove(path, "tree" if stat.S_ISDIR(os.lstat(path).st_mode) else "file")


def _remove_directory(path: str) -> None:
    """By descriptors: whoever may write to the directory around it gets nothing else removed instead."""
    _check_mounts(path)
    around, name = os.path.split(path)
    with btrfs.open_directory(around or ".") as directory:
        parent = directory.fileno()
        with OwnedFd(os.open(name, _DIRECTORY, dir_fd=parent)) as top:
            if name.startswith(partials.PARTIAL):
                _make_mutable(top.fileno())
                _clear(top.fileno(), parent, name)
                return
            with partials.beside(path) as hidden:
                _clear(top.fileno(), parent, _hide(top.fileno(), parent, name, os.path.basename(hidden)))


def _check_mounts(path: str) -> None:
    if mounts.below(os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))):
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), path)


def _hide(top: int, parent: int, name: str, hidden: str) -> str:
    """Take the name of an open directory away; the one that it has then."""
    was_immutable = _make_mutable(top)
    try:
        filesystem.rename_noreplace(name, hidden, dir_fd=parent)
        if not os.path.samestat(os.stat(hidden, dir_fd=parent, follow_symlinks=False), os.fstat(top)):
            with contextlib.suppress(OSError):
                filesystem.rename_noreplace(hidden, name, dir_fd=parent)
            raise OSError(errno.EAGAIN, "something else has taken its place", name)
    except OSError as error:
        if error.errno in _NOT_RENAMABLE:
            return name
        if was_immutable:
            with contextlib.suppress(OSError):
                filesystem.set_attributes_of(top, filesystem.IMMUTABLE, filesystem.IMMUTABLE)
        raise
    return hidden


def _make_mutable(top: int) -> bool:
    """Whether it was immutable."""
    try:
        if not filesystem.attributes_of(top) & filesystem.IMMUTABLE:
            return False
        filesystem.set_attributes_of(top, 0, filesystem.IMMUTABLE)
    except OSError:
        return False  # without attributes, or without the right: what comes next says so
    return True


def _clear(top: int, parent: int, name: str) -> None:
    """Remove an open directory or subvolume, which has this name in another one."""
    if statx.is_btrfs(f"/proc/self/fd/{top}"):
        nested.remove_below(top)
        if os.fstat(top).st_ino == btrfs.SUBVOLUME_INODE:
            nested.destroy(parent, btrfs.info(top).id)
            return
    try:
        _clear_directory(top)
    except PermissionError:
        # Files that are immutable or can only grow: a guest may have made them so.
        _free_files(top)
        _clear_directory(top)
    with contextlib.suppress(FileNotFoundError):
        os.rmdir(name, dir_fd=parent)


def _clear_directory(top: int) -> None:
    unlimit()
    if not _empty(top, os.fstat(top).st_dev, 0):
        return
    for name in os.listdir(top):
        # rm knows how to go deeper than the longest path.
        place = f"/proc/{os.getpid()}/fd/{top}/{name}"
        run("rm", "--recursive", "--force", "--one-file-system", "--", place)


def _empty(directory: int, device: int, depth: int) -> bool:
    """Remove all that is in a directory of a file system; False, and True when that is too deep."""
    deeper = False
    with os.scandir(directory) as entries:
        found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_directory in found:
        try:
            if not is_directory:
                os.unlink(name, dir_fd=directory)
            elif depth == DEPTH_MAX or _empty_inner(directory, name, device, depth + 1):
                deeper = True
            else:
                os.rmdir(name, dir_fd=directory)
        except FileNotFoundError:
            continue  # somebody else removes it as well
    return deeper


def _empty_inner(directory: int, name: str, device: int, depth: int) -> bool:
    inner = os.open(name, _DIRECTORY, dir_fd=directory)
    try:
        if os.fstat(inner).st_dev != device:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), name)
        return _empty(inner, device, depth)
    finally:
        os.close(inner)


def _free_files(top: int) -> None:
    """Take what keeps files from being removed from all of a tree. OSError."""
    unlimit()
    kept = filesystem.IMMUTABLE | filesystem.APPEND_ONLY
    filesystem.set_attributes_of(top, 0, kept)
    for _, directories, files, fd in os.fwalk(".", dir_fd=top):
        for name in (*directories, *files):
            with contextlib.suppress(FileNotFoundError):
                status = os.stat(name, dir_fd=fd, follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode) or stat.S_ISREG(status.st_mode):
                    filesystem.set_attributes_at(fd, name, 0, kept)
