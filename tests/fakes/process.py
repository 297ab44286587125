# SPDX-License-Identifier: LGPL-2.1-or-later
"""A process that dies when the test says so."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from machined.linux.process import PidRef


class FakeProcess(PidRef):
    """A PidRef without a process. `signals` are those it got; `on_kill` reacts to them."""

    __slots__ = ("_callback", "closed", "dead", "on_kill", "signals")

    def __init__(self, pid: int, pidfd_id: int | None = None) -> None:
        self._fd = -1
        self._loop = None
        self._callback: Callable[[], object] | None = None
        self.pid = pid
        self.id = pidfd_id
        self.dead = False
        self.closed = False
        self.signals: list[int] = []
        self.on_kill: Callable[[int], object] = lambda signo: None

    def fileno(self) -> int:
        if self.closed:
            raise ValueError(f"the reference to process {self.pid} is closed")
        return 100_000 + self.pid

    def alive(self) -> bool:
        self.fileno()
        return not self.dead

    def kill(self, signo: int) -> None:
        self.fileno()
        if self.dead:
            raise ProcessLookupError(3, "No such process")
        self.signals.append(signo)
        self.on_kill(signo)

    def die(self) -> None:
        """Exit; the watcher hears of it at once."""
        self.dead = True
        callback, self._callback = self._callback, None
        if callback is not None:
            callback()

    @property
    def watched(self) -> bool:
        return self._callback is not None

    def watch(self, loop: asyncio.AbstractEventLoop, callback: Callable[[], object]) -> None:
        assert self._callback is None
        self._callback = callback

    def unwatch(self, loop: asyncio.AbstractEventLoop) -> None:
        self._callback = None

    def dup(self) -> FakeProcess:
        other = FakeProcess(self.pid, self.id)
        other.dead = self.dead
        return other

    def close(self) -> None:
        self.closed = True
        self._callback = None
