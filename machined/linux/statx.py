# SPDX-License-Identifier: LGPL-2.1-or-later
"""What stat(2) does not tell: the time of birth, and which kind of file system a path is on."""

from __future__ import annotations

import struct
from typing import Final

from machined.linux import syscalls

AT_FDCWD: Final = -100
STATX_BTIME: Final = 0x800
STATX_MNT_ID: Final = 0x1000
_STRUCT_SIZE: Final = 256
# Offsets in struct statx (linux/stat.h): stx_mask, and stx_btime after stx_atime.
_MASK: Final = 0
_ATTRIBUTES_MASK: Final = 0x38
_BTIME: Final = 0x50
_MNT_ID: Final = 0x90

_ATTR_IMMUTABLE: Final = 0x10
BTRFS_SUPER_MAGIC: Final = 0x9123683E


def birth_time_usec(path: str) -> int:
    """When a file was made, µs realtime; 0 where it is not recorded. Follows links; OSError."""
    return birth_and_immutable(path)[0]


def birth_and_immutable(path: str) -> tuple[int, bool | None]:
    """When a file was made, and whether it is immutable: None where the file system does not say here."""
    buffer = syscalls.statx(AT_FDCWD, path, 0, STATX_BTIME, _STRUCT_SIZE)
    mask, attributes = struct.unpack_from("=I4xQ", buffer, _MASK)
    (known,) = struct.unpack_from("=Q", buffer, _ATTRIBUTES_MASK)
    immutable = bool(attributes & _ATTR_IMMUTABLE) if known & _ATTR_IMMUTABLE else None
    if not mask & STATX_BTIME:
        return 0, immutable
    seconds, nanoseconds = struct.unpack_from("=qI", buffer, _BTIME)
    return int(seconds * 1_000_000 + nanoseconds // 1000), immutable


def filesystem_type(path: str) -> int:
    """The magic number (statfs(2)) of the file system that a path is on. Raises OSError."""
    (magic,) = struct.unpack_from("@l", syscalls.statfs(path))
    return int(magic & 0xFFFF_FFFF)


def is_btrfs(path: str) -> bool:
    """Whether a path is on btrfs. Raises OSError."""
    return filesystem_type(path) == BTRFS_SUPER_MAGIC


def mount_id(fd: int) -> int:
    """Which mount an open file is seen by (Linux 5.8). OSError."""
    buffer = syscalls.statx(fd, "", syscalls.AT_EMPTY_PATH, STATX_MNT_ID, _STRUCT_SIZE)
    (number,) = struct.unpack_from("=Q", buffer, _MNT_ID)
    return int(number)
