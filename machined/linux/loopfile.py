# SPDX-License-Identifier: LGPL-2.1-or-later
"""A btrfs in a file: which file is behind a mount, how to mount one, and how it grows while it is in use.

The numbers are those of linux/loop.h and linux/btrfs.h. OSError everywhere.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
from dataclasses import dataclass
from typing import Final

from machined.linux import btrfs, mounts, trees
from machined.linux.fds import OwnedFd

_LOOP_GET_STATUS64: Final = 0x4C05
_LOOP_SET_CAPACITY: Final = 0x4C07
_LOOP_INFO64: Final = struct.Struct("=5Q4I64s64s32s2Q")
_BTRFS_RESIZE: Final = 1 << 30 | 4096 << 16 | 0x94 << 8 | 3
_OPEN: Final = os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK | os.O_NOFOLLOW


@dataclass(frozen=True, slots=True)
class LoopFile:
    """A file that is mounted somewhere. Sizes are bytes."""

    device: str
    path: str
    """Where the kernel says it is now; it follows a renaming."""
    size: int
    allocated: int
    """What it takes of the file system that it lies on."""


def find(directory: str) -> LoopFile | None:
    """The file whose btrfs is mounted at a directory, and seen there; None when there is none."""
    place = os.path.realpath(directory)
    seen = [mount for mount in mounts.mount_points() if mount.target == place]
    if not seen or seen[-1].fstype != "btrfs" or not seen[-1].source.startswith("/dev/loop"):
        return None
    device = seen[-1].source
    number, inode = behind(device)
    try:
        with open(f"/sys/block/{os.path.basename(device)}/loop/backing_file", "rb") as file:
            path = os.fsdecode(file.read().removesuffix(b"\n"))
        status = os.stat(path)
    except FileNotFoundError:
        return None
    if (status.st_dev, status.st_ino) != (number, inode):
        return None  # unlinked, or seen from another mount namespace
    return LoopFile(device, path, status.st_size, status.st_blocks * 512)


def behind(device: str) -> tuple[int, int]:
    """Device and inode number of the file behind a loop device."""
    with OwnedFd(os.open(device, os.O_RDONLY | _OPEN)) as fd:
        if not stat.S_ISBLK(os.fstat(fd.fileno()).st_mode):
            raise OSError(errno.ENOTBLK, os.strerror(errno.ENOTBLK), device)
        number, inode, *_ = _LOOP_INFO64.unpack(
            fcntl.ioctl(fd.fileno(), _LOOP_GET_STATUS64, bytes(_LOOP_INFO64.size))
        )
    return int(number), int(inode)


def mount(file: str, directory: str, *, read_only: bool = False) -> None:
    """Mount the btrfs in a file; the loop device goes with the mount."""
    options = "loop,ro" if read_only else "loop"
    trees.run("mount", "-t", "btrfs", "-o", options, "--", file, directory)


def set_read_only(directory: str, read_only: bool) -> None:
    """Let nobody write to what is mounted at a directory, by whatever mount, or let them again.

    EBUSY while something is open for writing there.
    """
    try:
        trees.run("mount", "-o", "remount,ro" if read_only else "remount,rw", "--", directory)
    except OSError as error:
        if error.errno == errno.EIO and "busy" in (error.strerror or ""):  # its words for it
            raise OSError(errno.EBUSY, "something in it is open for writing", directory) from error
        raise


def make(file: str, size: int) -> None:
    """A new file of this size without any blocks, and an empty btrfs in it.

    FileExistsError; FileNotFoundError naming mkfs.btrfs when that is not installed.
    """
    with OwnedFd(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _OPEN, 0o600)) as fd:
        os.ftruncate(fd.fileno(), size)
    trees.run("mkfs.btrfs", "--quiet", "--label", "machines", "--", file)


def grow(directory: str, size: int) -> None:
    """Make the file behind a directory, and the btrfs in it, this large, while it is in use.

    A file that is larger already stays so. After an error all is as large as it was.
    """
    found = find(directory)
    if found is None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP), directory)
    with (
        OwnedFd(os.open(found.path, os.O_RDWR | _OPEN)) as file,
        OwnedFd(os.open(found.device, os.O_RDWR | _OPEN)) as device,
        btrfs.open_directory(directory) as top,
    ):
        status = os.fstat(file.fileno())
        if (status.st_dev, status.st_ino) != behind(found.device):
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), found.path)
        before = status.st_size
        try:
            if size > before:
                os.ftruncate(file.fileno(), size)
            fcntl.ioctl(device.fileno(), _LOOP_SET_CAPACITY)
            fcntl.ioctl(
                top.fileno(), _BTRFS_RESIZE, bytearray(struct.pack("=q", 0) + b"max".ljust(4088, b"\0"))
            )
            os.fsync(file.fileno())
        except OSError:
            if size > before and os.statvfs(directory).f_blocks * os.statvfs(directory).f_frsize <= before:
                os.ftruncate(file.fileno(), before)
                fcntl.ioctl(device.fileno(), _LOOP_SET_CAPACITY)
            raise
