# SPDX-License-Identifier: LGPL-2.1-or-later
"""A terminal for the programs of a host, and what a person sees on it."""

from __future__ import annotations

import os
import re
import select
import termios
import time
from types import TracebackType
from typing import Self

from tests.integration.driver import Driver

TERM = "xterm-256color"
# Control sequences that terminals obey and people do not see (ECMA-48).
SEQUENCES = re.compile(
    rb"\x1b\[[0-9;?]*[A-Za-z]|\x1b\][^\x07\x1b]*(\x07|\x1b\\)|\x1b[()][A-Z0-9]|\x1b[=>78]"
)


class Terminal:
    """A terminal with a program of the host on it."""

    def __init__(self, managed: Driver, argv: list[str], rows: int = 33, columns: int = 101) -> None:
        self.ours, self.theirs = managed.host.openpty()
        self.resize(rows, columns)
        self.before = termios.tcgetattr(self.theirs)
        environment = {"TERM": TERM}
        self.process = managed.host.popen(
            argv, stdin=self.theirs, stdout=self.theirs, stderr=self.theirs, tty=True, env=environment
        )
        self.seen = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.ours)
        os.close(self.theirs)

    def resize(self, rows: int, columns: int) -> None:
        termios.tcsetwinsize(self.ours, (rows, columns))

    def type(self, text: str | bytes) -> None:
        os.write(self.ours, text.encode() if isinstance(text, str) else text)

    def read(self, timeout: float = 0.5) -> bool:
        """Take what has come; False when nothing did."""
        if not select.select([self.ours], [], [], timeout)[0]:
            return False
        self.seen += SEQUENCES.sub(b"", os.read(self.ours, 65536))
        return True

    def expect(self, pattern: str, timeout: float = 30) -> re.Match[bytes]:
        """Wait until a pattern is on the screen, and forget everything up to it."""
        deadline = time.monotonic() + timeout
        while (match := re.search(pattern.encode(), self.seen)) is None:
            assert time.monotonic() < deadline, f"'{pattern}' did not come, but {self.seen!r}"
            self.read()
        self.seen = self.seen[match.end() :]
        return match

    def ended(self) -> int:
        """Wait for the program's end; its exit status."""
        deadline = time.monotonic() + 30
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"it did not end: {self.seen!r}"
            self.read(0.05)
        while self.read(0):
            pass
        assert termios.tcgetattr(self.theirs) == self.before, "the terminal was not restored"
        return self.process.returncode
