# SPDX-License-Identifier: LGPL-2.1-or-later
"""Tells that what is mounted somewhere has changed: once for each process that is watched, and of our own.

/proc/PID/mountinfo is pollable (proc_pid_mountinfo(5)). A watch fires once: a busy process costs nothing
until somebody watches it anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
from collections.abc import Callable

from machined.linux.fds import OwnedFd
from machined.linux.mounts import targets


class MountWatch:
    """All watches in one epoll instance in the event loop; `changed` hears of a watch by its number."""

    def __init__(self, changed: Callable[[int], object]) -> None:
        """Raises OSError."""
        self._changed = changed
        self._loop = asyncio.get_running_loop()
        self._epoll = select.epoll()
        self._watches: set[int] = set()
        self._loop.add_reader(self._epoll.fileno(), self._read)

    def add(self, pid: int) -> int:
        """Watch from now on; returns the number of the watch. Raises OSError (no such process, say)."""
        fd = os.open(f"/proc/{pid}/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
        try:
            # A change is an error condition here, which epoll reports whether it was asked for or not.
            self._epoll.register(fd, select.EPOLLPRI | select.EPOLLONESHOT)
        except BaseException:
            os.close(fd)
            raise
        self._watches.add(fd)
        return fd

    def remove(self, watch: int) -> None:
        """End a watch, fired or not. Idempotent as long as the number is not given out again."""
        if watch in self._watches:
            self._watches.discard(watch)
            os.close(watch)

    def close(self) -> None:
        """End all watches. Idempotent."""
        for watch in list(self._watches):
            self.remove(watch)
        if not self._epoll.closed:
            self._loop.remove_reader(self._epoll.fileno())
            self._epoll.close()

    def _read(self) -> None:
        with contextlib.suppress(InterruptedError):
            for watch, _ in self._epoll.poll(0):
                self._changed(watch)


class OwnMounts:
    """Where something is mounted in our own mount namespace; read anew only when that has changed."""

    def __init__(self) -> None:
        """Raises OSError."""
        self._fd = OwnedFd(os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC))
        self._poll = select.poll()
        self._poll.register(self._fd, select.POLLPRI)
        self._poll.poll(0)
        self._targets = self._read()

    def targets(self) -> frozenset[str]:
        """The mount points: the same object for as long as nothing has changed. Raises OSError."""
        if self._poll.poll(0):
            # Only now, so that a change while it is read is another one.
            self._targets = self._read()
        return self._targets

    def _read(self) -> frozenset[str]:
        os.lseek(self._fd.fileno(), 0, os.SEEK_SET)
        data = bytearray()
        while part := os.read(self._fd.fileno(), 1 << 16):
            data += part
        return targets(bytes(data))

    def close(self) -> None:
        """Idempotent."""
        self._fd.close()
