# SPDX-License-Identifier: LGPL-2.1-or-later
"""The process that has the namespace helper loaded already, and forks one child for each job.

It has one thread and enters no namespace itself; what its children share with it costs no memory. The
daemon's side is machined.linux.zygote. The one argument is the number of a SEQPACKET socket, on which the
daemon says

    b"J" + number of the job   with the job's socket: have a child do what is asked on it (nshelper.main)
    b"W" + number of the job   likewise, a long operation on files (workerchild.main)
    b"T" + number of the job   tell it to end (SIGTERM), which an operation does when it has taken back
                               what it began
    b"K" + number of the job   kill its process group

and is told, once for each J,

    b"B" + number + pid        with a pidfd: it has begun
    b"E" + number + status     it is over, as subprocess counts (-9: by SIGKILL); its process group is gone

Numbers are 8 bytes in the machine's order. When the daemon goes, so does everything here; operations are
told to end.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # signal's built-in half
import _socket
import gc
import os
import select
import sys

from machined.linux import nshelper, syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_SIZE = 8
# So long after the last job (ms) there is time to load what operations need: jobs after a start come first.
_IDLE = 300
_OPERATIONS = ("machined.linux.workerchild", "machined.linux.rootfiles", "machined.linux.trees")


def number(data: bytes) -> int:
    return int.from_bytes(data, sys.byteorder, signed=True)


def packed(value: int) -> bytes:
    return value.to_bytes(_SIZE, sys.byteorder, signed=True)


class Zygote:
    """The loop."""

    def __init__(self, sock: _socket.socket) -> None:
        self._sock = sock
        self._jobs: dict[int, int] = {}  # pid: number of the job
        self._operations: set[int] = set()  # those of their pids that take back what they began
        self._wake, wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        _signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        _signal.signal(_signal.SIGCHLD, lambda signo, frame: None)
        self._poll = select.poll()
        self._poll.register(sock.fileno(), select.POLLIN)
        self._poll.register(self._wake, select.POLLIN)
        self._wakeup = wake

    def run(self) -> None:
        """Until the daemon goes."""
        idle: int | None = _IDLE
        while True:
            ready = {fd for fd, _ in self._poll.poll(idle)}
            if not ready:
                idle = None
                _load_operations()
            if self._wake in ready:
                os.read(self._wake, 4096)
                self._reap()
            if self._sock.fileno() in ready and not self._serve():
                return

    def _serve(self) -> bool:
        space = _socket.CMSG_SPACE(4)
        try:
            data, control, _, _ = self._sock.recvmsg(64, space, _socket.MSG_CMSG_CLOEXEC)
        except ConnectionResetError:
            return False
        fds = [int.from_bytes(c[2][:4], sys.byteorder) for c in control]
        if not data:
            return False
        kind, job = data[:1], number(data[1:])
        if kind in {b"J", b"W"}:
            self._begin(job, fds[0], operation=kind == b"W")
            os.close(fds[0])
        else:
            for pid, its in self._jobs.items():
                if its == job and kind == b"K":
                    _kill(pid)
                elif its == job:
                    os.kill(pid, _signal.SIGTERM)  # not reaped yet, or it would not be here
        return True

    def _begin(self, job: int, fd: int, *, operation: bool) -> None:
        try:
            pid = os.fork()
        except OSError:
            self._tell(b"E" + packed(job) + packed(1), [])
            return
        if not pid:
            self._be_child(fd, operation)
        _set_group(pid)
        self._jobs[pid] = job
        if operation:
            self._operations.add(pid)
        pidfd = os.pidfd_open(pid)
        self._tell(b"B" + packed(job) + packed(pid), [pidfd])
        os.close(pidfd)

    def _be_child(self, fd: int, operation: bool) -> None:
        """Does not return."""
        try:
            _set_group(0)
            _signal.set_wakeup_fd(-1)
            _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
            for other in (self._wake, self._wakeup):
                os.close(other)
            self._sock.close()
            gc.enable()
            if operation:
                _operate(fd)
            else:
                nshelper.main(fd)
        except BaseException as error:
            # No traceback: Python would look for its lines in the guest's files.
            os.write(2, f"namespace helper: {type(error).__name__}: {error}\n".encode(errors="replace"))
        finally:
            os._exit(1)

    def _reap(self) -> None:
        while True:
            try:
                # Not reaped yet: while it is a zombie nobody else has the number of its process group.
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if found is None:
                return
            _kill(found.si_pid)
            _, status = os.waitpid(found.si_pid, 0)
            self._operations.discard(found.si_pid)
            job = self._jobs.pop(found.si_pid, None)
            if job is not None:
                self._tell(b"E" + packed(job) + packed(os.waitstatus_to_exitcode(status)), [])

    def _tell(self, data: bytes, fds: list[int]) -> None:
        payload = b"".join(fd.to_bytes(4, sys.byteorder) for fd in fds)
        control: list[Any] = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, payload)] if fds else []
        self._sock.sendmsg([data], control, _socket.MSG_NOSIGNAL)

    def close(self) -> None:
        """Nobody waits for what is under way."""
        for pid in self._jobs:
            if pid not in self._operations:  # those are told by the kernel when we end
                _kill(pid)


def _operate(fd: int) -> None:
    """Do a long operation. Does not return."""
    from machined.linux import workerchild

    try:
        workerchild.main(fd)
    except SystemExit:
        os._exit(1)  # it was told to end
    except Exception:
        import traceback

        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def _load_operations() -> None:
    for module in _OPERATIONS:
        __import__(module)
    _keep_pages()


def _keep_pages() -> None:
    """What is there now stays: a collection in a child would copy the pages it is on."""
    gc.collect()
    gc.disable()
    gc.freeze()


def _set_group(pid: int) -> None:
    try:
        os.setpgid(pid, 0)
    except OSError:  # the other of the two was first, and the child may be gone
        return


def _kill(pid: int) -> None:
    try:
        os.killpg(pid, _signal.SIGKILL)
    except OSError:  # all of them are zombies
        return


def main(fd: int) -> None:
    """Serve the daemon at the other end of this socket."""
    syscalls.load(everything=True)
    _keep_pages()
    zygote = Zygote(_socket.socket(fileno=fd))
    try:
        zygote.run()
    finally:  # also when the daemon has gone while it was told something
        zygote.close()
        os._exit(0)
