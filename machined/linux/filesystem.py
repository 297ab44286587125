# SPDX-License-Identifier: LGPL-2.1-or-later
"""Files beyond what os has: attributes, renaming without replacing, reflinks, read-only disks."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import struct
from typing import TYPE_CHECKING, Final

from machined.linux import statx
from machined.linux.fds import OwnedFd
from machined.linux.filedata import copy_data, share_data
from machined.linux.syscalls import AT_FDCWD

if TYPE_CHECKING:
    from machined.linux.filedata import Reflink

# <linux/fs.h>
IMMUTABLE: Final = 0x10
APPEND_ONLY: Final = 0x20
NO_COPY_ON_WRITE: Final = 0x0080_0000
_LONG: Final = struct.calcsize("l")
_GETFLAGS: Final = 2 << 30 | _LONG << 16 | ord("f") << 8 | 1
_SETFLAGS: Final = 1 << 30 | _LONG << 16 | ord("f") << 8 | 2
_BLKROSET, _BLKROGET, _BLKGETSIZE64 = 0x125D, 0x125E, 2 << 30 | _LONG << 16 | 0x12 << 8 | 114
_BTRFS_DEFRAG: Final = 1 << 30 | 4096 << 16 | 0x94 << 8 | 2
_RENAME_NOREPLACE: Final = 1
_LOOK: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_CANNOT_TRY: Final = frozenset(
    {errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOSPC, errno.EDQUOT, errno.EROFS}
)
# Written by importers: 64 bits, little endian, µs.
CREATED: Final = "user.crtime_usec"


def attributes(path: str) -> int:
    """The file attributes (chattr(1)) of a file or directory; OSError where there are none."""
    with OwnedFd(os.open(path, _LOOK | os.O_NOFOLLOW)) as fd:
        return attributes_of(fd.fileno())


def attributes_of(fd: int) -> int:
    """As attributes(), of what is open."""
    return int.from_bytes(fcntl.ioctl(fd, _GETFLAGS, bytes(_LONG))[:4], "little")


def set_attributes(path: str, value: int, mask: int) -> None:
    """Set those attributes of `mask` that are in `value`, clear the others of it."""
    with OwnedFd(os.open(path, _LOOK)) as fd:
        set_attributes_of(fd.fileno(), value, mask)


def set_attributes_at(directory: int, name: str, value: int, mask: int) -> None:
    """As set_attributes(), of a regular file or directory in an open one; follows no link."""
    with OwnedFd(os.open(name, _LOOK | os.O_NOFOLLOW, dir_fd=directory)) as fd:
        set_attributes_of(fd.fileno(), value, mask)


def set_attributes_of(fd: int, value: int, mask: int) -> None:
    """As set_attributes(), of what is open."""
    before = attributes_of(fd)
    wanted = before & ~mask | value & mask
    if wanted != before:
        fcntl.ioctl(fd, _SETFLAGS, wanted.to_bytes(_LONG, "little"))


def rename_noreplace(source: str, target: str, *, dir_fd: int = AT_FDCWD) -> None:
    """Rename within a file system; FileExistsError when the target is there. Never follows links.

    Paths are relative to `dir_fd`.
    """
    import ctypes  # here, since whoever only looks at images does without

    library = ctypes.CDLL(None, use_errno=True)
    arguments = (dir_fd, os.fsencode(source), dir_fd, os.fsencode(target))
    if library.renameat2(*arguments, ctypes.c_uint(_RENAME_NOREPLACE)) >= 0:
        return
    number = ctypes.get_errno()
    if number not in {errno.EINVAL, errno.ENOSYS}:
        raise OSError(number, os.strerror(number), source)
    # A file system that cannot: whoever else takes the name holds its lock first.
    with contextlib.suppress(FileNotFoundError):
        os.stat(target, dir_fd=dir_fd, follow_symlinks=False)
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target)
    os.rename(source, target, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)


def created_usec(path: str) -> int:
    """When a file was made (µs, 0 unknown): the earlier of what importers wrote and the file system says."""
    return _earlier(path, statx.birth_time_usec(path))


def look(path: str) -> tuple[int, bool]:
    """When a file was made, as created_usec(), and whether it is immutable. Follows links."""
    born, immutable = statx.birth_and_immutable(path)
    if immutable is None:
        try:
            immutable = bool(attributes(os.path.realpath(path)) & IMMUTABLE)
        except OSError:
            immutable = False
    return _earlier(path, born), immutable


def _earlier(path: str, born: int) -> int:
    try:
        recorded = int.from_bytes(os.getxattr(path, CREATED), "little")
    except OSError:
        recorded = 0
    return min(filter(None, (recorded, born)), default=0)


def copy_file(
    source: str, target: str, mode: int, *, reflink: Reflink = "auto", like_image: bool = False
) -> None:
    """A new file with a regular file's data, of this mode whatever the umask. FileExistsError.

    `reflink`: as filedata.copy_data(). With `like_image` when it was made, its times and whether it is
    copied on write are those of the source, as far as the file system goes along.
    """
    with OwnedFd(os.open(source, _LOOK)) as old:
        status = os.fstat(old.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EBADFD, "not a regular file", source)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with OwnedFd(os.open(target, flags, 0o600)) as new:
            if like_image:
                with contextlib.suppress(OSError):  # before there is data, or it has no effect
                    kept = attributes_of(old.fileno()) & NO_COPY_ON_WRITE
                    set_attributes_of(new.fileno(), kept, NO_COPY_ON_WRITE)
            copy_data(old.fileno(), new.fileno(), status.st_size, reflink)
            if os.fstat(old.fileno()).st_size < status.st_size:
                raise OSError(errno.EIO, "the file shrank while it was copied")
            if like_image and (created := created_usec(source)):
                with contextlib.suppress(OSError):
                    os.setxattr(new.fileno(), CREATED, created.to_bytes(8, "little"))
            os.fchmod(new.fileno(), mode)
            if like_image:
                os.utime(new.fileno(), ns=(status.st_atime_ns, status.st_mtime_ns))


def supports_reflink(directory: str) -> bool:
    """Whether files of a directory can share blocks: tried with two files without names. Raises OSError."""
    flags = os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC
    try:
        with OwnedFd(os.open(directory, flags, 0o600)) as one:
            os.write(one.fileno(), b"x" * 4096)
            with OwnedFd(os.open(directory, flags, 0o600)) as two:
                return share_data(one.fileno(), two.fileno())
    except OSError as error:
        # No room to try it in, no such files, or nothing can be written here: then nothing can be shared.
        if error.errno in _CANNOT_TRY:
            return False
        raise


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
