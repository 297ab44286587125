# SPDX-License-Identifier: LGPL-2.1-or-later
"""Files in the syntax of systemd.syntax(7): repeated keys, continued lines, and where each one was said.

It reads what PID 1 and systemd-nspawn would read, and tells what they would pass over with a warning.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from machined.linux.fds import OwnedFd

LINE_MAX: Final = 1024 * 1024
"""Bytes of a line; a longer one makes the whole file invalid, as with systemd."""
FILE_MAX: Final = 4 * 1024 * 1024
"""Bytes of a file."""
_NULL: Final = os.makedev(1, 3)
_BOM: Final = b"\xef\xbb\xbf"
# A line ends at each of these, a pair of two different ones counts as one end.
_ENDS: Final = re.compile(rb"\r\n|\n\r|\r|\n|\0")


@dataclass(frozen=True, slots=True)
class Place:
    """A line of a file, counted from 1; 0 for the file as a whole."""

    path: str
    line: int = 0

    def __str__(self) -> str:
        return f"{self.path}:{self.line}" if self.line else self.path


@dataclass(frozen=True, slots=True)
class Assignment:
    """One `Key=value`; the value is stripped, and joined where its line was continued."""

    section: str
    key: str
    value: str
    place: Place


@dataclass(frozen=True, slots=True)
class Complaint:
    """What is wrong with a line, which counts for nothing."""

    place: Place
    text: str

    def __str__(self) -> str:
        return f"{self.place}: {self.text}"


@dataclass(frozen=True, slots=True)
class Document:
    """What a file says, in its order."""

    path: str
    assignments: tuple[Assignment, ...] = ()
    complaints: tuple[Complaint, ...] = ()
    sections: tuple[str, ...] = ()


class InvalidFileError(Exception):
    """A file that cannot be read as settings at all; says which line and why."""


def read(path: str | os.PathLike[str], *, shown: str = "") -> Document | None:
    """What a file says; None where there is none. It is called `shown` in what is said of it.

    Raises OSError, InvalidFileError for what is no regular file or too large.
    """
    shown = shown or os.fspath(path)
    try:
        # Not waiting for the other end of somebody's FIFO.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except FileNotFoundError:
        return None
    with OwnedFd(fd):
        status = os.fstat(fd)
        if stat.S_ISCHR(status.st_mode) and status.st_rdev == _NULL:
            return Document(shown)  # a link to /dev/null: a file that is to say nothing (systemd.unit(5))
        if not stat.S_ISREG(status.st_mode):
            raise InvalidFileError(f"{shown}: not a regular file.")
        with os.fdopen(fd, "rb", closefd=False) as file:
            data = file.read(FILE_MAX + 1)
    return parse(data, shown)


def parse(data: bytes, path: str) -> Document:
    """What these bytes say. Raises InvalidFileError."""
    if len(data) > FILE_MAX:
        raise InvalidFileError(f"{path}: larger than {FILE_MAX >> 20} MiB, which no settings file is.")
    reader = _Reader(path)
    for number, line in _lines(data.removeprefix(_BOM), path):
        reader.line(line, Place(path, number))
    return Document(path, tuple(reader.assignments), tuple(reader.complaints), tuple(reader.sections))


def physical_lines(data: bytes) -> list[tuple[bytes, bytes]]:
    """Each line as it stands and its end, which the last one may not have; together they are the file."""
    lines: list[tuple[bytes, bytes]] = []
    start = 0
    for end in _ENDS.finditer(data):
        lines.append((data[start : end.start()], end[0]))
        start = end.end()
    return [*lines, (data[start:], b"")] if start < len(data) else lines


def _lines(data: bytes, path: str) -> Iterator[tuple[int, bytes]]:
    """Each whole line, with the number of its first part; no comments, no empty ones."""
    parts: list[bytes] = []
    first = size = 0
    for number, line in enumerate(_ENDS.split(data), 1):
        size += len(line)
        if size > LINE_MAX:
            raise InvalidFileError(f"{path}:{number}: a line is longer than {LINE_MAX >> 20} MiB.")
        if line.lstrip()[:1] in {b"#", b";"}:
            size -= len(line)
            continue  # also between the parts of a continued line
        first = first or number
        # An even number of them is that many escaped ones.
        continued = (len(line) - len(line.rstrip(b"\\"))) % 2
        parts.append(line[:-1] if continued else line)
        if continued:
            continue
        if whole := b" ".join(parts).strip():
            yield first, whole
        parts.clear()
        first = size = 0
    if whole := b" ".join(parts).strip():
        yield first, whole


class _Reader:
    """The state between two lines."""

    def __init__(self, path: str) -> None:
        self.assignments: list[Assignment] = []
        self.complaints: list[Complaint] = []
        self.sections: list[str] = []
        self._section: str | None = None

    def line(self, line: bytes, place: Place) -> None:
        try:
            text = line.decode()
        except UnicodeDecodeError:
            self._complain(place, "not valid UTF-8, ignored.")
            return
        if text.startswith("["):
            self._header(text, place)
            return
        key, separator, value = text.partition("=")
        key = key.strip()
        if not separator:
            self._complain(place, f"'{_short(text)}' is no assignment (Key=value), ignored.")
        elif not key:
            self._complain(place, "nothing stands before the '=', ignored.")
        elif self._section is None:
            self._complain(place, f"'{_short(key)}=' stands before any [Section], ignored.")
        elif self._section and not key.startswith("X-"):
            self.assignments.append(Assignment(self._section, key, value.strip(), place))

    def _header(self, text: str, place: Place) -> None:
        name = text[1:-1]
        if not text.endswith("]") or not name:
            # For systemd as well this is the end of the whole file: whose keys would those below be?
            raise InvalidFileError(f"{place}: '{_short(text)}' is no section header ([Section]).")
        # Sections of other programs are theirs (systemd.syntax(7)).
        self._section = "" if name.startswith("X-") else name
        if self._section:
            self.sections.append(name)

    def _complain(self, place: Place, text: str) -> None:
        self.complaints.append(Complaint(place, text))


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:59]}…"
