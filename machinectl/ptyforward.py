# SPDX-License-Identifier: LGPL-2.1-or-later
"""Moves bytes between the user's terminal and the master of a pseudo terminal in a guest.

Everything is driven by one epoll: input, output, master, signals, and one more descriptor of the caller's
(the bus). The master is watched edge-triggered: while a guest's getty has not opened its end yet, and after
each of its hang-ups, the kernel reports a hang-up all the time, and only an edge tells that there is
something again.
"""

from __future__ import annotations

import enum
import os
import select
import signal
import stat
import termios
import time
from collections.abc import Callable

from .terminal import ENDING, RawMode, SignalPipe, set_size, size

_BUFFER = 64 * 1024
_ESCAPE = 0x1D  # ^]
_ESCAPE_TIMES = 3
_ESCAPE_SECONDS = 1.0
_END_OF_FILE = b"\x04"  # ^D, what the guest's terminal turns into an end of file
_SETTLE = 2.0  # seconds
_TICK = 0.02
_DROP = 0.1
_QUIET = 0.5
_LINGER = 1.0
# Between two gettys, or while login(1) hangs its terminal up to have it alone, there are milliseconds.
_GONE = 3.0


class End(enum.Enum):
    """Why a session ended."""

    HANGUP = "the other side closed its terminal"
    ESCAPE = "the escape sequence was typed"
    INPUT = "our input ended"
    SIGNAL = "a signal told us to end"


class Forwarder:
    """One session. Takes over `master`. `keep`: a hang-up is no end, the other side will be opened again."""

    def __init__(
        self, master: int, *, stdin: int = 0, stdout: int = 1, keep: bool = False,
        watch: int = -1, on_watch: Callable[[], bool] | None = None,
    ) -> None:  # fmt: skip
        """`on_watch` is called when `watch` is readable; False from it ends the watching."""
        self._master = master
        self._stdin = stdin
        self._keep = keep
        self._watch = watch
        self._on_watch = on_watch
        self._input = bytearray()  # on its way to the guest
        self._output = bytearray()  # on its way to the user
        self._epoll = select.epoll()
        self._stdout = _nonblocking(stdout)
        self._size_fds = (stdout, stdin, 2)
        self._terminal = os.isatty(stdin)
        self._master_readable = True
        self._master_writable = True
        self._master_gone = False
        self._stdin_open = True
        self._reset_at = 0.0
        self._hung_since = 0.0
        self._stdin_always = False  # a file, /dev/null: cannot be polled, can always be read
        self._stdin_watched = False
        self._stdout_waits = False
        self._stdout_gone = False
        self._escapes: list[float] = []
        self._settled = self._terminal
        self._settle_until = time.monotonic() + _SETTLE
        self._last_input = 0x0A
        self._last_output = 0.0
        self.shown = 0
        self.last_byte = 0x0A
        """What was printed: how many bytes, and the last one."""
        self.signal = 0

    def end_at_hangup(self) -> None:
        """From now on a hang-up is the end; where it is one already, this wakes the loop up."""
        self._keep = False
        self._master_readable = True

    def run(self) -> End:
        """Forward until the session ends. The terminal is as before in every case."""
        os.set_blocking(self._master, False)
        signals = SignalPipe()
        modes = [RawMode(fd) for fd in (self._stdin, self._size_fds[0])]
        # Either end being no terminal means a program is there, which wants no raw mode on what is left.
        raw = modes if all(os.isatty(fd) for fd in (self._stdin, self._size_fds[0])) else []
        try:
            self._register(signals.fd)
            self._resize()
            for mode in raw:
                mode.enter()
            while True:
                end = self._shovel()
                if end is not None:
                    return end
                if (end := self._wait(signals, raw)) is not None:
                    return end
        finally:
            for mode in reversed(raw):
                mode.leave()
            signals.close()
            self._epoll.close()
            os.close(self._stdout)
            os.close(self._master)

    def _register(self, signals: int) -> None:
        self._epoll.register(self._master, select.EPOLLIN | select.EPOLLOUT | select.EPOLLET)
        self._epoll.register(signals, select.EPOLLIN)
        # What is to be told may have been received already, with the answer that opened the terminal.
        if self._on_watch is not None and self._on_watch():
            self._epoll.register(self._watch, select.EPOLLIN)

    def _resize(self) -> None:
        set_size(self._master, *size(self._size_fds))

    def _wait(self, signals: SignalPipe, raw: list[RawMode]) -> End | None:
        if not self._settled:
            self._settle()
        self._watch_stdin()
        for fd, events in self._epoll.poll(self._timeout()):
            if fd == self._master:
                if events & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR):
                    self._master_readable = True
                if events & (select.EPOLLOUT | select.EPOLLHUP | select.EPOLLERR):
                    self._master_writable = True
            elif fd == self._stdin:
                if (end := self._read_stdin()) is not None:
                    return end
            elif fd == self._stdout:
                self._epoll.unregister(self._stdout)
                self._stdout_waits = False
            elif fd == signals.fd:
                if (end := self._signals(signals, raw)) is not None:
                    return end
            elif fd == self._watch and self._on_watch is not None and not self._on_watch():
                self._epoll.unregister(self._watch)
        if self._stdin_always and self._may_read_stdin():
            return self._read_stdin()
        return None

    def _timeout(self) -> float:
        """Until when nothing but events can matter."""
        if self._stdin_open and not self._settled:
            return _TICK
        if self._stdin_always and self._may_read_stdin():
            return 0.0
        if not self._stdin_open:
            limit = _LINGER if self._keep else _QUIET
            return max(0.0, self._last_output + limit - time.monotonic())
        if self._hung_since:
            return max(0.0, self._hung_since + _GONE - time.monotonic())
        return -1.0

    def _settle(self) -> None:
        """May input that nobody types be sent yet?

        The guest's systemd resets the terminal before it starts anything on it, and drops what is in it by
        then. Output, or the flag that this reset sets, says that it is over; otherwise a time limit does.
        """
        if self._shown_or_reset() or time.monotonic() >= self._settle_until:
            self._settled = True

    def _shown_or_reset(self) -> bool:
        if self.shown:
            return True
        try:
            reset = bool(termios.tcgetattr(self._master)[0] & termios.IMAXBEL)
        except termios.error:
            return False
        if reset and not self._reset_at:
            self._reset_at = time.monotonic()
        # The input is dropped a moment after the flag is set.
        return bool(self._reset_at) and time.monotonic() - self._reset_at >= _DROP

    def _may_read_stdin(self) -> bool:
        return self._stdin_open and self._settled and len(self._input) < _BUFFER

    def _watch_stdin(self) -> None:
        """Input there is no room for must not be watched: a hang-up is reported even if nothing is asked."""
        wanted = self._may_read_stdin() and not self._stdin_always
        if wanted == self._stdin_watched:
            return
        if wanted:
            try:
                self._epoll.register(self._stdin, select.EPOLLIN)
            except PermissionError:
                self._stdin_always = True
                return
        else:
            self._epoll.unregister(self._stdin)
        self._stdin_watched = wanted

    def _signals(self, signals: SignalPipe, raw: list[RawMode]) -> End | None:
        for number in signals.read():
            if number in ENDING:
                self.signal = number
                return End.SIGNAL
            if number == signal.SIGTSTP:
                for mode in reversed(raw):
                    mode.leave()
                os.kill(os.getpid(), signal.SIGSTOP)
            if number in (signal.SIGTSTP, signal.SIGCONT):
                for mode in raw:
                    mode.enter()
            self._resize()
        return None

    def _read_stdin(self) -> End | None:
        try:
            data = os.read(self._stdin, 4096)
        except OSError:  # EIO: the terminal has hung up
            data = b""
        if not data:
            self._stdin_open = False
            if self._terminal:
                return End.INPUT
            # Within a line the first ^D only sends the line off.
            self._input += _END_OF_FILE if self._last_input == 0x0A else _END_OF_FILE * 2
            self._last_output = time.monotonic()
            return None
        if self._escaped(data):
            return End.ESCAPE
        self._last_input = data[-1]
        self._input += data
        return None

    def _escaped(self, data: bytes) -> bool:
        """Three times ^] in a row, within one second."""
        now = time.monotonic()
        for byte in data:
            if byte != _ESCAPE:
                self._escapes.clear()
                continue
            self._escapes = [t for t in self._escapes if now - t <= _ESCAPE_SECONDS]
            self._escapes.append(now)
            if len(self._escapes) >= _ESCAPE_TIMES:
                return True
        return False

    def _shovel(self) -> End | None:
        """Move what can be moved without waiting."""
        moved = True
        while moved:
            moved = self._to_master() | self._from_master() | self._to_stdout()
        if self._stdout_gone:
            return End.INPUT
        if self._hung_since and time.monotonic() - self._hung_since >= _GONE:
            self._master_gone = True  # nobody opens it again: there is no getty that comes back
        if self._master_gone and not self._output:
            return End.HANGUP
        return None if self._stdin_open or self._input else self._after_input()

    def _after_input(self) -> End | None:
        """Our input has ended and was delivered; the output is still wanted."""
        quiet = time.monotonic() - self._last_output
        if self._keep:
            # A getty comes back for ever; the session ends when it has nothing more to say.
            return End.INPUT if quiet >= _LINGER else None
        if quiet >= _QUIET:
            # An end of file is lost on a program that takes the terminal into raw mode after it came, as
            # shells do for their prompt: tell it again.
            self._input += _END_OF_FILE
            self._last_output = time.monotonic()
            self._to_master()
        return None

    def _to_master(self) -> bool:
        if not (self._input and self._master_writable) or self._master_gone:
            return False
        try:
            sent = os.write(self._master, self._input)
        except BlockingIOError:
            self._master_writable = False
            return False
        except OSError:  # EIO: nobody has the other side open; reading decides what that means
            self._master_writable = False
            return False
        del self._input[:sent]
        return True

    def _from_master(self) -> bool:
        if not self._master_readable or self._master_gone or len(self._output) >= _BUFFER:
            return False
        try:
            data = os.read(self._master, 16 * 1024)
        except BlockingIOError:
            self._master_readable = False
            return False
        except OSError:  # EIO: the other side is closed, everything written to it has been read
            data = b""
        if not data:
            self._master_readable = False
            self._master_gone = not self._keep
            if self.shown and not self._hung_since:
                self._hung_since = time.monotonic()
            return False
        self._hung_since = 0.0
        self._output += data
        self.shown += len(data)
        self.last_byte = data[-1]
        self._last_output = time.monotonic()
        return True

    def _to_stdout(self) -> bool:
        if not self._output or self._stdout_waits:
            return False
        try:
            written = os.write(self._stdout, self._output)
        except BlockingIOError:
            self._epoll.register(self._stdout, select.EPOLLOUT)
            self._stdout_waits = True
            return False
        except OSError:  # EPIPE, EIO: nobody looks any more
            self._stdout_gone = True
            self._output.clear()
            return False
        del self._output[:written]
        return True


def _nonblocking(fd: int) -> int:
    """An own descriptor for output that never blocks us, so that ^] is heard while the terminal is stopped.

    Opened anew: O_NONBLOCK on the one we were given would be on our parent's too. Files keep their position
    only with a duplicate, and never block; a terminal of another user's cannot be opened again.
    """
    mode = os.fstat(fd).st_mode
    if stat.S_ISCHR(mode) or stat.S_ISFIFO(mode):
        try:
            return os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        except OSError:
            pass
    return os.dup(fd)
