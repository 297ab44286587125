# SPDX-License-Identifier: LGPL-2.1-or-later
"""One inotify instance in the event loop, for watches that others put up on it (linux/nshelper.py).

dirwatch.py has one that is asked instead.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import struct
from collections.abc import Callable, Iterator
from typing import Final

from machined.linux import syscalls

log = logging.getLogger(__name__)

# struct inotify_event without its name.
_HEAD: Final = struct.Struct("=iIII")
# One read each time the loop comes by; what is left makes it come by again.
_BUFFER: Final = 64 * 1024


def events(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """What was read from an instance: (watch, IN_… bits, name in a directory or nothing)."""
    position = 0
    while position + _HEAD.size <= len(data):
        watch, mask, _, length = _HEAD.unpack_from(data, position)
        position += _HEAD.size + length
        yield watch, mask, data[position - length : position].rstrip(b"\0")


class Inotify:
    """Tells which watches something happened to; None when events were lost, so that it may be any."""

    def __init__(self, changed: Callable[[set[int] | None], object]) -> None:
        """Raises OSError (EMFILE: the user has as many instances as they may have)."""
        self._changed = changed
        self._loop = asyncio.get_running_loop()
        self._fd = syscalls.inotify_init()
        self._loop.add_reader(self._fd, self._read)

    def fileno(self) -> int:
        return self._fd

    def remove(self, watch: int) -> None:
        """End a watch, if it has not ended by itself."""
        with contextlib.suppress(OSError):
            syscalls.inotify_rm_watch(self._fd, watch)

    def close(self) -> None:
        """End all watches. Idempotent."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            self._loop.remove_reader(fd)
            os.close(fd)

    def _read(self) -> None:
        try:
            data = os.read(self._fd, _BUFFER)
        except (BlockingIOError, InterruptedError):
            return
        watches: set[int] = set()
        for watch, mask, _ in events(data):
            if mask & syscalls.IN_Q_OVERFLOW:
                self._changed(None)
                return
            watches.add(watch)
        self._changed(watches)
