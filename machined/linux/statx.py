# SPDX-License-Identifier: LGPL-2.1-or-later
"""What stat(2) does not tell: the time of birth, and which kind of file system a path is on."""

from __future__ import annotations

import struct
from typing import Final

from machined.linux import syscalls

AT_FDCWD: Final = -100
STATX_BTIME: Final = 0x800
_STRUCT_SIZE: Final = 256
# Offsets in struct statx (linux/stat.h): stx_mask, and stx_btime after stx_atime.
_MASK: Final = 0
_BTIME: Final = 0x50

BTRFS_SUPER_MAGIC: Final = 0x9123683E


def birth_time_usec(path: str) -> int:
    """When a file was made, µs realtime; 0 where it is not recorded. Follows links; OSError."""
    buffer = syscalls.statx(AT_FDCWD, path, 0, STATX_BTIME, _STRUCT_SIZE)
    (mask,) = struct.unpack_from("=I", buffer, _MASK)
    if not mask & STATX_BTIME:
        return 0
    seconds, nanoseconds = struct.unpack_from("=qI", buffer, _BTIME)
    return int(seconds * 1_000_000 + nanoseconds // 1000)


def is_btrfs(path: str) -> bool:
    """Whether a path is on btrfs. Raises OSError."""
    (magic,) = struct.unpack_from("@l", syscalls.statfs(path))
    return bool(magic & 0xFFFF_FFFF == BTRFS_SUPER_MAGIC)
