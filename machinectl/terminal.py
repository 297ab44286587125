# SPDX-License-Identifier: LGPL-2.1-or-later
"""The user's terminal: raw mode that is always taken back, its size, and the signals that concern it."""

from __future__ import annotations

import fcntl
import os
import signal
import struct
import termios
from types import FrameType

DEFAULT_SIZE = (24, 80)
ENDING = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)


def size(fds: tuple[int, ...] = (1, 0, 2)) -> tuple[int, int]:
    """(rows, columns) of the first of the descriptors that is a terminal."""
    for fd in fds:
        try:
            rows, columns, _, _ = struct.unpack("HHHH", fcntl.ioctl(fd, termios.TIOCGWINSZ, bytes(8)))
        except OSError:
            continue
        if rows and columns:
            return rows, columns
    return DEFAULT_SIZE


def set_size(fd: int, rows: int, columns: int) -> None:
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


class RawMode:
    """Raw mode of a terminal: `enter`, `leave`; nothing at all for what is not a terminal."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._saved = termios.tcgetattr(fd) if os.isatty(fd) else None

    def enter(self) -> None:
        if self._saved is None:
            return
        mode = termios.tcgetattr(self._fd)
        t = termios
        mode[0] &= ~(t.IGNBRK | t.BRKINT | t.PARMRK | t.ISTRIP | t.INLCR | t.IGNCR | t.ICRNL | t.IXON)
        mode[1] &= ~t.OPOST
        mode[2] = mode[2] & ~(t.CSIZE | t.PARENB) | t.CS8
        mode[3] &= ~(t.ECHO | t.ECHONL | t.ICANON | t.ISIG | t.IEXTEN)
        mode[6][t.VMIN], mode[6][t.VTIME] = 1, 0
        # What was typed ahead is kept, it belongs to the session.
        t.tcsetattr(self._fd, t.TCSADRAIN, mode)

    def leave(self) -> None:
        """Back to what it was. Silent about a terminal that has gone."""
        if self._saved is None:
            return
        try:
            termios.tcsetattr(self._fd, termios.TCSADRAIN, self._saved)
        except (termios.error, OSError):
            self._saved = None


class SignalPipe:
    """Signals as bytes to read from `fd`, so that they interrupt a poll and nothing else."""

    def __init__(self) -> None:
        self.fd, self._write = os.pipe()
        os.set_blocking(self.fd, False)
        os.set_blocking(self._write, False)
        self._wanted = (*ENDING, signal.SIGWINCH, signal.SIGCONT, signal.SIGTSTP)
        self._before = {number: signal.signal(number, _noted) for number in self._wanted}
        self._before_fd = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)

    def read(self) -> list[int]:
        try:
            return list(os.read(self.fd, 64))
        except BlockingIOError:
            return []

    def close(self) -> None:
        signal.set_wakeup_fd(self._before_fd)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        os.close(self.fd)
        os.close(self._write)


def _noted(number: int, frame: FrameType | None) -> None:
    """The wakeup descriptor has told already."""
