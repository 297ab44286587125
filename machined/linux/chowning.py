# SPDX-License-Identifier: LGPL-2.1-or-later
"""A whole tree, given from one range of users to another: what systemd-nspawn's chown did, undone.

Nobody runs on the tree, but a guest has made it: every step is relative to a descriptor and follows no link.
The root directory comes last and says to which range the tree belongs, and what is in the new range already
is left alone, so whoever does it again after a crash finishes it. For machined.linux.worker: it takes long.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from machined.linux import btrfs, filesystem, statx
from machined.linux.fds import OwnedFd
from machined.linux.filedata import ACCESS_ACL, DEFAULT_ACL
from machined.linux.overlay import SHIFT
from machined.linux.treecopy import DEPTH_MAX, unlimit

_COMMON: Final = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | _COMMON
_PIN: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_PERMISSIONS: Final = 0o7777
_SET_ID: Final = stat.S_ISUID | stat.S_ISGID
_CAPABILITY: Final = "security.capability"
_KEPT: Final = filesystem.IMMUTABLE | filesystem.APPEND_ONLY
# What the kernel takes from a file that gets another owner is noted here until it is there again, so that it
# is not lost by a crash. No guest with users of its own can write this (xattr(7)).
_NOTE: Final = "trusted.machined.chown"
_NO_ATTRIBUTES: Final = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.ENODATA})
_NO_NOTES: Final = _NO_ATTRIBUTES | {errno.EPERM, errno.ENOSPC, errno.EDQUOT, errno.E2BIG}
# <linux/posix_acl_xattr.h>: a version, then entries of tag, permissions, id.
_ACL_VERSION: Final = struct.pack("<I", 2)
_ACL_ENTRY: Final = struct.Struct("<HHI")
_NAMED: Final = frozenset({0x02, 0x08})
"""Tags whose ids count: ACL_USER, ACL_GROUP."""
# <linux/capability.h>: the revision in the upper byte; the third names the root user of a user namespace.
_REVISION: Final = 0xFF00_0000
_REVISION_2: Final = 0x0200_0000
_REVISION_3: Final = 0x0300_0000
_SIZE_3: Final = 24


def chown_tree(path: str, target: int) -> tuple[int, int]:
    """Give a tree to the range that begins with this user; whose it was its root directory says.

    Returns how many files were changed, and how many belong to users (or groups) of neither range, or are
    mounted there, and stay as they are. OSError; all that was changed by then stays so.
    """
    unlimit()
    with OwnedFd(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)) as top:
        owner = os.fstat(top.fileno())
        if owner.st_uid & SHIFT != owner.st_gid & SHIFT:
            text = f"user {owner.st_uid} and group {owner.st_gid} of its root are not of one range"
            raise OSError(errno.EINVAL, text)
        work = _Chowner(owner.st_uid & SHIFT, target, statx.mount_id(top.fileno()))
        if work.source != target:
            work.directory(top.fileno(), 0)
        return work.changed, work.left


class _Chowner:
    def __init__(self, source: int, target: int, mount: int) -> None:
        self.source = source
        self._target = target
        self._mount = mount
        self.changed = 0
        self.left = 0

    def directory(self, fd: int, depth: int) -> None:
        """What is in an open directory, then the directory itself."""
        if depth > DEPTH_MAX:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        with _writable(fd):
            with os.scandir(fd) as entries:
                names = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
            for name, is_directory in names:
                with contextlib.suppress(FileNotFoundError):
                    self._entry(fd, name, is_directory, depth)
            self._change(fd, os.fstat(fd))

    def _entry(self, parent: int, name: str, is_directory: bool, depth: int) -> None:
        flags = _DIRECTORY if is_directory else _PIN
        with OwnedFd(os.open(name, flags, dir_fd=parent)) as found:
            fd = found.fileno()
            # What is nested in a subvolume is seen by the same mount, and part of the tree.
            if statx.mount_id(fd) != self._mount:
                self.left += 1
            elif is_directory:
                self.directory(fd, depth + 1)
            elif stat.S_ISDIR((status := os.fstat(fd)).st_mode):
                raise OSError(errno.EAGAIN, "the tree changes meanwhile", name)
            else:
                self._change(fd, status)

    # -- one file ------------------------------------------------------------------------------------------

    def _shifted(self, number: int) -> int:
        """The user in the place of this one; itself where it is not of the range that is left."""
        return number - self.source + self._target if number & SHIFT == self.source else number

    def _is_strange(self, number: int) -> bool:
        return number & SHIFT not in {self.source, self._target}

    def _change(self, fd: int, status: os.stat_result) -> None:
        """Files that are not directories are only pinned: what they are is changed by /proc."""
        path = f"/proc/self/fd/{fd}"
        owner = self._shifted(status.st_uid), self._shifted(status.st_gid)
        changes = owner != (status.st_uid, status.st_gid)
        strange = self._is_strange(status.st_uid) or self._is_strange(status.st_gid)
        lists: list[tuple[str, bytes]] = []
        if not stat.S_ISLNK(status.st_mode):
            for name in _attributes(path):
                if name in {ACCESS_ACL, DEFAULT_ACL}:
                    before = os.getxattr(path, name)
                    after = self._acl(before)
                    lists += [(name, after)] if after != before else []
                elif name == _NOTE and not changes:
                    self._give_back(path)
        if changes or lists:
            try:
                self._apply(path, status, owner, lists)
            except PermissionError:
                if not (flags := _kept_by(path, status)):
                    raise
                with _mutable(path, flags):
                    self._apply(path, status, owner, lists)
            self.changed += 1
        self.left += strange

    def _apply(
        self, path: str, status: os.stat_result, owner: tuple[int, int], lists: list[tuple[str, bytes]]
    ) -> None:
        for name, value in lists:
            os.setxattr(path, name, value)
        if owner != (status.st_uid, status.st_gid):
            self._give(path, status, owner)

    def _give(self, path: str, status: os.stat_result, owner: tuple[int, int]) -> None:
        # Neither is taken from directories, and links have none.
        has_any = not (stat.S_ISDIR(status.st_mode) or stat.S_ISLNK(status.st_mode))
        capability = _get(path, _CAPABILITY) if has_any else None
        if not has_any or not (status.st_mode & _SET_ID or capability is not None):
            os.chown(path, *owner)
            return
        with _uninterrupted():
            note = _get(path, _NOTE)  # of an attempt before, which may have come further than the owner
            if note is None:
                note = struct.pack("<I", status.st_mode & _PERMISSIONS) + (capability or b"")
                try:
                    os.setxattr(path, _NOTE, note)
                except OSError as error:
                    if error.errno not in _NO_NOTES:
                        raise
            os.chown(path, *owner)
            self._restore(path, note)

    def _give_back(self, path: str) -> None:
        """What a file lost that got its owner right before a crash."""
        note = _get(path, _NOTE)
        if note is not None and len(note) >= 4:
            with _uninterrupted():
                self._restore(path, note)
            self.changed += 1

    def _restore(self, path: str, note: bytes) -> None:
        os.chmod(path, struct.unpack_from("<I", note)[0] & _PERMISSIONS)
        if capability := note[4:]:
            os.setxattr(path, _CAPABILITY, self._capability(capability))
        with contextlib.suppress(OSError):
            os.removexattr(path, _NOTE)

    def _acl(self, value: bytes) -> bytes:
        """An access control list with its users and groups shifted; what is none stays as it is."""
        if not value.startswith(_ACL_VERSION) or (len(value) - 4) % _ACL_ENTRY.size:
            return value
        entries = _ACL_ENTRY.iter_unpack(value[4:])
        return _ACL_VERSION + b"".join(
            _ACL_ENTRY.pack(tag, mode, self._shifted(number) if tag in _NAMED else number)
            for tag, mode, number in entries
        )

    def _capability(self, value: bytes) -> bytes:
        """Capabilities for the root of the new range; those that count in all machines stay so."""
        if len(value) != _SIZE_3 or struct.unpack_from("<I", value)[0] & _REVISION != _REVISION_3:
            return value
        (magic,) = struct.unpack_from("<I", value)
        root = self._shifted(struct.unpack_from("<I", value, _SIZE_3 - 4)[0])
        if root == 0:
            return struct.pack("<I", magic & ~_REVISION | _REVISION_2) + value[4 : _SIZE_3 - 4]
        return value[: _SIZE_3 - 4] + struct.pack("<I", root)


# -- what is in the way ------------------------------------------------------------------------------------


@contextmanager
def _writable(fd: int) -> Iterator[None]:
    """A block in which a nested subvolume can be changed that is read-only."""
    closed = False
    if os.fstat(fd).st_ino == btrfs.SUBVOLUME_INODE and statx.is_btrfs(f"/proc/self/fd/{fd}"):
        closed = btrfs.info(fd).read_only
    if not closed:
        yield
        return
    btrfs.set_read_only(fd, False)
    try:
        yield
    finally:
        btrfs.set_read_only(fd, True)


def _kept_by(path: str, status: os.stat_result) -> int:
    """Which attributes (chattr(1)) keep a file as it is; 0 when it is not that."""
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        return 0
    with OwnedFd(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)) as fd:
        try:
            return filesystem.attributes_of(fd.fileno()) & _KEPT
        except OSError:
            return 0


@contextmanager
def _mutable(path: str, flags: int) -> Iterator[None]:
    """A block in which a file has those of its attributes not that keep it as it is."""
    filesystem.set_attributes(path, 0, _KEPT)
    try:
        yield
    finally:
        filesystem.set_attributes(path, flags, _KEPT)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """A block that is not left half done when the operation is told to end."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _attributes(path: str) -> list[str]:
    try:
        return os.listxattr(path)
    except OSError as error:
        if error.errno in _NO_ATTRIBUTES:
            return []
        raise


def _get(path: str, name: str) -> bytes | None:
    try:
        return os.getxattr(path, name)
    except OSError as error:
        if error.errno in _NO_ATTRIBUTES:
            return None
        raise
