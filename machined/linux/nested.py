# SPDX-License-Identifier: LGPL-2.1-or-later
"""Subvolumes of btrfs with what is nested in them, in trees that a guest or a user may change meanwhile.

What is nested is reached from a descriptor of the tree, through no link and no mount, and has to be the
subvolume that the kernel has named: whoever puts something else in its place makes this fail with EAGAIN.
"""

from __future__ import annotations

import contextlib
import errno
import os
from typing import Final

from machined.linux import btrfs, filesystem, quotas
from machined.linux.fds import OwnedFd
from machined.linux.syscalls import (
    RESOLVE_BENEATH,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    RESOLVE_NO_XDEV,
    openat2,
)

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_BENEATH: Final = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV
_EMPTY_INODE: Final = 2
"""Of the directory that a snapshot has in the place of a nested subvolume: it is in no tree itself."""
_MOVED: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EXDEV})


def below(top: int) -> list[tuple[int, str]]:
    """The subvolumes at any depth below an open directory: (id, path from there), the outer ones first."""
    if os.fstat(top).st_ino == _EMPTY_INODE:
        return []
    around = btrfs.info(top).id
    inside = btrfs.place_of(top)
    found = [
        (number, path.removeprefix(inside))
        for number, path in btrfs.children(top, around)
        if path.startswith(inside)
    ]
    for number, path in found:  # which grows meanwhile
        found += [(child, os.path.join(path, more)) for child, more in btrfs.children(top, number)]
    return found


def _reach(top: int, path: str) -> OwnedFd:
    return OwnedFd(openat2(top, path or ".", _DIRECTORY, resolve=_BENEATH))


def _open(top: int, path: str, number: int) -> OwnedFd:
    """OSError: EBUSY when something is mounted there or on the way, EAGAIN when it has been moved."""
    try:
        found = _reach(top, path)
    except OSError as error:
        if error.errno == errno.EXDEV:
            raise OSError(errno.EBUSY, "something is mounted over a subvolume", path) from None
        raise (_changes(path) if error.errno in _MOVED else error) from None
    try:
        if btrfs.info(found.fileno()).id != number:
            raise _changes(path)
    except BaseException:
        found.close()
        raise
    return found


def _changes(path: str) -> OSError:
    return OSError(errno.EAGAIN, "the tree changes meanwhile", path)


def destroy(fd: int, number: int) -> None:
    """Remove a subvolume that has none nested in it, and its quota groups. `fd` is on its file system."""
    btrfs.destroy_id(fd, number)
    quotas.forget(fd, number)


def remove_below(top: int) -> None:
    """Remove all subvolumes below an open directory, which becomes writable. OSError (EAGAIN, EBUSY)."""
    found = below(top)
    # From a subvolume that is read-only nothing nested in it can go.
    if os.fstat(top).st_ino == btrfs.SUBVOLUME_INODE:
        btrfs.set_read_only(top, False)
    for number, path in found:
        with _open(top, path, number) as inner:
            btrfs.set_read_only(inner.fileno(), False)
    for number, _ in reversed(found):
        destroy(top, number)


def make_read_only(top: int) -> None:
    """The subvolume of an open directory, its root, and all that is nested in it."""
    for number, path in reversed(below(top)):
        with _open(top, path, number) as inner:
            btrfs.set_read_only(inner.fileno(), True)
    btrfs.set_read_only(top, True)


def snapshot(source: int, parent: int, name: str) -> None:
    """Snapshot a subvolume, open at its root, as a new one in an open directory, with what is nested in it.

    What goes meanwhile is left out, as is what has something mounted over it. OSError: EXDEV when the
    directory is on another file system, EAGAIN when nested subvolumes are moved.
    """
    _snapshot(source, parent, name, set())


def _snapshot(source: int, parent: int, name: str, made: set[int]) -> None:
    # Before the snapshot: what comes later has no place in it.
    inside = btrfs.children(source, btrfs.info(source).id)
    btrfs.snapshot(source, parent, name, read_only=False)
    with OwnedFd(os.open(name, _DIRECTORY, dir_fd=parent)) as copy:
        made.add(btrfs.info(copy.fileno()).id)
        with contextlib.suppress(OSError):
            quotas.inherit(copy.fileno(), source)
        with contextlib.suppress(OSError):
            # Of what layers are over, or somebody else's: nothing could be put into its place.
            filesystem.set_attributes_of(copy.fileno(), 0, filesystem.IMMUTABLE)
        for number, path in inside:
            # A copy that lies in its own original is no part of itself.
            if number not in made:
                _snapshot_inside(source, copy.fileno(), number, path, made)


def _snapshot_inside(source: int, copy: int, number: int, path: str, made: set[int]) -> None:
    above, name = os.path.split(path)
    try:
        with _open(source, path, number) as original, _reach(copy, above) as place:
            # The snapshot has an empty directory in its place, if the kernel left one at all.
            with contextlib.suppress(FileNotFoundError):
                os.rmdir(name, dir_fd=place.fileno())
            _snapshot(original.fileno(), place.fileno(), name, made)
    except OSError as error:
        if error.errno not in {*_MOVED, errno.EAGAIN, errno.EBUSY, errno.ENOTEMPTY, errno.EEXIST}:
            raise
        inside = dict(btrfs.children(source, btrfs.info(source).id))
        if number not in inside or error.errno == errno.EBUSY:
            return
        raise _changes(path) from error
