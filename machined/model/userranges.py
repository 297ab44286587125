# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which users of the host stand for those of a machine: 65536 of them, by its name.

We pick in the place of systemd-nspawn, which does not remember what it has picked and where trees are
mounted before it runs comes too late: out of the same numbers, and with the same regard for others.
"""

from __future__ import annotations

import asyncio
import logging
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

from machined.linux import commands
from machined.linux.locks import FileLock, holder_conflict
from machined.linux.overlay import RANGE
from machined.model.errors import MachineError, Problem

log = logging.getLogger(__name__)

# systemd's range for containers, systemd.io/UIDS-GIDS.
FIRST: Final = 0x0008_0000
LAST: Final = 0x6FFF_0000
# Where systemd-nspawn locks what it has picked.
LOCKS: Final = Path("/run/systemd/nspawn-uid")
SUBUID: Final = Path("/etc/subuid")
# Two questions to the host's user database, however many modules of others it asks (nsswitch.conf(5)).
_ASK: Final = ("timeout", "3", "sh", "-c", 'getent passwd "$@"; getent group "$@"; true', "getent")


def pick(name: str, is_used: Callable[[int], bool]) -> int:
    """The first user of a free range, the same for a name as long as nobody else has it.

    Raises MachineError (LIMITS_EXCEEDED).
    """
    count = (LAST - FIRST) // RANGE + 1
    start = zlib.crc32(name.encode())
    delegated = list(_delegated())
    for step in range(count):
        base = FIRST + (start + step) % count * RANGE
        if _is_delegated(base, delegated):
            continue
        if not is_used(base) and not is_locked(base):
            return base
    raise MachineError(
        Problem.LIMITS_EXCEEDED,
        f"Machine '{name}' can have no users of its own: all ranges between {FIRST} and {LAST} are taken.",
    )


def is_fit(base: int) -> bool:
    """Whether a range is one that can be picked, whoever may have it now."""
    if not FIRST <= base <= LAST or base % RANGE:
        return False
    return not _is_delegated(base, _delegated())


def _is_delegated(base: int, delegated: Iterable[tuple[int, int]]) -> bool:
    return any(first < base + RANGE and base < end for first, end in delegated)


async def is_known(base: int) -> bool:
    """Whether the host has users or groups in a range: its first and last ones, as systemd-nspawn asks.

    Who cannot be asked within some seconds knows none.
    """
    try:
        found = await asyncio.to_thread(commands.run, *_ASK, str(base), str(base + RANGE - 1))
    except OSError as error:
        log.warning("Cannot ask whether the host knows user %d, ignoring: %s", base, error)
        return False
    return bool(found.strip())


def has_namespaces() -> bool:
    """Whether this kernel has users of a machine's own."""
    return os.path.exists("/proc/self/ns/user")


def lock(base: int) -> FileLock | None:
    """Keep a range from systemd-nspawn, which asks for its lock before it picks one; None: others have it.

    OSError.
    """
    LOCKS.mkdir(mode=0o755, parents=True, exist_ok=True)
    try:
        return FileLock.acquire(str(LOCKS / str(base)))
    except BlockingIOError:
        return None


def is_locked(base: int) -> bool:
    """Whether somebody has picked a range: a machine of ours, or a systemd-nspawn."""
    try:
        return holder_conflict(str(LOCKS / str(base)))
    except OSError:
        return True


def _delegated() -> Iterator[tuple[int, int]]:
    """Ranges that users of the host have for containers of theirs (subuid(5)): (first, after the last)."""
    try:
        lines = SUBUID.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        _, _, rest = line.partition(":")
        first, _, count = rest.partition(":")
        if first.isdecimal() and count.isdecimal() and int(count) < FIRST:
            yield int(first), int(first) + int(count)
