# SPDX-License-Identifier: LGPL-2.1-or-later
"""Jobs inside other processes' namespaces, each done by a short-lived process (machined.linux.nshelper)."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import marshal
import socket
import weakref
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from machined.linux import nshelper
from machined.linux.fds import FdSet, recv_with_fds, send_with_fds
from machined.linux.interpreter import Interpreter, program
from machined.linux.process import PidRef
from machined.linux.zygote import Job, Zygote

log = logging.getLogger(__name__)

CONCURRENCY = 32
"""So many helpers run at a time, as many again for LOOKS;"""
QUEUE = 128
"""so many jobs may wait for their turn,"""
PER_TARGET = 4
"""and so many run in one target: one that makes helpers hang must not take them all."""
LOOKS = frozenset({"read", "addresses", "netlink", "metadata", "observe"})
"""Jobs that anybody may cause. They have a queue of their own, which others need not stand in."""
TIMEOUT = 25.0

_REPLY_MAX = 4 * 1024 * 1024
_REAP_PATIENCE = 1.0
_PROGRAM = program("machined.linux.nshelper")


@dataclass(frozen=True, slots=True)
class Reply:
    """What a helper answered. Whoever gets it takes what it wants out of fds; the rest closes with them."""

    data: dict[str, Any]
    fds: FdSet


class _Turnstile:
    """Bounds how many helpers run and how many jobs wait, within one event loop."""

    def __init__(self) -> None:
        self._free = asyncio.Semaphore(CONCURRENCY)
        self._waiting = 0
        # Weak: a target's turn is of no interest when nobody runs or waits in it.
        self._of_target: weakref.WeakValueDictionary[int, asyncio.Semaphore] = weakref.WeakValueDictionary()

    async def child(self, target: int) -> _Child:
        """A new helper for a target, as soon as it may be started. It counts until it is reaped."""
        turn = self._of_target.setdefault(target, asyncio.Semaphore(PER_TARGET))
        if self._waiting >= QUEUE:
            raise OSError(errno.EAGAIN, f"{QUEUE} jobs wait for a namespace helper already, try again later")
        self._waiting += 1
        try:
            await turn.acquire()
            try:
                await self._free.acquire()
            except BaseException:
                turn.release()
                raise
        finally:
            self._waiting -= 1

        def release() -> None:
            self._free.release()
            turn.release()

        try:
            child = _new_child()
        except BaseException:
            release()
            raise
        child.gone.add_done_callback(lambda _: release())
        return child


_Turnstiles = weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Turnstile]
# By whether it is one of LOOKS.
_turnstiles: dict[bool, _Turnstiles] = {
    False: weakref.WeakKeyDictionary(),
    True: weakref.WeakKeyDictionary(),
}


class _Child(ABC):
    """One helper process, from its start to its reaping."""

    gone: asyncio.Future[int]
    """Done when the process is reaped; its result is what Popen calls returncode."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._answered = False

    @abstractmethod
    def _kill(self) -> None:
        """It, and all it has forked."""

    async def receive(self) -> tuple[bytes, FdSet]:
        """All that the helper sends until it closes its end."""
        loop = asyncio.get_running_loop()
        fds, data = FdSet(), bytearray()
        while len(data) <= _REPLY_MAX:
            try:
                packet, more = recv_with_fds(self._sock, nshelper.REPLY_PACKET, nshelper.FDS_MAX)
            except BlockingIOError:
                readable = loop.create_future()
                loop.add_reader(self._sock, _resolve, readable)
                try:
                    await readable
                finally:
                    loop.remove_reader(self._sock)
                continue
            except ConnectionResetError:  # it died with our request unread
                return b"", fds
            if len(more):
                fds.close()
                fds = more
            if not packet:
                self._answered = bool(data)
                return bytes(data), fds
            data += packet
        fds.close()
        raise OSError(errno.EMSGSIZE, f"a namespace helper sent more than {_REPLY_MAX} bytes")

    def send(self, data: bytes, fds: Sequence[int]) -> None:
        send_with_fds(self._sock, data, fds)

    async def end(self) -> None:
        """Kill what is left of it. Its reaping needs no caller, and waits for nothing but the kernel."""
        self._sock.close()
        if self._answered and not self.gone.done():
            # It is on its way out, unless it has been tampered with.
            asyncio.get_running_loop().call_later(_REAP_PATIENCE, self._kill_late)
        elif not self.gone.done():
            self._kill()
            # A matter of microseconds, unless it hangs in a file system where nothing can kill it.
            await asyncio.wait([self.gone], timeout=_REAP_PATIENCE)

    def _kill_late(self) -> None:
        if not self.gone.done():
            self._kill()


class _Process(_Child):
    """An interpreter of its own."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        super().__init__(ours)
        try:
            self._interpreter = Interpreter(_PROGRAM, theirs)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self.gone = self._interpreter.gone

    def _kill(self) -> None:
        self._interpreter.kill()

    async def end(self) -> None:
        """As in the base class, at once: nobody else reaps it."""
        self._answered = False
        await super().end()


class _Fork(_Child):
    """A child of the zygote."""

    def __init__(self, zygote: Zygote) -> None:
        """Raises OSError, see Zygote.begin."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        super().__init__(ours)
        try:
            self._job = zygote.begin(theirs)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self.gone = self._job.gone

    def _kill(self) -> None:
        self._job.kill()


class _Keeper:
    """Has a zygote at hand while the daemon runs."""

    def __init__(self) -> None:
        self._zygote: Zygote | None = None

    def begin(self) -> Zygote:
        """The zygote, started if there is none. Raises OSError."""
        if self._zygote is None or not self._zygote.alive:
            self._zygote = Zygote()
        return self._zygote

    def child(self) -> _Child:
        """A helper: a fork, or where that cannot be had a process of its own."""
        for _ in range(2):
            try:
                return _Fork(self.begin())
            except BlockingIOError:
                break
            except OSError as error:
                log.debug("The process that forks namespace helpers is gone, starting another: %s", error)
        return _Process()

    def operation(self, sock: socket.socket) -> Job | None:
        """As child(), of a long operation, without a way out."""
        for _ in range(2):
            try:
                return self.begin().begin(sock, operation=True)
            except BlockingIOError:
                break
            except OSError as error:
                log.debug("The process that forks operations is gone, starting another: %s", error)
        return None

    async def close(self) -> None:
        zygote, self._zygote = self._zygote, None
        if zygote is not None:
            await zygote.close()


_keepers: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Keeper] = weakref.WeakKeyDictionary()


@contextlib.asynccontextmanager
async def kept() -> AsyncIterator[None]:
    """Within this block helpers begin ten times faster: as forks of a process that is kept for that."""
    loop = asyncio.get_running_loop()
    keeper = _keepers[loop] = _Keeper()
    try:
        keeper.begin()
        yield
    finally:
        del _keepers[loop]
        await keeper.close()


def _new_child() -> _Child:
    keeper = _keepers.get(asyncio.get_running_loop())
    return _Process() if keeper is None else keeper.child()


def fork_operation(sock: socket.socket) -> Job | None:
    """Have a fork of the process that is kept do a long operation (machined.linux.workerchild).

    None when there is no such process. The socket stays the caller's.
    """
    keeper = _keepers.get(asyncio.get_running_loop())
    return None if keeper is None else keeper.operation(sock)


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _decode(op: str, data: bytes, fds: FdSet) -> Reply:
    """The reply, or the OSError it holds. The sender has been among guests: nothing about it is a given."""
    try:
        answer = json.loads(data)
        if isinstance(answer, dict) and isinstance(ok := answer.get("ok"), dict):
            return Reply(ok, fds)
        number, what = answer["errno"], answer["what"]
        if type(number) is not int or not isinstance(what, str):
            raise TypeError("errno and what have the wrong types")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        fds.close()
        raise OSError(errno.EIO, f"the namespace helper answers '{op}' with nonsense: {error}") from None
    fds.close()
    raise OSError(number, what)


async def _perform(child: _Child, op: str, request: bytes, fds: Sequence[int]) -> Reply:
    try:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # dead already: that is read below
            child.send(request, fds)
        data, received = await child.receive()
        if data:
            return _decode(op, data, received)
        status = await asyncio.shield(child.gone)
        raise OSError(errno.EIO, f"the namespace helper died during '{op}' (status {status}), see the log")
    finally:
        await child.end()


async def run(
    op: str,
    target: PidRef | None,
    args: Mapping[str, Any],
    fds: Sequence[int] = (),
    timeout: float | None = TIMEOUT,  # the helper is killed by it, so it is not the caller's affair
    *,
    in_turn: bool = True,
) -> Reply:
    """Do a job of nshelper.OPERATIONS in target's namespaces, in our own if target is None.

    args are plain values; fds stay the caller's. Raises the helper's OSError (ProcessLookupError if the
    target is gone, EAGAIN if too many jobs wait already), or TimeoutError after so many seconds in all.
    A job that may take minutes does not wait for its turn nor count as one: the caller bounds those.
    """
    if op not in nshelper.OPERATIONS:
        raise ValueError(f"'{op}' is no job of the namespace helper")
    request = marshal.dumps((op, target.pid if target else 0, dict(args)))
    if len(request) > nshelper.REQUEST_MAX or len(fds) >= nshelper.FDS_MAX:
        raise OSError(errno.EMSGSIZE, f"the request for '{op}' is too large")
    turnstile = _turnstiles[op in LOOKS].setdefault(asyncio.get_running_loop(), _Turnstile())
    try:
        # Of its own, since the caller's may be closed when its owner learns of the process's end.
        with target.dup() if target else contextlib.nullcontext() as pinned:
            async with asyncio.timeout(timeout):
                child = await turnstile.child(target.pid if target else 0) if in_turn else _new_child()
                return await _perform(child, op, request, [pinned.fileno(), *fds] if pinned else fds)
    except TimeoutError as error:
        if error.errno is not None:
            raise  # the helper's own
        raise TimeoutError(errno.ETIMEDOUT, f"'{op}' took longer than {timeout:g} s") from None
