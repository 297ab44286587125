# SPDX-License-Identifier: LGPL-2.1-or-later
"""Long operations, each done by a process of its own that can be killed (machined.linux.workerchild).

An operation is a function of a module of this layer, "module:function", with plain arguments and result.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import marshal
import os
import socket
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final

from machined.linux import helper
from machined.linux.interpreter import Interpreter, program

LIMIT: Final = 64
"""So many operations are under way at a time, as with systemd-machined."""
GRACE: Final = 5.0
"""Seconds an operation has to take back what it began before nobody waits for that.

One with a time limit is killed then, and so are all when the daemon ends; another goes on.
"""
_REPLY_MAX: Final = 4 * 1024 * 1024
_PROGRAM: Final = program("machined.linux.workerchild")


class TooManyError(Exception):
    """As many operations as there may be are under way."""


Hold = Callable[[], AbstractContextManager[Any]]
"""Makes what is held while an operation is under way."""


class Workers:
    """Runs operations, at most `limit` at a time; more than that are refused, or wait their turn."""

    def __init__(self, limit: int = LIMIT, *, wait: bool = False) -> None:
        self._limit = limit
        self._turns = asyncio.Semaphore(limit) if wait else None
        self._under_way = 0
        self._tasks: set[asyncio.Task[Any]] = set()
        self._ending = asyncio.Event()
        self._shared: dict[object, _Shared] = {}

    @property
    def full(self) -> bool:
        return self._under_way >= self._limit

    async def run(self, operation: str, *args: Any, timeout: float | None = None) -> Any:
        """The operation's result. Raises what it raised of OSError, TooManyError, TimeoutError.

        One whose caller is cancelled, or that is out of time (seconds), is told to take back what it began.
        """
        return await self._in_turn(operation, args, timeout, contextlib.nullcontext)

    async def share(self, operation: str, *args: Any, hold: Hold, timeout: float | None = None) -> Any:
        """As run(), but whoever asks for what is waiting or under way already gets the result of that.

        What `hold` makes is held while the operation is under way, not while it waits its turn.
        """
        key = operation, args
        shared = self._shared.get(key)
        if shared is None:
            task = asyncio.ensure_future(self._in_turn(operation, args, timeout, hold))
            shared = self._shared[key] = _Shared(task)
            # Before those who wait for it go on: nobody joins what is over.
            task.add_done_callback(functools.partial(self._not_shared, key))
        shared.callers += 1
        try:
            return await asyncio.shield(shared.task)
        finally:
            shared.callers -= 1
            if not shared.callers and not shared.task.done():
                self._not_shared(key, shared.task)
                shared.task.cancel()
                await asyncio.wait([shared.task])

    def _not_shared(self, key: object, task: asyncio.Task[Any]) -> None:
        if (shared := self._shared.get(key)) is not None and shared.task is task:
            del self._shared[key]

    async def _in_turn(
        self, operation: str, args: tuple[Any, ...], timeout: float | None, hold: Hold
    ) -> Any:
        if self._turns is None and self.full:
            raise TooManyError
        async with self._turns or contextlib.nullcontext():
            with hold():
                return await self._run(operation, args, timeout)

    async def _run(self, operation: str, args: tuple[Any, ...], timeout: float | None) -> Any:
        self._under_way += 1
        # It has its end whoever was cancelled, and close() finds it.
        task = asyncio.ensure_future(_operate(operation, args, timeout, self._ending))
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.cancel()
            await asyncio.wait([task], timeout=GRACE)
            raise

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._under_way -= 1
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # its caller has it, or is gone

    async def close(self) -> None:
        """End what is under way: within GRACE seconds from when it was told to."""
        self._ending.set()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@dataclass(slots=True)
class _Shared:
    """An operation that several callers may wait for."""

    task: asyncio.Task[Any]
    callers: int = 0


async def _operate(
    operation: str, args: tuple[Any, ...], timeout: float | None, ending: asyncio.Event
) -> Any:
    child = _Child()
    try:
        try:
            async with asyncio.timeout(timeout):
                await child.send(marshal.dumps((operation, args)))
                answer = await child.receive()
        except TimeoutError:
            raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT)) from None
    finally:
        await child.end(ending if timeout is None else None)
    try:
        number, value = marshal.loads(answer)
    except (EOFError, ValueError, TypeError):
        raise OSError(errno.EIO, f"the process of '{operation}' died, see the log") from None
    if number:
        raise OSError(number, value)
    return value


class _Child:
    """One process, and what is said to it."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            ours.setblocking(False)
            # A fork of what has everything loaded, or where that cannot be had an interpreter of its own.
            job = helper.fork_operation(theirs)
            self._process = job or Interpreter(_PROGRAM, theirs)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self._sock = ours
        self._reaped = job is not None
        self._answered = False
        self.gone = self._process.gone

    async def send(self, data: bytes) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # receive() finds it dead
            await loop.sock_sendall(self._sock, len(data).to_bytes(8, "little") + data)

    async def receive(self) -> bytes:
        """All that it sends until its end."""
        loop = asyncio.get_running_loop()
        data = bytearray()
        with contextlib.suppress(ConnectionResetError):
            while packet := await loop.sock_recv(self._sock, 64 * 1024):
                data += packet
                if len(data) > _REPLY_MAX:
                    raise OSError(errno.EMSGSIZE, f"an operation answers with more than {_REPLY_MAX} bytes")
        self._answered = bool(data)
        return bytes(data)

    async def end(self, ending: asyncio.Event | None) -> None:
        """See that it ends, whatever becomes of the caller: by its own doing, and by force if that fails.

        What has to be taken back may take its time, up to when everything is `ending`; without that it has
        GRACE seconds.
        """
        self._sock.close()
        if self.gone.done():
            return
        if self._answered and self._reaped:
            # It is on its way out, and somebody else waits for that.
            asyncio.get_running_loop().call_later(GRACE, self._kill_late)
            return
        if not self._answered:
            self._process.terminate()
        task = asyncio.ensure_future(self._see_out(None if self._answered else ending))
        cancelled: asyncio.CancelledError | None = None
        while not task.done():
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled is not None:
            raise cancelled
        await task

    async def _see_out(self, ending: asyncio.Event | None) -> None:
        loop = asyncio.get_running_loop()
        last = loop.time() + GRACE
        if ending is not None:
            hurry = asyncio.ensure_future(ending.wait())
            either: list[asyncio.Future[Any]] = [self.gone, hurry]
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            hurry.cancel()
            await asyncio.wait([hurry])
        await asyncio.wait([self.gone], timeout=max(0.0, last - loop.time()))
        if not self.gone.done():
            self._process.kill()
            await asyncio.wait([self.gone], timeout=GRACE)

    def _kill_late(self) -> None:
        if not self.gone.done():
            self._process.kill()
