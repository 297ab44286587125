# SPDX-License-Identifier: LGPL-2.1-or-later
"""A whole tree, copied into a new directory that nobody else can reach yet: exact, and as fast as cp(1).

The source may belong to a guest that changes it meanwhile: every step is relative to a descriptor and
follows no link. Kept are owners, modes, times, hard links, holes, device nodes, sockets, FIFOs, and the
extended attributes of every namespace, ACLs and capabilities among them; not the attributes of chattr(1),
which systemd's tools do not keep either. What goes while it is copied is left out, as is what is mounted
there.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, Final

from machined.linux import mounts, statx
from machined.linux.filedata import copy_all_attributes, copy_data, share_data
from machined.linux.treecopy import DEPTH_MAX, LINKS_MAX, unlimit

if TYPE_CHECKING:
    from machined.linux.filedata import Reflink

_COMMON: Final = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_FILE: Final = os.O_RDONLY | _COMMON
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | _COMMON
_PIN: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_PERMISSIONS: Final = 0o7777
_SMALL: Final = 128 * 1024
"""Files up to this size are read at once: cheaper than asking for their holes."""


def fill(source: str, target: str, reflink: Reflink = "auto") -> None:
    """Copy what is in a directory, and what the directory itself is like, over an empty one of ours.

    `reflink`: as filedata.copy_data(). OSError, and then what is there so far stays: the caller's to remove.
    """
    unlimit()
    inside = os.path.realpath(source).rstrip("/") + "/"
    mounted = any(mount.target.startswith(inside) for mount in mounts.mount_points())
    inner = os.open(source, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        outer = os.open(target, _DIRECTORY)
        try:
            os.fchmod(outer, 0o700)  # its own mode comes last
            _Cloner(inner, outer, reflink, mounted).directory(inner, outer, os.fstat(inner), ())
        finally:
            os.close(outer)
    finally:
        os.close(inner)


class _Cloner:
    def __init__(self, inner: int, outer: int, reflink: Reflink, mounted: bool) -> None:
        self._top = outer
        self._own = _inode(os.fstat(outer))  # a target inside the source is left out
        self._reflink = reflink
        self._shares = reflink != "never"
        # Asked for only where something is mounted in the tree (that of the host above all).
        self._mount = statx.mount_id(inner) if mounted else None
        self._links: dict[tuple[int, int], str] = {}

    def directory(self, inner: int, outer: int, status: os.stat_result, path: tuple[str, ...]) -> None:
        """Fill a new directory; its own attributes come last, since all that is made in it changes them."""
        if len(path) > DEPTH_MAX:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        if self._mount is None or statx.mount_id(inner) == self._mount:
            with os.scandir(inner) as entries:
                for entry in entries:
                    try:
                        self._entry(entry, inner, outer, path)
                    except _GoneError:
                        continue
        _finish(inner, outer, status)

    def _entry(self, entry: os.DirEntry[str], inner: int, outer: int, path: tuple[str, ...]) -> None:
        # By what the directory says, which a guest may have changed since: the descriptor decides.
        if entry.is_dir(follow_symlinks=False):
            self._subdirectory(entry.name, inner, outer, path)
            return
        if entry.is_file(follow_symlinks=False):
            source = _open_file(entry.name, inner)
            if source is not None:
                try:
                    status = os.fstat(source)
                    if stat.S_ISREG(status.st_mode):
                        if not self._link(status, entry.name, outer, path):
                            self._file(source, status, entry.name, outer)
                        return
                finally:
                    os.close(source)
        self._node(entry.name, inner, outer, path)

    def _subdirectory(self, name: str, inner: int, outer: int, path: tuple[str, ...]) -> None:
        with _gone():
            source = os.open(name, _DIRECTORY, dir_fd=inner)
        try:
            status = os.fstat(source)
            if _inode(status) == self._own:
                return
            os.mkdir(name, 0o700, dir_fd=outer)
            target = os.open(name, _DIRECTORY, dir_fd=outer)
            try:
                self.directory(source, target, status, (*path, name))
            finally:
                os.close(target)
        finally:
            os.close(source)

    def _file(self, source: int, status: os.stat_result, name: str, outer: int) -> None:
        target = os.open(name, _CREATE, 0o600, dir_fd=outer)
        try:
            if status.st_size:
                self._data(source, target, status)
            _finish(source, target, status)
        finally:
            os.close(target)

    def _data(self, source: int, target: int, status: os.stat_result) -> None:
        if self._shares:
            if share_data(source, target):
                return
            if self._reflink == "always":
                raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
            self._shares = False  # nor will the next one
        if status.st_size <= _SMALL and status.st_blocks * 512 >= status.st_size:
            data = os.read(source, _SMALL + 1)
            if len(data) <= _SMALL and os.write(target, data) == len(data):
                return
            os.lseek(source, 0, os.SEEK_SET)
            os.lseek(target, 0, os.SEEK_SET)
        copy_data(source, target, status.st_size, "never" if self._reflink == "never" else "tried")

    def _node(self, name: str, inner: int, outer: int, path: tuple[str, ...]) -> None:
        """A link, a FIFO, a socket or a device node."""
        with _gone():
            pinned = os.open(name, _PIN, dir_fd=inner)
        try:
            status = os.fstat(pinned)
            if stat.S_ISDIR(status.st_mode) or stat.S_ISREG(status.st_mode):
                raise OSError(errno.EAGAIN, "the tree changes while it is copied")
            if self._link(status, name, outer, path):
                return
            if stat.S_ISLNK(status.st_mode):
                os.symlink(os.readlink("", dir_fd=pinned), name, dir_fd=outer)
            else:
                os.mknod(name, status.st_mode & ~_PERMISSIONS, status.st_rdev, dir_fd=outer)
            os.chown(name, status.st_uid, status.st_gid, dir_fd=outer, follow_symlinks=False)
            place = f"/proc/self/fd/{outer}/{name}"
            if not stat.S_ISLNK(status.st_mode):
                os.chmod(place, status.st_mode & _PERMISSIONS)
            copy_all_attributes(f"/proc/self/fd/{pinned}", place)
            times = status.st_atime_ns, status.st_mtime_ns
            os.utime(name, ns=times, dir_fd=outer, follow_symlinks=False)
        finally:
            os.close(pinned)

    def _link(self, status: os.stat_result, name: str, outer: int, path: tuple[str, ...]) -> bool:
        """Give a file that was copied already one more name; False if it was not."""
        if status.st_nlink < 2:
            return False
        first = self._links.get(_inode(status))
        if first is None:
            if len(self._links) < LINKS_MAX:
                self._links[_inode(status)] = "/".join((*path, name))
            return False
        try:
            os.link(first, name, src_dir_fd=self._top, dst_dir_fd=outer, follow_symlinks=False)
        except OSError as error:
            # Further away than a path can name, or the file was gone before it was copied.
            if error.errno not in {errno.ENAMETOOLONG, errno.ENOENT, errno.EMLINK}:
                raise
            return False
        return True


class _GoneError(Exception):
    """An entry has gone since its directory was read."""


class _gone:
    """What is not found in this block has gone."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, FileNotFoundError):
            raise _GoneError from None


def _open_file(name: str, inner: int) -> int | None:
    """A regular file, opened; None when it has become something else."""
    try:
        return os.open(name, _FILE, dir_fd=inner)
    except FileNotFoundError:
        raise _GoneError from None
    except BlockingIOError:
        # Somebody holds a lease of it (fcntl(2)), and is asked to give it back while we wait.
        pinned = os.open(name, _PIN, dir_fd=inner)
        try:
            if stat.S_ISREG(os.fstat(pinned).st_mode):
                return os.open(f"/proc/self/fd/{pinned}", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            os.close(pinned)
    except OSError as error:
        if error.errno not in {errno.ELOOP, errno.ENXIO, errno.ENODEV}:
            raise
    return None


def _finish(source: int, target: int, status: os.stat_result) -> None:
    """Owner, then mode (a new owner takes the set-id bits away), attributes, and times at last."""
    os.fchown(target, status.st_uid, status.st_gid)
    os.fchmod(target, status.st_mode & _PERMISSIONS)
    copy_all_attributes(source, target)
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))


def _inode(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
