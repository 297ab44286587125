# SPDX-License-Identifier: LGPL-2.1-or-later
"""Lock files with open-file-description locks, the kind systemd's tools take; see fcntl(2).

Unlike POSIX locks they belong to the descriptor, not to the process: an unrelated close() of the same file
does not drop them, and two holders in one process exclude each other.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
from types import TracebackType

from machined.linux.fds import OwnedFd

_FLOCK = "hhqqi"  # l_type, l_whence, l_start, l_len, l_pid; native alignment is struct flock's


def _flock(kind: int) -> bytes:
    return struct.pack(f"{_FLOCK}0q", kind, os.SEEK_SET, 0, 0, 0)  # l_len 0: to the end; l_pid must be 0


class FileLock:
    """A lock that is held. Take it with acquire(); it ends with release(), a with block, or this object."""

    def __init__(self, path: str, fd: OwnedFd, exclusive: bool) -> None:
        self.path = path
        self.exclusive = exclusive
        self._fd = fd

    @classmethod
    def acquire(cls, path: str, exclusive: bool = True, nonblocking: bool = True) -> FileLock:
        """Create the file if need be (0600) and lock it.

        BlockingIOError (EAGAIN) if another holder is in the way; FileNotFoundError if there is no such
        directory. With nonblocking=False it waits, so never call that from the event loop.
        """
        command = fcntl.F_OFD_SETLK if nonblocking else fcntl.F_OFD_SETLKW
        kind = fcntl.F_WRLCK if exclusive else fcntl.F_RDLCK
        flags = os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_NOCTTY | os.O_CLOEXEC
        while True:
            fd = OwnedFd(os.open(path, flags, 0o600))
            try:
                fcntl.fcntl(fd.fileno(), command, _flock(kind))
                if os.fstat(fd.fileno()).st_nlink > 0:
                    return cls(path, fd, exclusive)
            except BaseException as error:
                fd.close()
                if isinstance(error, OSError) and error.errno in (errno.EAGAIN, errno.EACCES):
                    raise BlockingIOError(errno.EAGAIN, "somebody else holds the lock", path) from None
                raise
            # Unlinked by the previous holder between our open() and our lock: it guards nothing any more.
            fd.close()

    def fileno(self) -> int:
        """The descriptor that carries the lock; a child that inherits it shares the lock."""
        return self._fd.fileno()

    def release(self) -> None:
        """Unlock; whoever is alone with the file removes it. Harmless when released already."""
        if self._fd.closed:
            return
        with self._fd:
            if not self.exclusive:
                try:
                    fcntl.fcntl(self._fd.fileno(), fcntl.F_OFD_SETLK, _flock(fcntl.F_WRLCK))
                except (BlockingIOError, PermissionError):
                    return  # others share it still: the last of them removes the file
            # Whoever waits for the lock sees the link count 0 and starts over with a new file.
            with contextlib.suppress(FileNotFoundError):
                found, own = os.lstat(self.path), os.fstat(self._fd.fileno())
                if (found.st_dev, found.st_ino) == (own.st_dev, own.st_ino):
                    os.unlink(self.path)

    def __enter__(self) -> FileLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def __repr__(self) -> str:
        return f"FileLock({self.path!r}, exclusive={self.exclusive})"


def holder_conflict(path: str, exclusive: bool = True) -> bool:
    """Whether acquire() would meet another holder now. Takes and creates nothing."""
    try:
        fd = OwnedFd(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC))
    except FileNotFoundError:
        return False
    with fd:
        answer = fcntl.fcntl(
            fd.fileno(), fcntl.F_OFD_GETLK, _flock(fcntl.F_WRLCK if exclusive else fcntl.F_RDLCK)
        )
    kind: int = struct.unpack_from("h", answer)[0]
    return kind != fcntl.F_UNLCK
