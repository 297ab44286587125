# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the pool is: a directory, a btrfs, or a btrfs in a file; and how large such a file may be.

The file is /var/lib/machines.raw, and var-lib-machines.mount, which comes with systemd, mounts it at boot: a
pool outlives machined. It has no blocks but those in use, so it promises more than it takes. Promises end
where less than a tenth of the file system below would be left: a btrfs that finds no room there breaks.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from machined.linux import btrfs, loopfile, mounts, statx
from machined.linux.locks import FileLock, holder_conflict
from machined.linux.overmount import Place
from machined.model import images
from machined.model.errors import MachineError, Problem
from machined.model.images import POOL, UNKNOWN

LOCK: Final = Path("/run/systemd/machined-pool.lock")
"""Held by whoever moves the pool (machined.poolctl)."""

MEBIBYTE: Final = 1024 * 1024
MINIMUM: Final = 256 * MEBIBYTE
"""The least size: mkfs.btrfs takes 114 MiB, and then there is no room for images."""
MAXIMUM: Final = 2**63 - MEBIBYTE
# Of the file system below the file, so much is left to others.
_SHARE_LEFT: Final = 10
# Of the pool, so much is to be free before something long begins in it.
_SHARE_FREE: Final = 10
_STEP: Final = 1024 * MEBIBYTE


class Kind(StrEnum):
    DIRECTORY = "directory"
    BTRFS = "btrfs"
    FILE = "file"  # a btrfs in it


@dataclass(frozen=True, slots=True)
class Disk:
    """A file system, in bytes."""

    total: int
    free: int
    available: int
    """What of the free can be had: file systems keep some for themselves."""

    @classmethod
    def below(cls, path: str) -> Disk:
        """The one that a path is on. OSError."""
        status = os.statvfs(path)
        return cls(*(n * status.f_frsize for n in (status.f_blocks, status.f_bfree, status.f_bavail)))

    def ceiling(self, held: int) -> int:
        """The size that a file of which `held` bytes are on this file system may have."""
        return _whole(max(0, held + self.available - self.total // _SHARE_LEFT))


@dataclass(frozen=True, slots=True)
class PoolState:
    """The pool as it is. Bytes; `limit` is UNKNOWN without one, `ceiling` is 0 where nothing can grow."""

    path: str
    kind: Kind
    file_system: str
    size: int
    used: int
    available: int
    limit: int = UNKNOWN
    file: str = ""
    allocated: int = 0
    ceiling: int = 0


def place() -> Place:
    return Place.of(os.fspath(POOL))


def state(pool: str) -> PoolState:
    """Asked of the kernel. OSError when there is no such directory."""
    disk = Disk.below(pool)
    sizes = disk.total, disk.total - disk.free, disk.available
    if not statx.is_btrfs(pool):
        return PoolState(pool, Kind.DIRECTORY, _file_system(pool), *sizes)
    found = loopfile.find(pool)
    if found is None or found.path != Place.of(os.path.realpath(pool)).file:
        return PoolState(pool, Kind.BTRFS, "btrfs", *sizes, _limit(pool))
    # Where the file lies, which is not where it is mounted.
    ceiling = Disk.below(found.path).ceiling(found.allocated)
    return PoolState(pool, Kind.FILE, "btrfs", *sizes, _limit(pool), found.path, found.allocated, ceiling)


def _limit(pool: str) -> int:
    try:
        with btrfs.open_directory(pool) as directory:
            return btrfs.subtree_quota(directory.fileno()).referenced_max
    except OSError:
        return UNKNOWN  # no quotas


def _file_system(path: str) -> str:
    real = os.path.realpath(path)
    above = [m for m in mounts.mount_points() if f"{real}/".startswith(m.target.rstrip("/") + "/")]
    return max(reversed(above), key=lambda mount: len(mount.target)).fstype if above else ""


# -- sizes -------------------------------------------------------------------------------------------------


def _whole(size: int) -> int:
    return size - size % MEBIBYTE


def readable(size: int) -> str:
    """ "1.5G", as the client prints sizes."""
    for unit, factor in (("T", 1024**4), ("G", 1024**3), ("M", MEBIBYTE)):
        if size >= factor:
            return f"{size / factor:.1f}{unit}"
    return f"{size}B"


def size_to_make(wanted: int, used: int, disk: Disk) -> int:
    """The size of a new file for images that take `used` bytes of this disk; 0 is: whatever is sensible.

    Raises MachineError (INVALID_ARGS, LIMITS_EXCEEDED) when there is none, or not the one wanted.
    """
    least = max(MINIMUM, _whole(used + used // 4 + 129 * MEBIBYTE))
    for_a_while = used + used // 8 + 64 * MEBIBYTE
    if for_a_while > disk.available:
        raise MachineError(
            Problem.LIMITS_EXCEEDED,
            f"The images in {POOL} take {readable(used)} and lie on the disk twice while they are moved, "
            f"which needs {readable(for_a_while)}; {readable(disk.available)} are free. Make room first.",
        )
    most = disk.ceiling(used)
    if least > most:
        raise MachineError(
            Problem.LIMITS_EXCEEDED,
            f"A pool for what is in {POOL} needs {readable(least)}, and may have {readable(most)}, so that "
            f"a tenth of the disk stays free. Make room first.",
        )
    if not wanted:
        return max(least, _whole(most // 2))
    wanted = _whole(wanted + MEBIBYTE - 1)
    if wanted < least:
        raise MachineError(
            Problem.INVALID_ARGS,
            f"{readable(wanted)} are too small: a pool for what is in {POOL} needs {readable(least)}.",
        )
    if wanted > most:
        raise too_large(wanted, most)
    return wanted


def too_large(wanted: int, most: int) -> MachineError:
    return MachineError(
        Problem.LIMITS_EXCEEDED,
        f"{readable(wanted)} are too large: the pool may have {readable(most)}, so that a tenth of the disk "
        f"below it stays free.",
    )


def size_to_grow(wanted: int, now: PoolState) -> int:
    """The size that a file of the pool is to get. Raises MachineError."""
    if now.kind is Kind.DIRECTORY:
        raise MachineError(
            Problem.NOT_SUPPORTED,
            f"The pool {now.path} is a plain directory and as large as its disk; "
            f"'machinectl pool create' makes one that can be limited and grown.",
        )
    if now.kind is Kind.BTRFS:
        raise MachineError(
            Problem.NOT_SUPPORTED,
            f"The pool {now.path} is on a btrfs that is not in {place().file}, so it is not ours to grow.",
        )
    wanted = _whole(wanted + MEBIBYTE - 1)
    if wanted <= now.size:
        raise MachineError(
            Problem.INVALID_ARGS,
            f"The pool has {readable(now.size)} already, and cannot be made smaller; "
            f"'machinectl set-limit BYTES' limits what may be in it.",
        )
    if wanted > now.ceiling:
        raise too_large(wanted, now.ceiling)
    return wanted


def size_on_demand(needed: int, now: PoolState) -> int:
    """The size that the file should have before something that takes `needed` bytes begins; 0: it is fine.

    One step: a quarter of what it is, 1 GiB at least, more when more is needed; never over the ceiling, nor
    over a limit that somebody has set.
    """
    if now.kind is not Kind.FILE or now.available >= max(needed, now.size // _SHARE_FREE):
        return 0
    step = max(now.size // 4, _STEP, needed - now.available + now.size // _SHARE_FREE)
    wanted = _whole(min(now.size + step, now.ceiling, now.limit))
    return wanted if wanted > now.size else 0


# -- one at a time -----------------------------------------------------------------------------------------


def check_idle() -> None:
    """Raises MachineError (JOB_RUNNING) while the pool is being moved: nothing is to be begun in it then."""
    if holder_conflict(os.fspath(LOCK)):
        raise _busy()


@contextmanager
def moving() -> Iterator[None]:
    """Be the one who moves the pool. Raises MachineError (JOB_RUNNING)."""
    try:
        lock = FileLock.acquire(os.fspath(LOCK))
    except BlockingIOError:
        raise _busy() from None
    with lock:
        yield


def _busy() -> MachineError:
    return MachineError(
        Problem.JOB_RUNNING,
        f"The pool {POOL} is being moved; wait until that is over, 'systemctl status machined-pool.service' "
        f"shows it.",
    )


def names_in_the_making() -> list[str]:
    """Names of images that somebody is making right now."""
    try:
        found = [entry.path for entry in os.scandir(images.LOCKS) if entry.name.startswith("name-")]
    except FileNotFoundError:
        return []
    return sorted(os.path.basename(p).removeprefix("name-") for p in found if holder_conflict(p))
