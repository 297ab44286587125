# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which entries of directories something happened to since the last time that somebody asked.

The kernel's queue (inotify(7)) is read by who asks and by nobody else: an answer is current to the moment,
needs no event loop, and what goes on in between costs nothing, however much it is. A queue that overflows
says so, and then it may have been anything.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
import termios
from collections import Counter
from typing import Final

from machined.linux import filesystem, statx, syscalls
from machined.linux.fds import OwnedFd
from machined.linux.inotify import events

_MASK: Final = (
    syscalls.IN_CREATE
    | syscalls.IN_DELETE
    | syscalls.IN_MOVED_FROM
    | syscalls.IN_MOVED_TO
    | syscalls.IN_ATTRIB
    | syscalls.IN_ONLYDIR
)
# What ends a watch: the directory is no more, or its file system.
_OVER: Final = syscalls.IN_IGNORED | syscalls.IN_UNMOUNT

# <linux/magic.h>: file systems that nobody changes but this kernel.
# What others change (networks, FUSE), or what lies below (overlayfs), is not told.
_TELLING: Final = frozenset(
    (
        0xEF53,  # ext2, ext3, ext4
        0x5846_5342,  # xfs
        statx.BTRFS_SUPER_MAGIC,
        0xF2F5_2010,  # f2fs
        0x0102_1994,  # tmpfs
        0x7371_7368,  # squashfs
        0xE0F5_E1E2,  # erofs
    )
)
# <linux/fs.h>: names of a directory that differ in upper and lower case only are one.
_CASEFOLD: Final = 0x4000_0000


class DirectoryWatch:
    """Any number of directories, each known by the number of its watch."""

    def __init__(self) -> None:
        """Raises OSError (EMFILE: the user has as many instances as they may have)."""
        self._fd = OwnedFd(syscalls.inotify_init())
        # A directory that is reached by two paths has one watch.
        self._users: Counter[int] = Counter()

    def add(self, directory: int) -> int | None:
        """Watch an open directory; None where its file system does not tell enough.

        Raises OSError (ENOSPC: the user has as many watches as they may have).
        """
        path = f"/proc/self/fd/{directory}"
        if statx.filesystem_type(path) not in _TELLING:
            return None
        with contextlib.suppress(OSError):  # no attributes, then not this one either
            if filesystem.attributes_of(directory) & _CASEFOLD:
                return None
        watch = syscalls.inotify_add_watch(self._fd.fileno(), path, _MASK)
        self._users[watch] += 1
        return watch

    def remove(self, watch: int) -> None:
        """Let go of a watch once, whether or not it has ended by itself."""
        self._users[watch] -= 1
        if self._users[watch] <= 0:
            del self._users[watch]
            with contextlib.suppress(OSError):
                syscalls.inotify_rm_watch(self._fd.fileno(), watch)

    def changes(self) -> dict[int, set[str] | None] | None:
        """Names by watch; None in place of names: the watch is over; None altogether: it may be anything.

        Raises OSError.
        """
        found: dict[int, set[str] | None] = {}
        lost = False
        # No more than is there now: somebody may fill the queue as fast as it is read.
        left = int.from_bytes(fcntl.ioctl(self._fd, termios.FIONREAD, bytes(4)), sys.byteorder)
        while left > 0:
            data = os.read(self._fd.fileno(), left)
            left -= len(data)
            for watch, mask, name in events(data):
                if mask & syscalls.IN_Q_OVERFLOW:
                    lost = True
                elif mask & _OVER:
                    found[watch] = None
                elif name and (names := found.setdefault(watch, set())) is not None:
                    names.add(os.fsdecode(name))
        return None if lost else found

    def close(self) -> None:
        """End all watches. Idempotent."""
        self._fd.close()
        self._users.clear()
