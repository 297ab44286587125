# SPDX-License-Identifier: LGPL-2.1-or-later
"""Subvolumes and quota groups of btrfs, by ioctl (linux/btrfs.h, linux/btrfs_tree.h). OSError everywhere.

A quota group is a number: the level in the upper 16 bits, an id below; that of a subvolume is its own id.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from machined.linux import btrfs_trees, statx
from machined.linux.btrfs_trees import LAST, QUOTA_TREE, ROOT_TREE, Range
from machined.linux.fds import OwnedFd

UNLIMITED: Final = LAST
NO_LIMITS: Final = (UNLIMITED, UNLIMITED)
SUBVOLUME_INODE: Final = 256
"""The inode number of every subvolume's root (BTRFS_FIRST_FREE_OBJECTID)."""

_WRITE, _READ = 1, 2


def _request(direction: int, number: int, size: int) -> int:
    """An ioctl's number (asm-generic/ioctl.h), which btrfs counts below 0x94."""
    return direction << 30 | size << 16 | 0x94 << 8 | number


_SUBVOL_CREATE: Final = _request(_WRITE, 14, 4096)
_SNAP_DESTROY: Final = _request(_WRITE, 15, 4096)
_INO_LOOKUP: Final = _request(_READ | _WRITE, 18, 4096)
_SNAP_CREATE_V2: Final = _request(_WRITE, 23, 4096)
_SUBVOL_GETFLAGS: Final = _request(_READ, 25, 8)
_SUBVOL_SETFLAGS: Final = _request(_WRITE, 26, 8)
_FS_INFO: Final = _request(_READ, 31, 1024)
_QUOTA_CTL: Final = _request(_READ | _WRITE, 40, 16)
_QGROUP_ASSIGN: Final = _request(_WRITE, 41, 24)
_QGROUP_CREATE: Final = _request(_WRITE, 42, 16)
_QGROUP_LIMIT: Final = _request(_READ, 43, 48)
_QUOTA_RESCAN: Final = _request(_WRITE, 44, 64)
_QUOTA_RESCAN_STATUS: Final = _request(_READ, 45, 64)
_GET_SUBVOL_INFO: Final = _request(_READ, 60, 504)

_RDONLY: Final = 1 << 1
_MAX_RFER, _MAX_EXCL = 1, 2


@dataclass(frozen=True, slots=True)
class Subvolume:
    """Times are µs realtime."""

    id: int
    parent: int
    read_only: bool
    created: int
    changed: int


@dataclass(frozen=True, slots=True)
class Quota:
    """Bytes; UNLIMITED where there is no limit."""

    referenced: int
    exclusive: int
    referenced_max: int
    exclusive_max: int


def open_directory(path: str) -> OwnedFd:
    return OwnedFd(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NONBLOCK))


def _do(fd: int, request: int, argument: bytes) -> None:
    fcntl.ioctl(fd, request, bytearray(argument))  # of bytes, Python takes no more than 1024


def is_subvolume(path: str, status: os.stat_result | None = None) -> bool:
    """Whether a path is the root of a subvolume; follows links. `status`: of the path, where it is known."""
    return (status or os.stat(path)).st_ino == SUBVOLUME_INODE and statx.is_btrfs(path)


def file_system_id(path: str) -> bytes:
    """The UUID of the file system that a path is on, whatever subvolume it is in."""
    with open_directory(path) as directory:
        answer = fcntl.ioctl(directory.fileno(), _FS_INFO, bytes(1024))
    return answer[16:32]


def info(fd: int) -> Subvolume:
    """The subvolume that an open directory is in."""
    data = fcntl.ioctl(fd, _GET_SUBVOL_INFO, bytes(504))
    number, parent = struct.unpack_from("=Q256xQ", data)
    (flags,) = struct.unpack_from("=Q", data, 288)
    changed, changed_ns, created, created_ns = struct.unpack_from("=QI4xQI", data, 376)
    return Subvolume(
        number,
        parent,
        bool(flags & 1),  # BTRFS_ROOT_SUBVOL_RDONLY, as it is stored
        created * 1_000_000 + created_ns // 1000,
        changed * 1_000_000 + changed_ns // 1000,
    )


def _arguments(name: str, fd: int = 0) -> bytes:
    raw = os.fsencode(name)
    if len(raw) > 255:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), name)
    return struct.pack("=q", fd) + raw.ljust(4088, b"\0")


def create(parent: int, name: str) -> None:
    """A new, empty subvolume in an open directory."""
    _do(parent, _SUBVOL_CREATE, _arguments(name))


def snapshot(source: int, parent: int, name: str, *, read_only: bool) -> None:
    """A copy-on-write copy of a subvolume; subvolumes nested in it are empty directories of the copy."""
    raw = os.fsencode(name)
    if len(raw) > 255:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), name)
    flags = _RDONLY if read_only else 0
    _do(parent, _SNAP_CREATE_V2, struct.pack("=qQQ32x", source, 0, flags) + raw.ljust(4040, b"\0"))


def destroy(parent: int, name: str) -> None:
    """Remove a subvolume that has none nested in it. ENOTEMPTY if it has."""
    _do(parent, _SNAP_DESTROY, _arguments(name))


def set_read_only(fd: int, read_only: bool) -> None:
    """Set or clear a subvolume's flag. `fd` is open at its root."""
    flags = int.from_bytes(fcntl.ioctl(fd, _SUBVOL_GETFLAGS, bytes(8)), "little")
    wanted = flags | _RDONLY if read_only else flags & ~_RDONLY
    if wanted != flags:
        fcntl.ioctl(fd, _SUBVOL_SETFLAGS, wanted.to_bytes(8, "little"))


def children(fd: int, parent: int) -> list[tuple[int, str]]:
    """Subvolumes nested directly in another one: (id, path below the parent's root)."""
    found = []
    for _, child, data in btrfs_trees.search(fd, Range(ROOT_TREE, btrfs_trees.ROOT_REF, (parent, parent))):
        directory, _, length = struct.unpack_from("=QQH", data)
        name = data[18 : 18 + length]
        answer = bytearray(struct.pack("=QQ", parent, directory).ljust(4096, b"\0"))
        fcntl.ioctl(fd, _INO_LOOKUP, answer)
        above = bytes(answer[16:]).partition(b"\0")[0]
        found.append((child, os.fsdecode(above + name)))
    return found


# -- quota groups ------------------------------------------------------------------------------------------


def enable_quota(fd: int) -> None:
    fcntl.ioctl(fd, _QUOTA_CTL, struct.pack("=QQ", 1, 0))


def is_rescanning(fd: int) -> bool:
    """Whether the kernel counts anew, so that what it says of usage is not to be believed."""
    return bool(struct.unpack_from("=Q", fcntl.ioctl(fd, _QUOTA_RESCAN_STATUS, bytes(64)))[0])


def group(level: int, number: int) -> int:
    return level << 48 | number


def level_of(number: int) -> int:
    return number >> 48


def id_of(number: int) -> int:
    return number & (1 << 48) - 1


def parents(fd: int, number: int) -> list[int]:
    """The groups that a group is counted in. ENOENT becomes []: there are no quotas."""
    wanted = Range(QUOTA_TREE, btrfs_trees.QGROUP_RELATION, (number, number))
    try:
        found = [offset for _, offset, _ in btrfs_trees.search(fd, wanted)]
    except FileNotFoundError:
        return []
    return [other for other in found if level_of(other) > level_of(number)]


def subtree_group(fd: int, subvolume: int) -> int:
    """The group that counts a subvolume with what was put below it: its own where there is none."""
    own = [parent for parent in parents(fd, subvolume) if id_of(parent) == subvolume]
    return min(own, default=subvolume)


def quota(fd: int, number: int) -> Quota:
    """Usage and limits of a group. ENODATA when it is not counted."""
    used, limits = None, NO_LIMITS
    with contextlib.suppress(FileNotFoundError):
        for _, _, data in _group_items(fd, btrfs_trees.QGROUP_INFO, number):
            used = usage_of(data)
    if used is None:
        raise OSError(errno.ENODATA, os.strerror(errno.ENODATA))
    for _, _, data in _group_items(fd, btrfs_trees.QGROUP_LIMIT, number):
        limits = limits_of(data)
    return Quota(*used, *limits)


def _group_items(fd: int, kind: int, number: int) -> Iterator[btrfs_trees.Item]:
    return btrfs_trees.search(fd, Range(QUOTA_TREE, kind, (0, 0), (number, number)))


def usage_of(data: bytes) -> tuple[int, int]:
    """What the item of a group tells (struct btrfs_qgroup_info_item): referenced and exclusive bytes."""
    referenced, exclusive = struct.unpack_from("=8xQ8xQ", data)
    return referenced, exclusive


def limits_of(data: bytes) -> tuple[int, int]:
    """What may be referenced and exclusive, of struct btrfs_qgroup_limit_item."""
    flags, referenced, exclusive = struct.unpack_from("=3Q", data)
    return (
        (referenced or UNLIMITED) if flags & _MAX_RFER else UNLIMITED,
        (exclusive or UNLIMITED) if flags & _MAX_EXCL else UNLIMITED,
    )


def subtree_quota(fd: int) -> Quota:
    """Usage and limits of the subvolume of an open directory."""
    return quota(fd, subtree_group(fd, info(fd).id))


def create_group(fd: int, number: int) -> None:
    fcntl.ioctl(fd, _QGROUP_CREATE, struct.pack("=QQ", 1, number))


def destroy_group(fd: int, number: int) -> None:
    fcntl.ioctl(fd, _QGROUP_CREATE, struct.pack("=QQ", 0, number))


def assign(fd: int, member: int, to: int, *, remove: bool = False) -> None:
    """Count a group in another one, or no more.

    Of a group that shares something with others the kernel cannot say then what is counted where, and keeps
    no limit until it has counted anew, which it does in the background when it is asked to.
    """
    arguments = bytearray(struct.pack("=QQQ", not remove, member, to))
    if fcntl.ioctl(fd, _QGROUP_ASSIGN, arguments) > 0:
        with contextlib.suppress(OSError):  # it is at it already
            fcntl.ioctl(fd, _QUOTA_RESCAN, bytes(64))


def set_limit(fd: int, number: int, referenced_max: int) -> None:
    """Limit what a group may reference, in bytes; UNLIMITED takes the limit away."""
    fcntl.ioctl(fd, _QGROUP_LIMIT, struct.pack("=6Q", number, _MAX_RFER, referenced_max, 0, 0, 0))


# -- trees that others may change meanwhile ----------------------------------------------------------------

_SNAP_DESTROY_V2: Final = _request(_WRITE, 63, 4096)
_BY_ID: Final = 1 << 4


def destroy_id(fd: int, number: int) -> None:
    """As destroy(), of the subvolume with this id, wherever it is by now (Linux 5.7)."""
    _do(fd, _SNAP_DESTROY_V2, struct.pack("=qQQ32xQ", 0, 0, _BY_ID, number).ljust(4096, b"\0"))


def place_of(fd: int) -> str:
    """Where in its subvolume an open directory is: "" for the root, else "a/b/"."""
    answer = bytearray(struct.pack("=QQ", 0, os.fstat(fd).st_ino).ljust(4096, b"\0"))
    fcntl.ioctl(fd, _INO_LOOKUP, answer)
    return os.fsdecode(bytes(answer[16:]).partition(b"\0")[0])
