# SPDX-License-Identifier: LGPL-2.1-or-later
"""A command on a terminal of its own, what it says shown on ours, and keys typed at the right moment."""

from __future__ import annotations

import fcntl
import os
import re
import select
import shlex
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Mapping, Sequence
from typing import Protocol

PATIENCE = 120.0  # seconds; the machine may have other things to do

# CSI and OSC sequences, and the few others a shell or getty may send (ECMA-48).
_ESCAPES = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)|[ -/]*[0-~])")


class Surprise(Exception):
    """Something is not as it should be; the text says what."""


class Screen:
    """Our stdout. Control sequences get through to a terminal only."""

    def __init__(self) -> None:
        self.is_terminal = sys.stdout.isatty()
        self._line = ""

    def say(self, text: str) -> None:
        """A line of our own."""
        self.end()
        print(text, flush=True)

    def show(self, text: str) -> None:
        """What a command has said: as it comes on a terminal, else line by line and plain."""
        if self.is_terminal:
            sys.stdout.write(text)
            sys.stdout.flush()
        *lines, self._line = (self._line + text).split("\n")
        if not self.is_terminal:
            for line in lines:
                print(plain(line).rstrip(), flush=True)

    def end(self) -> None:
        """Finish a line that a command has left open."""
        if plain(self._line):
            print("" if self.is_terminal else plain(self._line), flush=True)
        self._line = ""


def plain(text: str) -> str:
    """Without control sequences."""
    return _ESCAPES.sub("", text).replace("\r", "").replace("\a", "")


class Place(Protocol):
    """Where commands run."""

    def openpty(self) -> tuple[int, int]:
        """A terminal: (our end, its end)."""

    def popen(self, argv: Sequence[str], terminal: int, env: Mapping[str, str]) -> subprocess.Popen[str]:
        """Start a command on a terminal."""


class Session:
    """A command on a terminal, what it says on ours; made, and its end waited for, by `Demo`."""

    def __init__(self, place: Place, argv: Sequence[str], screen: Screen) -> None:
        self._screen = screen
        self.said = ""
        self._unread = 0
        self._command = shlex.join(argv)
        self._ours, its = place.openpty()
        size = os.get_terminal_size() if screen.is_terminal else os.terminal_size((100, 40))
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", size.lines, size.columns, 0, 0))
        terminal = os.environ.get("TERM", "") if screen.is_terminal else ""
        try:
            self._process = place.popen(argv, its, {"TERM": terminal or "xterm-256color"})
        finally:
            os.close(its)

    def _read(self, deadline: float) -> bool:
        """Show what comes next; False at the end."""
        if not select.select([self._ours], [], [], max(0.0, deadline - time.monotonic()))[0]:
            raise Surprise(f"'{self._command}' took longer than {PATIENCE:.0f} s")
        try:
            data = os.read(self._ours, 65536)
        except OSError:  # EIO: everybody has closed the other end
            data = b""
        text = data.decode(errors="replace")
        self._screen.show(text)
        self.said += text
        return bool(data)

    def expect(self, pattern: str) -> str:
        """Wait until what was said since the last time ends with the pattern; return all of that."""
        deadline = time.monotonic() + PATIENCE
        while re.search(f"({pattern})$", said := plain(self.said[self._unread :])) is None:
            if not self._read(deadline):
                raise Surprise(f"'{self._command}' ended, and '{pattern}' was to come from it")
        self._unread = len(self.said)
        return said

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def finish(self) -> str:
        """Wait for the end; return all that was said. Raises Surprise when it has failed."""
        deadline = time.monotonic() + PATIENCE
        while self._read(deadline):
            pass
        self._screen.end()
        if (status := self._process.wait(10)) != 0:
            raise Surprise(f"the exit status of '{self._command}' is {status}")
        return plain(self.said)

    def close(self) -> None:
        """Have the command end, whatever it is doing."""
        os.close(self._ours)
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait(10)
