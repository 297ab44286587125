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
from pathlib import Path
from typing import Final

from machined.linux import btrfs, filesystem, mounts, partials, quotas, statx
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
        _remove_directory(path, kind)
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


def _remove_directory(path: str, kind: str) -> None:
    _check_mounts(path)
    was_immutable = kind == "tree" and _make_mutable(path)
    if os.path.basename(path).startswith(partials.PARTIAL):
        _clear(path)
        return
    with partials.beside(path) as hidden:
        try:
            filesystem.rename_noreplace(path, hidden)
        except OSError as error:
            if error.errno not in _NOT_RENAMABLE:
                if was_immutable:
                    with contextlib.suppress(OSError):
                        filesystem.set_attributes(path, filesystem.IMMUTABLE, filesystem.IMMUTABLE)
                raise
            hidden = path
        _clear(hidden)


def _check_mounts(path: str) -> None:
    if mounts.below(os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))):
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), path)


def _make_mutable(path: str) -> bool:
    """Whether it was immutable."""
    try:
        if not filesystem.attributes(path) & filesystem.IMMUTABLE:
            return False
        filesystem.set_attributes(path, 0, filesystem.IMMUTABLE)
    except OSError:
        return False  # without attributes, or without the right: what comes next says so
    return True


def _clear(path: str) -> None:
    """Remove a directory or subvolume under the name it has."""
    if statx.is_btrfs(path):
        _remove_nested(path)
        if btrfs.is_subvolume(path):
            _destroy(path)
            return
    try:
        _clear_directory(path)
    except PermissionError:
        # Files that are immutable or can only grow: a guest may have made them so.
        _free_files(path)
        _clear_directory(path)


def _clear_directory(path: str) -> None:
    unlimit()
    with btrfs.open_directory(path) as directory:
        deeper = _empty(directory.fileno(), os.fstat(directory.fileno()).st_dev, 0)
    if deeper:
        # rm knows how to go deeper than the longest path.
        run("rm", "--recursive", "--force", "--one-file-system", "--", path)
    else:
        os.rmdir(path)


def _empty(directory: int, device: int, depth: int) -> bool:
    """Remove all that is in a directory of a file system; False, and True when that is too deep."""
    deeper = False
    with os.scandir(directory) as entries:
        found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_directory in found:
        if not is_directory:
            os.unlink(name, dir_fd=directory)
        elif depth == DEPTH_MAX:
            deeper = True
        else:
            inner = os.open(name, _DIRECTORY, dir_fd=directory)
            try:
                if os.fstat(inner).st_dev != device:
                    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), name)
                below = _empty(inner, device, depth + 1)
            finally:
                os.close(inner)
            if not below:
                os.rmdir(name, dir_fd=directory)
            deeper = deeper or below
    return deeper


def _free_files(top: str) -> None:
    """Take what keeps files from being removed from all of a tree. OSError."""
    unlimit()
    for _, directories, files, fd in os.fwalk(top):
        for name in (*directories, *files):
            status = os.stat(name, dir_fd=fd, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode) or stat.S_ISREG(status.st_mode):
                filesystem.set_attributes_at(fd, name, 0, filesystem.IMMUTABLE | filesystem.APPEND_ONLY)


# -- btrfs -------------------------------------------------------------------------------------------------


def _remove_nested(top: str) -> None:
    """Remove the subvolumes below a directory, the deepest first."""
    with btrfs.open_directory(top) as directory:
        fd = directory.fileno()
        around = btrfs.info(fd).id
        inside = Path(top) if btrfs.is_subvolume(top) else _root_of(top)
        below = f"{os.path.realpath(top)}/"
        found: dict[str, int] = {}
        waiting = [(around, os.path.realpath(inside))]
        while waiting:
            parent, where = waiting.pop()
            for child, path in btrfs.children(fd, parent):
                place = os.path.join(where, path)
                if place.startswith(below):
                    found[place] = child
                if place.startswith(below) or below.startswith(f"{place}/"):
                    waiting.append((child, place))
    # From a subvolume that is read-only nothing nested in it can go.
    for place in (os.fspath(inside), *found):
        if f"{os.path.realpath(place)}/".startswith(below):
            _make_writable(place)
    for place in sorted(found, key=lambda place: place.count("/"), reverse=True):
        _destroy(place, found[place])


def _make_writable(path: str) -> None:
    with btrfs.open_directory(path) as directory:
        btrfs.set_read_only(directory.fileno(), False)


def _root_of(path: str) -> Path:
    """The root of the subvolume that a directory is in, as it can be reached from here."""
    place = Path(os.path.realpath(path))
    while place != place.parent and not btrfs.is_subvolume(os.fspath(place)):
        place = place.parent
    return place


def _destroy(path: str, expected: int | None = None) -> None:
    with btrfs.open_directory(os.path.dirname(path)) as parent:
        with btrfs.open_directory(path) as directory:
            number = btrfs.info(directory.fileno()).id
            if expected not in {None, number}:
                raise OSError(errno.EBUSY, "something is mounted over a subvolume", path)
        btrfs.destroy(parent.fileno(), os.path.basename(path))
        quotas.forget(parent.fileno(), number)
