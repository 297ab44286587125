# SPDX-License-Identifier: LGPL-2.1-or-later
"""File descriptors that have an owner, and their passing over sockets."""

from __future__ import annotations

import array
import errno
import fcntl
import os
import socket
from collections.abc import Iterable, Sequence
from types import TracebackType


class OwnedFd:
    """One descriptor, closed with its owner: by close(), at the end of a with block, or when collected."""

    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        self._fd = -1  # first, so that a failing constructor leaves something __del__ can look at
        if fd < 0:
            raise ValueError(f"'{fd}' is no file descriptor")
        self._fd = fd

    def fileno(self) -> int:
        """The number, still owned by this object. ValueError once closed or detached."""
        if self._fd < 0:
            raise ValueError("the file descriptor is closed")
        return self._fd

    @property
    def closed(self) -> bool:
        return self._fd < 0

    def detach(self) -> int:
        """Hand the number to the caller, who has to close it."""
        fd = self.fileno()
        self._fd = -1
        return fd

    def dup(self) -> OwnedFd:
        """Another descriptor (CLOEXEC) for the same open file."""
        return OwnedFd(fcntl.fcntl(self.fileno(), fcntl.F_DUPFD_CLOEXEC, 3))

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> OwnedFd:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"OwnedFd({self._fd})"


class FdSet:
    """Descriptors that arrived together: owned from the first moment, closed unless taken out."""

    __slots__ = ("_fds",)

    def __init__(self, fds: Iterable[int] = ()) -> None:
        self._fds: list[int] = []
        self._fds.extend(fds)
        for fd in self._fds:
            os.set_inheritable(fd, False)

    def add(self, fd: int) -> None:
        """Take one more, at the end."""
        self._fds.append(fd)

    def __len__(self) -> int:
        """How many arrived; those taken out still count, so that indexes keep their meaning."""
        return len(self._fds)

    def peek(self, index: int) -> int:
        """The number at this place, still owned by the set. IndexError if there is none (any more)."""
        fd = self._fds[index] if 0 <= index < len(self._fds) else -1
        if fd < 0:
            raise IndexError(f"no file descriptor at place {index}")
        return fd

    def steal(self, index: int) -> int:
        """Take the number at this place out of the set; the caller has to close it."""
        fd = self.peek(index)
        self._fds[index] = -1
        return fd

    def close(self) -> None:
        fds, self._fds = self._fds, []
        for fd in fds:
            if fd >= 0:
                os.close(fd)

    def __enter__(self) -> FdSet:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"FdSet({self._fds})"


def send_with_fds(sock: socket.socket, data: bytes, fds: Sequence[int] = ()) -> int:
    """Send bytes with descriptors (which stay the caller's); returns the number of bytes sent.

    On a stream socket the descriptors ride on the first of these bytes, and the rest may be left to send.
    """
    control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    return sock.sendmsg([data], control, socket.MSG_NOSIGNAL)


def recv_with_fds(sock: socket.socket, size: int, max_fds: int) -> tuple[bytes, FdSet]:
    """Receive at most size bytes and max_fds descriptors, b"" at the end of the stream.

    OSError EMSGSIZE when the sender sent more than fits; the descriptors that did arrive are closed then.
    """
    item = array.array("i").itemsize
    data, control, flags, _ = sock.recvmsg(
        size, socket.CMSG_SPACE(max_fds * item) if max_fds else 0, socket.MSG_CMSG_CLOEXEC
    )
    numbers = array.array("i")
    for level, kind, payload in control:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            numbers.frombytes(payload[: len(payload) - len(payload) % item])
    fds = FdSet(numbers)
    # CMSG_SPACE rounds up, so that one more than asked for may slip in without MSG_CTRUNC.
    if flags & (socket.MSG_CTRUNC | socket.MSG_TRUNC) or len(fds) > max_fds:
        fds.close()
        raise OSError(errno.EMSGSIZE, f"a message of more than {size} bytes or {max_fds} file descriptors")
    return data, fds
