# SPDX-License-Identifier: LGPL-2.1-or-later
"""Connects the caller's terminal to a command in a host."""

import contextlib
import fcntl
import os
import select
import signal
import sys
import termios
import tty
from collections.abc import Iterator, Sequence

from .boot import Host


def interact(host: Host, argv: Sequence[str]) -> int:
    """Run a command in the host on a terminal of its own, connected to ours; return its exit status."""
    ours, its = host.openpty()
    _copy_size(ours)
    previous = signal.signal(signal.SIGWINCH, lambda *_: _copy_size(ours))
    try:
        terminal = {"TERM": os.environ.get("TERM", "dumb")}
        process = host.popen(argv, stdin=its, stdout=its, stderr=its, env=terminal, tty=True)
        os.close(its)
        with _raw(sys.stdin.fileno()):
            _relay(ours)
        return process.wait()
    finally:
        signal.signal(signal.SIGWINCH, previous)
        os.close(ours)


def _relay(ours: int) -> None:
    poll = select.poll()
    for fd in (sys.stdin.fileno(), ours):
        poll.register(fd, select.POLLIN)
    while True:
        for fd, _ in poll.poll():
            try:
                data = os.read(fd, 65536)
            except OSError:  # EIO: the command and all it started have closed their end
                data = b""
            if data:
                _write(ours if fd != ours else sys.stdout.fileno(), data)
            elif fd == ours:
                return
            else:
                poll.unregister(fd)


def _write(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


def _copy_size(ours: int) -> None:
    with contextlib.suppress(OSError):
        fcntl.ioctl(ours, termios.TIOCSWINSZ, fcntl.ioctl(sys.stdin.fileno(), termios.TIOCGWINSZ, bytes(8)))


@contextlib.contextmanager
def _raw(fd: int) -> Iterator[None]:
    saved = termios.tcgetattr(fd)
    tty.setraw(fd, termios.TCSADRAIN)  # what was typed ahead is for the command
    try:
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, saved)
