# SPDX-License-Identifier: LGPL-2.1-or-later
"""The forwarder between real pseudo terminals: the user's, and one that stands for a guest's."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import struct
import termios
import threading
import time
import tty
from collections.abc import Iterator

import pytest

from machinectl.ptyforward import End, Forwarder

from .fakebus import join

PATIENCE = 10.0


class Session:
    """A user's terminal and a guest's; the forwarder runs in the main thread, the test's part beside it."""

    def __init__(self) -> None:
        self.screen, self.terminal = os.openpty()
        self.master, self.slave = os.openpty()
        tty.setraw(self.slave)
        self._to_close = [self.screen, self.terminal]
        self.seen = b""
        self.failure: BaseException | None = None

    def run(self, forwarder: Forwarder, *steps: object) -> End:
        thread = threading.Thread(target=self._play, args=steps)
        thread.start()
        try:
            return forwarder.run()
        finally:
            join(thread)
            if self.failure:
                raise self.failure

    def _play(self, *steps: object) -> None:
        try:
            for step in steps:
                assert callable(step)
                step()
        except BaseException as error:
            self.failure = error
            os.kill(os.getpid(), signal.SIGTERM)

    def type(self, data: bytes) -> None:
        os.write(self.screen, data)

    def guest_says(self, data: bytes) -> None:
        os.write(self.slave, data)

    def hang_up(self) -> None:
        os.close(self.slave)

    def guest_hears(self, data: bytes) -> None:
        assert read_until(self.slave, data).endswith(data)

    def user_sees(self, data: bytes) -> None:
        self.seen = read_until(self.screen, data)
        assert data in self.seen

    def close(self) -> None:
        for fd in self._to_close:
            os.close(fd)
        try:
            os.close(self.slave)
        except OSError:
            return  # hung up by the test


def read_until(fd: int, wanted: bytes) -> bytes:
    data = b""
    deadline = time.monotonic() + PATIENCE
    while wanted not in data:
        left = deadline - time.monotonic()
        assert left > 0 and select.select([fd], [], [], left)[0], f"{wanted!r} is not in {data!r}"
        data += os.read(fd, 65536)
    return data


def window(fd: int) -> tuple[int, int]:
    rows, columns, _, _ = struct.unpack("HHHH", fcntl.ioctl(fd, termios.TIOCGWINSZ, bytes(8)))
    return rows, columns


def resize(fd: int, rows: int, columns: int) -> None:
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


@pytest.fixture
def session() -> Iterator[Session]:
    session = Session()
    yield session
    session.close()


def test_bytes_go_both_ways_and_a_hangup_ends_it(session: Session) -> None:
    before = termios.tcgetattr(session.terminal)
    forwarder = Forwarder(session.master, stdin=session.terminal, stdout=session.terminal)
    modes = []
    end = session.run(
        forwarder,
        lambda: session.guest_says(b"login: "),
        lambda: session.user_sees(b"login: "),
        lambda: modes.append(termios.tcgetattr(session.terminal)),
        lambda: session.type(b"root\x03\r"),
        lambda: session.guest_hears(b"root\x03\r"),
        lambda: session.guest_says(b"bye\n"),
        session.hang_up,
    )
    assert end is End.HANGUP
    assert modes[0][3] & (termios.ECHO | termios.ICANON | termios.ISIG) == 0
    assert termios.tcgetattr(session.terminal) == before
    assert (forwarder.shown, forwarder.last_byte) == (11, 0x0A)
    assert signal.getsignal(signal.SIGWINCH) is signal.SIG_DFL


def test_the_escape_sequence(session: Session) -> None:
    forwarder = Forwarder(session.master, stdin=session.terminal, stdout=session.terminal)
    end = session.run(
        forwarder,
        lambda: session.guest_says(b"# "),
        lambda: session.user_sees(b"# "),
        lambda: session.type(b"\x1d\x1dx\x1d"),
        lambda: session.guest_hears(b"\x1d\x1dx\x1d"),
        lambda: session.type(b"y\x1d\x1d"),
        lambda: session.guest_hears(b"y\x1d\x1d"),
        lambda: session.type(b"\x1d"),
    )
    assert end is End.ESCAPE


def test_slow_escapes_are_input(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr("machinectl.ptyforward.time.monotonic", lambda: clock[0])
    master, slave = os.openpty()
    forwarder = Forwarder(master)
    for moment, escaped in ((0.0, False), (0.6, False), (1.2, False), (1.5, True)):
        clock[0] = 100.0 + moment
        assert forwarder._escaped(b"\x1d") is escaped
    for fd in (master, slave, forwarder._stdout):
        os.close(fd)
    forwarder._epoll.close()


def test_the_window_size_is_passed_on(session: Session) -> None:
    resize(session.terminal, 33, 111)
    forwarder = Forwarder(session.master, stdin=session.terminal, stdout=session.terminal)
    sizes: list[tuple[int, int]] = []

    def changed() -> None:
        resize(session.terminal, 44, 122)
        os.kill(os.getpid(), signal.SIGWINCH)  # the kernel tells only who has it as controlling terminal
        session.type(b"x")
        session.guest_hears(b"x")
        deadline = time.monotonic() + PATIENCE
        while window(session.slave) != (44, 122) and time.monotonic() < deadline:
            os.sched_yield()

    session.run(
        forwarder,
        lambda: session.guest_says(b"# "),
        lambda: session.user_sees(b"# "),
        lambda: sizes.append(window(session.slave)),
        changed,
        lambda: sizes.append(window(session.slave)),
        session.hang_up,
    )
    assert sizes == [(33, 111), (44, 122)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT])
def test_signals_end_it_with_the_terminal_as_before(session: Session, number: signal.Signals) -> None:
    before = termios.tcgetattr(session.terminal)
    forwarder = Forwarder(session.master, stdin=session.terminal, stdout=session.terminal)
    end = session.run(
        forwarder,
        lambda: session.guest_says(b"# "),
        lambda: session.user_sees(b"# "),
        lambda: os.kill(os.getpid(), number),
    )
    assert (end, forwarder.signal) == (End.SIGNAL, number)
    assert termios.tcgetattr(session.terminal) == before


def test_a_login_outlives_hangups_of_its_getty(session: Session) -> None:
    """The other side is opened late, closed, opened again; the end is told over the watched descriptor."""
    name = os.ttyname(session.slave)
    session.hang_up()
    told, tell = os.pipe()
    forwarder: Forwarder

    os.set_blocking(told, False)

    def on_watch() -> bool:
        if drain(told):
            forwarder.end_at_hangup()
        return True

    forwarder = Forwarder(
        session.master,
        stdin=session.terminal,
        stdout=session.terminal,
        keep=True,
        watch=told,
        on_watch=on_watch,
    )

    def getty(text: bytes) -> None:
        fd = os.open(name, os.O_RDWR | os.O_NOCTTY)
        os.write(fd, text)
        session.user_sees(text)
        os.close(fd)

    end = session.run(
        forwarder, lambda: getty(b"first"), lambda: getty(b"second"), lambda: os.write(tell, b"x")
    )
    assert end is End.HANGUP
    os.close(told)
    os.close(tell)


def test_a_login_whose_getty_does_not_come_back(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("machinectl.ptyforward._GONE", 0.2)
    forwarder = Forwarder(session.master, stdin=session.terminal, stdout=session.terminal, keep=True)
    end = session.run(
        forwarder,
        lambda: session.guest_says(b"logout\n"),
        lambda: session.user_sees(b"logout\n"),
        session.hang_up,
    )
    assert end is End.HANGUP


def test_a_watched_descriptor_that_ends_does_not_end_the_session(session: Session) -> None:
    told, tell = os.pipe()
    os.close(tell)
    forwarder = Forwarder(
        session.master, stdin=session.terminal, stdout=session.terminal, watch=told, on_watch=lambda: False
    )
    end = session.run(
        forwarder, lambda: session.guest_says(b"on"), lambda: session.user_sees(b"on"), session.hang_up
    )
    assert end is End.HANGUP
    os.close(told)


def test_the_users_terminal_goes_away(session: Session) -> None:
    forwarder = Forwarder(session.master, stdin=session.terminal, stdout=session.terminal)

    def gone() -> None:
        session._to_close.remove(session.screen)
        os.close(session.screen)

    end = session.run(forwarder, lambda: session.guest_says(b"on"), lambda: session.user_sees(b"on"), gone)
    assert end is End.INPUT


# No terminals on our side


@pytest.fixture
def pipes() -> Iterator[tuple[int, int, int, int]]:
    """(our input, what fills it, our output's reader, our output)"""
    stdin, feed = os.pipe()
    reader, stdout = os.pipe()
    os.set_blocking(reader, False)
    yield stdin, feed, reader, stdout
    for fd in (stdin, feed, reader, stdout):
        try:
            os.close(fd)
        except OSError:
            continue


def drain(fd: int) -> bytes:
    data = b""
    try:
        while block := os.read(fd, 65536):
            data += block
    except BlockingIOError:
        return data
    return data


def test_the_end_of_the_input_loses_no_output(session: Session, pipes: tuple[int, int, int, int]) -> None:
    stdin, feed, reader, stdout = pipes
    os.write(feed, b"words\n")
    os.close(feed)
    forwarder = Forwarder(session.master, stdin=stdin, stdout=stdout)
    end = session.run(
        forwarder,
        lambda: session.guest_says(b"ready\n"),
        lambda: session.guest_hears(b"words\n\x04"),
        lambda: session.guest_says(b"late answer\n"),
        session.hang_up,
    )
    assert end is End.HANGUP
    assert drain(reader) == b"ready\nlate answer\n"


def test_an_unfinished_line_is_sent_off_first(session: Session, pipes: tuple[int, int, int, int]) -> None:
    stdin, feed, _, stdout = pipes
    os.write(feed, b"words")
    os.close(feed)
    forwarder = Forwarder(session.master, stdin=stdin, stdout=stdout)
    session.run(
        forwarder,
        lambda: session.guest_says(b"."),
        lambda: session.guest_hears(b"words\x04\x04"),
        session.hang_up,
    )


def test_input_waits_until_the_guest_has_reset_its_terminal(
    session: Session, pipes: tuple[int, int, int, int]
) -> None:
    stdin, feed, _, stdout = pipes
    os.write(feed, b"early\n")

    def reset() -> None:
        mode = termios.tcgetattr(session.slave)
        assert not select.select([session.slave], [], [], 0.2)[0]
        mode[0] |= termios.IMAXBEL
        termios.tcsetattr(session.slave, termios.TCSANOW, mode)

    session_mode = termios.tcgetattr(session.slave)
    session_mode[0] &= ~termios.IMAXBEL
    termios.tcsetattr(session.slave, termios.TCSANOW, session_mode)
    forwarder = Forwarder(session.master, stdin=stdin, stdout=stdout)
    session.run(forwarder, reset, lambda: session.guest_hears(b"early\n"), session.hang_up)


def test_a_login_with_no_input_ends_when_it_is_quiet(
    session: Session, pipes: tuple[int, int, int, int]
) -> None:
    _, _, reader, stdout = pipes
    null = os.open(os.devnull, os.O_RDONLY)
    forwarder = Forwarder(session.master, stdin=null, stdout=stdout, keep=True)
    end = session.run(forwarder, lambda: session.guest_says(b"box login: "))
    assert end is End.INPUT
    assert drain(reader) == b"box login: "
    os.close(null)


def test_a_lot_of_output_through_a_slow_reader(session: Session, pipes: tuple[int, int, int, int]) -> None:
    stdin, _, reader, stdout = pipes
    block = bytes(range(256)) * 4096  # more than all buffers on the way
    received = b""

    def write() -> None:
        rest = block
        while rest:
            rest = rest[os.write(session.slave, rest[:4096]) :]
        session.hang_up()

    def read() -> None:
        nonlocal received
        deadline = time.monotonic() + PATIENCE
        while len(received) < len(block) and time.monotonic() < deadline:
            if select.select([reader], [], [], 1)[0]:
                received += drain(reader)

    reading = threading.Thread(target=read)
    reading.start()
    assert session.run(Forwarder(session.master, stdin=stdin, stdout=stdout), write) is End.HANGUP
    join(reading)
    assert received == block


def test_nobody_reads_our_output(session: Session, pipes: tuple[int, int, int, int]) -> None:
    stdin, _, reader, stdout = pipes
    os.close(reader)
    end = session.run(
        Forwarder(session.master, stdin=stdin, stdout=stdout), lambda: session.guest_says(b"hello")
    )
    assert end is End.INPUT
