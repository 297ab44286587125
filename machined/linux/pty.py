# SPDX-License-Identifier: LGPL-2.1-or-later
"""Pseudo terminals."""

from __future__ import annotations

import fcntl
import struct
import termios

from machined.linux import syscalls
from machined.linux.fds import OwnedFd


def open_pty(ptmx: str = "/dev/ptmx") -> tuple[OwnedFd, int]:
    """A new master (unlocked, CLOEXEC, not our controlling terminal) and N of its /dev/pts/N."""
    master = OwnedFd(syscalls.posix_openpt(ptmx))
    try:
        return master, syscalls.pty_number(master.fileno())
    except BaseException:
        master.close()
        raise


def open_peer(master: int) -> OwnedFd:
    """The other end of a master, also if its devpts is in another mount namespace."""
    return OwnedFd(syscalls.pty_peer(master))


def set_size(fd: int, rows: int, columns: int) -> None:
    """Tell whoever runs on the terminal how large it is (SIGWINCH follows)."""
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
