# SPDX-License-Identifier: LGPL-2.1-or-later
"""Processes, held by a pidfd so that a recycled number never stands for another process.

The free functions read /proc/PID; who cares about reuse holds a PidRef and asks alive() afterwards.
All of them raise ProcessLookupError when there is no such process.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import functools
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Literal

NamespaceKind = Literal["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"]
# Lines of a uid_map or gid_map: first id inside, first id outside (ours), how many.
IdMap = list[tuple[int, int, int]]
# ioctl_ns(2), <linux/nsfs.h>
NS_GET_USERNS = 0xB701
NS_GET_OWNER_UID = 0xB704
# The kernel nests 33 user namespaces at most.
MAX_USER_NAMESPACES = 33


@functools.cache
def _anonymous_device() -> int:
    """The device number of the anonymous inodes, where pidfds lived before they had a file system."""
    fd = os.eventfd(0, os.EFD_CLOEXEC)
    try:
        return os.fstat(fd).st_dev
    finally:
        os.close(fd)


def _pidfd_id(fd: int) -> int | None:
    # Linux 6.9 gave pidfds inodes of their own, unique until reboot. Before, all of them shared one inode.
    # The link in /proc/self/fd says "anon_inode:[pidfd]" in either case, the device does not lie.
    info = os.fstat(fd)
    return info.st_ino if info.st_dev != _anonymous_device() else None


def _pidfd_pid(fd: int) -> int:
    with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as file:
        for line in file:
            name, _, value = line.partition(":")
            if name == "Pid":
                return int(value)
    raise OSError(errno.EBADF, f"file descriptor {fd} is no pidfd")


class PidRef:
    """A process, pinned: the number cannot be given to another one unnoticed while this object lives."""

    __slots__ = ("__weakref__", "_fd", "_loop", "id", "pid")

    def __init__(self, pid: int, pidfd: int) -> None:
        """Use open() or adopt(); takes ownership of pidfd."""
        self._fd = pidfd
        self._loop: asyncio.AbstractEventLoop | None = None
        self.pid = pid
        self.id = _pidfd_id(pidfd)

    @classmethod
    def open(cls, pid: int) -> PidRef:
        """Pin the process with this number. ProcessLookupError if there is none."""
        if pid < 1:
            raise ProcessLookupError(errno.ESRCH, f"'{pid}' is no process number")
        try:
            return cls(pid, os.pidfd_open(pid))
        except (ProcessLookupError, OverflowError):
            raise ProcessLookupError(errno.ESRCH, f"there is no process {pid}") from None

    @classmethod
    def adopt(cls, pidfd: int) -> PidRef:
        """Take over a pidfd (closed on failure too). ProcessLookupError if the process is gone or unseen."""
        ref = cls(0, pidfd)
        try:
            os.set_inheritable(pidfd, False)
            ref.pid = _pidfd_pid(pidfd)  # -1: reaped, 0: not in our PID namespace
            if ref.pid < 1 or not ref.alive():
                raise ProcessLookupError(errno.ESRCH, "the process of this pidfd is gone")
        except BaseException:
            ref.close()
            raise
        return ref

    def fileno(self) -> int:
        """The pidfd, still owned by this object. ValueError once closed."""
        if self._fd < 0:
            raise ValueError(f"the reference to process {self.pid} is closed")
        return self._fd

    def alive(self) -> bool:
        """Whether the process has not exited yet (a zombie has)."""
        poll = select.poll()
        poll.register(self.fileno(), select.POLLIN)
        return not poll.poll(0)

    def kill(self, signo: int) -> None:
        """Send a signal. ProcessLookupError if the process is gone."""
        signal.pidfd_send_signal(self.fileno(), signo)

    def dup(self) -> PidRef:
        """Another reference to the same process, with a life of its own."""
        return PidRef(self.pid, fcntl.fcntl(self.fileno(), fcntl.F_DUPFD_CLOEXEC, 3))

    def watch(self, loop: asyncio.AbstractEventLoop, callback: Callable[[], object]) -> None:
        """Have callback called once, from the loop, when the process exits. One watcher per reference."""
        if self._loop is not None:
            raise RuntimeError(f"process {self.pid} is watched already")

        def exited() -> None:
            self.unwatch(loop)
            callback()

        loop.add_reader(self.fileno(), exited)
        self._loop = loop

    def unwatch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Forget the callback; harmless when there is none."""
        if self._loop is loop:
            self._loop = None
            loop.remove_reader(self._fd)

    def close(self) -> None:
        """Let go of the process and of a callback that waits for it."""
        if self._loop is not None and not self._loop.is_closed():
            self.unwatch(self._loop)
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> PidRef:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        # Only what never got as far as being watched: the loop holds a strong reference to the callback.
        if getattr(self, "_fd", -1) >= 0:
            os.close(self._fd)
            self._fd = -1

    def __repr__(self) -> str:
        return f"PidRef({self.pid})"


@contextlib.contextmanager
def _of(pid: int) -> Iterator[None]:
    """Turn what /proc/PID says of a missing process into one error."""
    try:
        yield
    except (FileNotFoundError, ProcessLookupError):
        raise ProcessLookupError(errno.ESRCH, f"there is no process {pid}") from None


def _status(pid: int, field: str) -> str:
    with _of(pid), open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
        for line in file:
            name, _, value = line.partition(":")
            if name == field:
                return value.strip()
    raise ProcessLookupError(errno.ESRCH, f"process {pid} has no '{field}' any more")


def comm(pid: int) -> str:
    """The process's short name (at most 15 bytes); the process chooses it, so it may hold anything."""
    with _of(pid), open(f"/proc/{pid}/comm", "rb") as file:
        return file.read().removesuffix(b"\n").decode(errors="replace")


def parent(pid: int) -> int:
    """The parent's number; 0 for the first process and for one whose parent is outside our PID namespace."""
    return int(_status(pid, "PPid"))


def real_uid(pid: int) -> int:
    """The user the process belongs to, as a uid of our user namespace."""
    return int(_status(pid, "Uid").split()[0])


def handles_signal(pid: int, signo: int) -> bool:
    """Whether a signal sent to the first process of a PID namespace will reach it.

    The kernel drops what such a process neither catches nor blocks, SIGKILL and SIGSTOP from an outer
    namespace excepted. Blocked counts, since that is how a signalfd is read.
    """
    if signo in (signal.SIGKILL, signal.SIGSTOP):
        return True
    bit = 1 << (signo - 1)
    return any(int(_status(pid, mask), 16) & bit for mask in ("SigCgt", "SigBlk"))


def same_namespace(pid: int, kind: NamespaceKind) -> bool:
    """Whether the process is in the same namespace of this kind as we are."""
    with _of(pid):
        other, own = os.stat(f"/proc/{pid}/ns/{kind}"), os.stat(f"/proc/self/ns/{kind}")
    return (other.st_dev, other.st_ino) == (own.st_dev, own.st_ino)


def namespace_id(pid: int, kind: NamespaceKind) -> tuple[int, int]:
    """What tells the process's namespace of this kind from others. PermissionError for others' processes."""
    with _of(pid):
        status = os.stat(f"/proc/{pid}/ns/{kind}")
    return status.st_dev, status.st_ino


def is_owned_by(pid: int, uid: int) -> bool:
    """Whether a process is a user's: runs as this user, or in a user namespace that this user has made.

    Or in one below such a namespace: who made it is all-powerful in there. As the numbers of users in other
    namespaces say nothing here, the kernel is asked for each namespace's owner (ioctl_ns(2)).
    """
    if real_uid(pid) == uid:
        return True
    ours = namespace_id(os.getpid(), "user")
    with _of(pid):
        fd = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    try:
        for _ in range(MAX_USER_NAMESPACES):
            status = os.fstat(fd)
            if (status.st_dev, status.st_ino) == ours:
                return False
            owner = fcntl.ioctl(fd, NS_GET_OWNER_UID, bytes(4))
            if int.from_bytes(owner, sys.byteorder) == uid:
                return True
            try:
                above = fcntl.ioctl(fd, NS_GET_USERNS)
            except PermissionError:
                return False  # above is what we cannot see: not ours
            os.set_inheritable(above, False)
            os.close(fd)
            fd = above
    finally:
        os.close(fd)
    return False


def id_map(pid: int, kind: Literal["uid", "gid"]) -> IdMap:
    """The lines of the process's uid_map or gid_map: first id inside, first id outside (ours), how many.

    Without user namespaces in the kernel: one line that maps everything to itself.
    """
    try:
        with open(f"/proc/{pid}/{kind}_map", encoding="ascii") as file:
            lines = [tuple(map(int, line.split())) for line in file]
    except ProcessLookupError:
        raise ProcessLookupError(errno.ESRCH, f"there is no process {pid}") from None
    except FileNotFoundError:
        with _of(pid):
            os.stat(f"/proc/{pid}")
        return [(0, 0, 0xFFFFFFFF)]
    return [(inner, outer, count) for inner, outer, count in lines]


@functools.cache
def boot_id() -> str:
    """The kernel's id of this boot, in 32 hex digits (random(4))."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip().replace("-", "")


def is_boot_id(text: str) -> bool:
    """Whether this is the boot that is meant."""
    return text.lower() == boot_id()


def boot_time_realtime_usec() -> int:
    """When the system booted, in µs since 1970."""
    return (time.clock_gettime_ns(time.CLOCK_REALTIME) - time.clock_gettime_ns(time.CLOCK_BOOTTIME)) // 1000


def now_usec() -> tuple[int, int]:
    """CLOCK_REALTIME and CLOCK_MONOTONIC in µs, read together."""
    realtime = time.clock_gettime_ns(time.CLOCK_REALTIME)
    monotonic = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    return realtime // 1000, monotonic // 1000
