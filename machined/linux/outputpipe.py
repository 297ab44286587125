# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a program says: its last lines are kept, and all of it goes on to whoever wants to read along."""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
from collections import deque
from typing import Final

from machined.linux.fds import OwnedFd

CHUNK: Final = 64 * 1024
KEPT: Final = 16 * 1024
"""Bytes of the end that are kept,"""
LONGEST: Final = 300
"""and characters of a line."""


class OutputPipe:
    """A pipe for a program to write to. `sink`: the writing end of a pipe of somebody who reads along.

    Who reads along slowly slows the program down, and who stops reading is forgotten. To be closed.
    Raises ValueError when the sink is no pipe: what else there is could block us.
    """

    def __init__(self, sink: OwnedFd | None = None) -> None:
        self._sink: OwnedFd | None = None
        if sink is not None:
            if not stat.S_ISFIFO(os.fstat(sink.fileno()).st_mode):
                raise ValueError("the descriptor for the output is not a pipe")
            # Opened anew: what does not block for us is not to be non-blocking for its owner.
            flags = os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC
            with contextlib.suppress(OSError):  # nobody reads any more
                self._sink = OwnedFd(os.open(f"/proc/self/fd/{sink.fileno()}", flags))
            sink.close()
        ours, theirs = os.pipe2(os.O_CLOEXEC)
        self._source = OwnedFd(ours)
        self.writer = OwnedFd(theirs)
        """For the program; close it once the program has it."""
        os.set_blocking(ours, False)
        self._tail: deque[bytes] = deque()
        self._size = 0
        self._waiting = b""
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        self._loop.add_reader(ours, self._readable)

    async def ended(self, timeout: float) -> None:
        """Wait until everybody has closed the writing end, and all is passed on; so many seconds at most."""
        self.writer.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._ended.wait()

    def last_lines(self, count: int) -> list[str]:
        """The last lines that are not empty, without what could drive a terminal."""
        text = b"".join(self._tail).decode(errors="replace").replace("\r", "\n")
        lines = ("".join(filter(str.isprintable, line)).strip()[:LONGEST] for line in text.split("\n"))
        return list(filter(None, lines))[-count:]

    def close(self) -> None:
        if not self._source.closed:
            self._loop.remove_reader(self._source.fileno())
        if self._sink is not None:
            self._forget_sink()
        self._source.close()
        self.writer.close()
        self._ended.set()

    def _readable(self) -> None:
        try:
            data = os.read(self._source.fileno(), CHUNK)
        except BlockingIOError:
            return
        if not data:
            self._loop.remove_reader(self._source.fileno())
            self._source.close()
            self._ended.set()
            return
        self._tail.append(data)
        self._size += len(data)
        while self._size - len(self._tail[0]) >= KEPT:
            self._size -= len(self._tail.popleft())
        if self._sink is not None:
            self._waiting = data
            self._pass_on()

    def _pass_on(self) -> None:
        assert self._sink is not None
        try:
            self._waiting = self._waiting[os.write(self._sink.fileno(), self._waiting) :]
        except BlockingIOError:
            pass  # below
        except OSError:
            self._forget_sink()
            return
        if self._waiting:
            self._loop.remove_reader(self._source.fileno())
            self._loop.add_writer(self._sink.fileno(), self._writable)

    def _writable(self) -> None:
        assert self._sink is not None
        self._loop.remove_writer(self._sink.fileno())
        self._loop.add_reader(self._source.fileno(), self._readable)
        self._pass_on()

    def _forget_sink(self) -> None:
        assert self._sink is not None
        self._loop.remove_writer(self._sink.fileno())
        self._sink.close()
        self._sink = None
        self._waiting = b""
        if not self._source.closed:
            self._loop.add_reader(self._source.fileno(), self._readable)
