# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whole trees and files: copied, renamed, removed. All of it may take long: for machined.linux.worker.

What is made appears complete under its name or not at all: it grows under a hidden name beside it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from machined.linux import btrfs, filesystem, mounts, quotas, statx

PARTIAL: Final = ".#machined-"
"""What grows is called so; nothing that begins like this is an image."""
_ENVIRONMENT: Final = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}
_STDERR_MAX: Final = 64 * 1024
_ERRORS: Final = {
    os.strerror(number): number
    for number in (
        errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EBUSY,
        errno.ENOENT, errno.ELOOP, errno.ENAMETOOLONG, errno.EOPNOTSUPP, errno.ENOTEMPTY, errno.EMFILE,
    )
}  # fmt: skip


def run(*command: str, ignore: str = "") -> None:
    """Run a tool to its end. OSError with what its first complaint was about, EIO when that is not clear.

    Complaints with the text `ignore` are none.
    """
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=_ENVIRONMENT,
    )
    assert process.stderr is not None
    with process, process.stderr:
        complaints = process.stderr.read(_STDERR_MAX).decode(errors="replace")
        while process.stderr.read(_STDERR_MAX):
            continue
    lines = [line for line in complaints.splitlines() if not ignore or ignore not in line]
    if process.returncode and (lines or not complaints):
        for line in lines:
            reason = line.rpartition(": ")[2]
            if reason in _ERRORS:
                raise OSError(_ERRORS[reason], line)
        raise OSError(errno.EIO, complaints.strip() or f"{command[0]} failed ({process.returncode})")


def _partial(target: str) -> str:
    return os.path.join(os.path.dirname(target), f"{PARTIAL}{os.urandom(8).hex()}")


# -- removing ----------------------------------------------------------------------------------------------


def remove(path: str, kind: str, beside: Sequence[str] = ()) -> None:
    """Remove a "tree", a "subvolume" or a "file", then the files beside it, which may be missing.

    Of a link only the link goes. OSError: EBUSY when something is mounted in a tree.
    """
    if kind == "file" or os.path.islink(path):
        os.unlink(path)
    else:
        if kind == "tree":
            with contextlib.suppress(OSError):
                filesystem.set_attributes(path, 0, filesystem.IMMUTABLE)
        _remove_directory(path)
    unlink(beside)


def unlink(paths: Sequence[str]) -> None:
    """Remove files that may be missing, and that are no reason to fail."""
    for path in paths:
        with contextlib.suppress(OSError):
            os.unlink(path)


def _remove_directory(path: str) -> None:
    if os.path.isdir(path) and statx.is_btrfs(path):
        _remove_nested(path)
        if btrfs.is_subvolume(path):
            _destroy(path)
            return
    # Never into what is mounted there; rm knows how to go deeper than the longest path.
    run("rm", "--recursive", "--force", "--one-file-system", "--", path)
    if os.path.lexists(path):
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), path)


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


# -- copying -----------------------------------------------------------------------------------------------


def copy_tree(
    source: str, target: str, read_only: bool = False, beside: Sequence[tuple[str, str]] = ()
) -> None:
    """A copy of a directory or subvolume: a snapshot if that goes, on btrfs a subvolume, else a directory.

    Read-only is the flag of a subvolume, or the immutable attribute. FileExistsError.
    """
    partial = _partial(target)
    made: os.stat_result | None = None
    try:
        _copy_tree(source, partial, read_only)
        made = os.lstat(partial)
        immutable = read_only and not _is_subvolume(partial)
        if immutable:
            # What is immutable cannot be renamed; where it cannot be made so, nothing is to appear at all.
            filesystem.set_attributes(partial, filesystem.IMMUTABLE, filesystem.IMMUTABLE)
            filesystem.set_attributes(partial, 0, filesystem.IMMUTABLE)
        filesystem.rename_noreplace(partial, target)
        if immutable:
            filesystem.set_attributes(target, filesystem.IMMUTABLE, filesystem.IMMUTABLE)
    except BaseException:
        with contextlib.suppress(OSError):
            # By what is there: a signal may have come right after the renaming.
            if made is not None and os.path.samestat(made, os.lstat(target)):
                rename(target, partial)
        with contextlib.suppress(OSError):
            remove(partial, "tree")
        raise
    copy_beside(beside)


def _is_subvolume(path: str) -> bool:
    return not os.path.islink(path) and btrfs.is_subvolume(path)


def _copy_tree(source: str, partial: str, read_only: bool) -> None:
    parent, name = os.path.split(partial)
    with btrfs.open_directory(parent) as directory:
        if not statx.is_btrfs(parent):
            os.mkdir(partial, 0o700)
            _fill(source, partial)
            return
        if not (btrfs.is_subvolume(source) and _snapshots(source, partial)):
            btrfs.create(directory.fileno(), name)
            _fill(source, partial)
    with btrfs.open_directory(partial) as copy, contextlib.suppress(OSError):
        quotas.set_up(copy.fileno())  # without quotas there is nothing to set up
    if read_only:
        _make_read_only(partial)


def _snapshots(source: str, target: str) -> bool:
    """Snapshot a subvolume and, into the copy, what is nested in it. False on another file system."""
    with btrfs.open_directory(source) as original:
        fd = original.fileno()
        with btrfs.open_directory(os.path.dirname(target)) as directory:
            try:
                btrfs.snapshot(fd, directory.fileno(), os.path.basename(target), read_only=False)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                return False
        with contextlib.suppress(OSError), btrfs.open_directory(target) as copy:
            quotas.inherit(copy.fileno(), fd)
        for _, path in btrfs.children(fd, btrfs.info(fd).id):
            place = os.path.join(target, path)
            # The snapshot has an empty directory in its place, if the kernel left one at all.
            with contextlib.suppress(FileNotFoundError):
                os.rmdir(place)
            if not _snapshots(os.path.join(source, path), place):
                raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), path)
    return True


def _make_read_only(top: str) -> None:
    """A subvolume and what is nested in it, the deepest first."""
    with btrfs.open_directory(top) as directory:
        for _, path in btrfs.children(directory.fileno(), btrfs.info(directory.fileno()).id):
            _make_read_only(os.path.join(top, path))
        btrfs.set_read_only(directory.fileno(), True)


def _fill(source: str, target: str) -> None:
    """Copy what is in a directory, and what the directory itself is like, over an empty one."""
    inside = os.path.realpath(source).rstrip("/") + "/"
    # What is mounted in a tree (that of the host above all) is none of it.
    mounted = any(mount.target.startswith(inside) for mount in mounts.mount_points())
    stay = ["--one-file-system"] if mounted else []
    # By "source/." the attributes of the top come along; a target inside the source is left out.
    origin = os.path.join(source, ".")
    run("cp", "--archive", "--reflink=auto", *stay, "--", origin, target, ignore="into itself")


def copy_image(source: str, target: str, mode: int, beside: Sequence[tuple[str, str]] = ()) -> None:
    """A copy of a regular file with this mode. FileExistsError."""
    partial = _partial(target)
    try:
        filesystem.copy_file(source, partial, mode, keep_created=True)
        times = os.stat(source)
        os.utime(partial, ns=(times.st_atime_ns, times.st_mtime_ns))
        filesystem.rename_noreplace(partial, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(partial)
        raise
    _copy_attributes(source, target)
    copy_beside(beside)


def _copy_attributes(source: str, target: str) -> None:
    with contextlib.suppress(OSError):
        mask = filesystem.NO_COPY_ON_WRITE
        filesystem.set_attributes(target, filesystem.attributes(source), mask)


def copy_beside(pairs: Sequence[tuple[str, str]]) -> None:
    """Copy files that may be missing, and that are no reason to fail, over what is there."""
    for source, target in pairs:
        partial = _partial(target)
        try:
            filesystem.copy_file(source, partial, 0o664)
            os.rename(partial, target)
        except OSError:
            unlink([partial])


# -- renaming and marking ----------------------------------------------------------------------------------


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


def unfinished(directory: str) -> list[str]:
    """Paths of what grows in a directory, or was left there by copies that were killed. OSError."""
    return [os.path.join(directory, name) for name in os.listdir(directory) if name.startswith(PARTIAL)]


def sweep(paths: Sequence[str]) -> list[tuple[str, str]]:
    """Remove what copies that were killed have left; what could not be removed, and why."""
    failures = []
    for path in paths:
        try:
            remove(path, "tree" if os.path.isdir(path) else "file")
        except FileNotFoundError:
            continue  # whoever made it has taken it back
        except OSError as error:
            failures.append((path, error.strerror or str(error)))
    return failures
