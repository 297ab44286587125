# SPDX-License-Identifier: LGPL-2.1-or-later
"""Says once for each process that is watched that what is mounted where it lives has changed.

/proc/PID/mountinfo is pollable (proc_pid_mountinfo(5)). A watch fires once: a busy process costs nothing
until somebody watches it anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
from collections.abc import Callable


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
