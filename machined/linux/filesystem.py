# SPDX-License-Identifier: LGPL-2.1-or-later
"""Files beyond what os has: attributes, renaming without replacing, reflinks, read-only disks."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import struct
from typing import Final

from machined.linux import statx
from machined.linux.fds import OwnedFd
from machined.linux.filedata import copy_data
from machined.linux.syscalls import AT_FDCWD

# <linux/fs.h>
IMMUTABLE: Final = 0x10
NO_COPY_ON_WRITE: Final = 0x0080_0000
_LONG: Final = struct.calcsize("l")
_GETFLAGS: Final = 2 << 30 | _LONG << 16 | ord("f") << 8 | 1
_SETFLAGS: Final = 1 << 30 | _LONG << 16 | ord("f") << 8 | 2
_BLKROSET, _BLKROGET, _BLKGETSIZE64 = 0x125D, 0x125E, 2 << 30 | _LONG << 16 | 0x12 << 8 | 114
_BTRFS_DEFRAG: Final = 1 << 30 | 4096 << 16 | 0x94 << 8 | 2
_RENAME_NOREPLACE: Final = 1
_LOOK: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
# Written by importers: 64 bits, little endian, µs.
CREATED: Final = "user.crtime_usec"


def attributes(path: str) -> int:
    """The file attributes (chattr(1)) of a file or directory; OSError where there are none."""
    with OwnedFd(os.open(path, _LOOK | os.O_NOFOLLOW)) as fd:
        return _attributes(fd)


def _attributes(fd: OwnedFd) -> int:
    return int.from_bytes(fcntl.ioctl(fd.fileno(), _GETFLAGS, bytes(_LONG))[:4], "little")


def set_attributes(path: str, value: int, mask: int) -> None:
    """Set those attributes of `mask` that are in `value`, clear the others of it."""
    with OwnedFd(os.open(path, _LOOK)) as fd:
        _set_attributes(fd, value, mask)


def _set_attributes(fd: OwnedFd, value: int, mask: int) -> None:
    before = _attributes(fd)
    wanted = before & ~mask | value & mask
    if wanted != before:
        fcntl.ioctl(fd.fileno(), _SETFLAGS, wanted.to_bytes(_LONG, "little"))


def rename_noreplace(source: str, target: str) -> None:
    """Rename within a file system; FileExistsError when the target is there. Never follows links."""
    import ctypes  # here, since whoever only looks at images does without

    library = ctypes.CDLL(None, use_errno=True)
    arguments = (AT_FDCWD, os.fsencode(source), AT_FDCWD, os.fsencode(target))
    if library.renameat2(*arguments, ctypes.c_uint(_RENAME_NOREPLACE)) >= 0:
        return
    number = ctypes.get_errno()
    if number not in {errno.EINVAL, errno.ENOSYS}:
        raise OSError(number, os.strerror(number), source)
    # A file system that cannot: whoever else takes the name holds its lock first.
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target)
    os.rename(source, target)


def created_usec(path: str) -> int:
    """When a file was made (µs, 0 unknown): the earlier of what importers wrote and the file system says."""
    try:
        recorded = int.from_bytes(os.getxattr(path, CREATED), "little")
    except OSError:
        recorded = 0
    return min(filter(None, (recorded, statx.birth_time_usec(path))), default=0)


def copy_file(source: str, target: str, mode: int, *, keep_created: bool = False) -> None:
    """A new file with a regular file's data, of this mode whatever the umask. FileExistsError."""
    with OwnedFd(os.open(source, _LOOK)) as old:
        if not stat.S_ISREG(os.fstat(old.fileno()).st_mode):
            raise OSError(errno.EBADFD, "not a regular file", source)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with OwnedFd(os.open(target, flags, 0o600)) as new:
            size = os.fstat(old.fileno()).st_size
            copy_data(old.fileno(), new.fileno(), size)
            if os.fstat(old.fileno()).st_size < size:
                raise OSError(errno.EIO, "the file shrank while it was copied")
            if keep_created and (created := created_usec(source)):
                with contextlib.suppress(OSError):
                    os.setxattr(new.fileno(), CREATED, created.to_bytes(8, "little"))
            os.fchmod(new.fileno(), mode)
            os.fsync(new.fileno())


def defragment(path: str) -> None:
    """Lay a file out anew on btrfs."""
    with OwnedFd(os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)) as fd:
        fcntl.ioctl(fd.fileno(), _BTRFS_DEFRAG, bytearray(4096))


def disk(path: str) -> tuple[int, bool]:
    """Bytes of a block device, and whether it is read-only."""
    with OwnedFd(os.open(path, _LOOK)) as fd:
        read_only = fcntl.ioctl(fd.fileno(), _BLKROGET, bytes(4))
        size = fcntl.ioctl(fd.fileno(), _BLKGETSIZE64, bytes(8))
    return int.from_bytes(size, "little"), any(read_only)


def set_disk_read_only(path: str, read_only: bool) -> None:
    with OwnedFd(os.open(path, _LOOK)) as fd:
        if not stat.S_ISBLK(os.fstat(fd.fileno()).st_mode):
            raise OSError(errno.ENOTTY, os.strerror(errno.ENOTTY), path)
        fcntl.ioctl(fd.fileno(), _BLKROSET, int(read_only).to_bytes(4, "little"))
