# SPDX-License-Identifier: LGPL-2.1-or-later
"""The daemon's side of the process that forks helpers and long operations (machined.linux.nszygote).

A job in a fork of it begins in a millisecond or two, where an interpreter of its own takes ten times that.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import signal
import socket
import subprocess
from typing import Final

from machined.linux.fds import OwnedFd, recv_with_fds, send_with_fds
from machined.linux.interpreter import program, start
from machined.linux.nszygote import number, packed

log = logging.getLogger(__name__)

_PROGRAM: Final = program("machined.linux.nszygote")
# What a job that went down with the zygote is said to have ended with.
LOST: Final = -signal.SIGKILL
_END_PATIENCE: Final = 2.0


class Job:
    """A child of the zygote."""

    def __init__(self, zygote: Zygote, job: int) -> None:
        self._zygote = zygote
        self._number = job
        self.pidfd: OwnedFd | None = None
        self.gone: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        """Done when it is reaped; its result is what Popen calls returncode."""

    def kill(self) -> None:
        """It and all it has forked, soon."""
        if not self.gone.done():
            self._zygote.kill(self._number)

    def terminate(self) -> None:
        """Tell it to end, soon."""
        if not self.gone.done():
            self._zygote.terminate(self._number)

    def lost(self) -> None:
        """The zygote has ended, so nobody else can name this process group; its first process we can."""
        if self.pidfd is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd.fileno(), signal.SIGKILL)
        self.over(LOST)

    def over(self, status: int) -> None:
        if self.pidfd is not None:
            self.pidfd.close()
        if not self.gone.done():
            self.gone.set_result(status)


class Zygote:
    """One such process. When it dies, `alive` says so, and the next job needs another."""

    def __init__(self) -> None:
        """Raises OSError."""
        self._loop = asyncio.get_running_loop()
        self._jobs: dict[int, Job] = {}
        self._numbers = itertools.count(1)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                self._process = start(_PROGRAM, theirs)
            except BaseException:
                ours.close()
                raise
        ours.setblocking(False)
        self._sock = ours
        self.alive = True
        self._loop.add_reader(ours, self._read)

    def begin(self, sock: socket.socket, *, operation: bool = False) -> Job:
        """Have a child serve the other end of a socket; this end stays the caller's to close.

        It is a helper, or does a long operation. Raises OSError (BlockingIOError: it has more to do than it
        can), after which `alive` may be False.
        """
        job = next(self._numbers)
        try:
            send_with_fds(self._sock, (b"W" if operation else b"J") + packed(job), [sock.fileno()])
        except BlockingIOError:
            raise
        except OSError:
            self._lost()
            raise
        self._jobs[job] = Job(self, job)
        return self._jobs[job]

    def kill(self, job: int) -> None:
        self._send(b"K", job)

    def terminate(self, job: int) -> None:
        self._send(b"T", job)

    def _send(self, what: bytes, job: int) -> None:
        if job not in self._jobs or not self.alive:
            return
        try:
            send_with_fds(self._sock, what + packed(job))
        except BlockingIOError:
            self._loop.call_later(0.05, self._send, what, job)
        except OSError:
            self._lost()

    def _read(self) -> None:
        try:
            data, fds = recv_with_fds(self._sock, 64, 1)
        except BlockingIOError:
            return
        except OSError:
            data, fds = b"", None
        if not data or fds is None:
            self._lost()
            return
        with fds:
            job = self._jobs.get(number(data[1:9]))
            if job is None:
                return
            if data[:1] == b"B":
                job.pidfd = OwnedFd(fds.steal(0))
            else:
                del self._jobs[number(data[1:9])]
                job.over(number(data[9:17]))

    def _lost(self) -> None:
        if not self.alive:
            return
        self.alive = False
        self._loop.remove_reader(self._sock)
        self._sock.close()
        self._process.kill()
        self._process.wait()
        jobs, self._jobs = self._jobs, {}
        if jobs:
            log.warning("The process that forks namespace helpers has died, and %d jobs with it", len(jobs))
        for job in jobs.values():
            job.lost()

    async def close(self) -> None:
        """End it, and what it has under way. Idempotent."""
        if not self.alive:
            return
        self.alive = False
        self._loop.remove_reader(self._sock)
        self._sock.close()
        for job in self._jobs.values():
            job.lost()
        self._jobs.clear()
        pidfd = os.pidfd_open(self._process.pid)
        ended = asyncio.Event()
        self._loop.add_reader(pidfd, ended.set)
        try:
            async with asyncio.timeout(_END_PATIENCE):
                await ended.wait()
        except TimeoutError:
            self._process.kill()
        finally:
            self._loop.remove_reader(pidfd)
            os.close(pidfd)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_PATIENCE)
