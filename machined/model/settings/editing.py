# SPDX-License-Identifier: LGPL-2.1-or-later
"""Changing single settings in a file: what else is in it, comments and line ends too, stays as it is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from machined.linux import inifile
from machined.model.configured import check
from machined.model.errors import MachineError, Problem, invalid
from machined.model.images import Image
from machined.model.settings import files, layers, sources, table
from machined.model.settings.layers import Finding, Severity
from machined.model.settings.merge import Effective
from machined.model.settings.setting import Setting
from machined.model.settings.words import join_words

FILE: Final = "50-set.conf"
RUNTIME_FILE: Final = "51-set.conf"
"""In /run. It has another name than the one in /etc, which would hide it, and counts more than that."""
_HEADER: Final = "# Written by 'machinectl set'; other lines may be changed by hand."


@dataclass(frozen=True, slots=True)
class Change:
    """`Key=value`, `Key+=value`, or, without a value, `Key=`."""

    setting: Setting
    value: str
    add: bool = False


@dataclass(frozen=True, slots=True)
class Edited:
    """What would be written, nothing being an empty file's removal, and what would hold then."""

    files: dict[Path, bytes]
    effective: Effective


def parse(words: Sequence[str], version: int) -> list[Change]:
    """What `[Section.]Key=value` words wish for.

    Raises MachineError (INVALID_ARGS) with all that is wrong with them.
    """
    changes: list[Change] = []
    wrong: list[str] = []
    for word in words:
        name, separator, value = word.partition("=")
        add = name.endswith("+")
        layer = layers.from_command_line([f"{name.removesuffix('+')}{separator}{value}"], version)
        if layer.findings:
            wrong += [finding.text for finding in layer.findings]
            continue
        change = Change(layer.lines[0].setting, value.strip(), add)
        if add and not (change.setting.many and change.value):
            wrong.append(
                f"{change.setting} has one value only, say Key=value."
                if not change.setting.many
                else f"{change.setting} += needs a value to add."
            )
        elif _is_open(change.value.encode()):
            wrong.append(f"{change.setting}{value}: a file cannot have a value that ends with a backslash.")
        else:
            changes.append(change)
    if wrong:
        shown = "\n".join(f"  {text}" for text in wrong)
        raise invalid(f"Nothing was done:\n{shown}")
    return changes


def set_settings(
    name: str, image: Image | None, version: int, words: Sequence[str], *, runtime: bool = False
) -> Edited:
    """Settings of a machine changed in our own drop-in, and looked at together with all others.

    Raises MachineError (INVALID_ARGS, INVALID_SETTINGS), OSError.
    """
    changes = parse(words, version)
    path = sources.drop_in(name, RUNTIME_FILE if runtime else FILE, runtime=runtime)
    new: dict[Path, bytes] = {}
    if not runtime:
        # What is said for good is said last.
        later = sources.drop_in(name, RUNTIME_FILE, runtime=True)
        if data := files.read(later):
            forgotten = [Change(change.setting, "") for change in changes if not change.add]
            new[later] = _tidied(edited(data, str(later), forgotten, Effective()))
    others = sources.load(name, image, version, instead={**new, path: b""})
    before = files.read(path)
    new[path] = _tidied(edited(before, str(path), changes, others))
    effective = sources.load(name, image, version, instead=new)
    check(name, effective.errors())
    effective.findings += list(_hidden(changes, effective, path))
    return Edited({file: data for file, data in new.items() if data != files.read(file)}, effective)


def _hidden(changes: Iterable[Change], effective: Effective, path: Path) -> Iterator[Finding]:
    """What was said and does not count, as another file says otherwise after this one."""
    for setting in dict.fromkeys(change.setting for change in changes if change.value):
        values = effective.values.get(setting, ())
        if values and not any(value.place and value.place.path == str(path) for value in values):
            text = f"{setting} is overridden by {values[-1].origin}."
            yield Finding(Severity.WARNING, None, text)


def edited(data: bytes, path: str, changes: Iterable[Change], others: Effective) -> bytes:
    """A file with these changes; `others` is what holds without it.

    Raises MachineError (INVALID_SETTINGS) for a file that is none.
    """
    try:
        inifile.parse(data, path)
    except inifile.InvalidFileError as error:
        raise MachineError(
            Problem.INVALID_SETTINGS, f"{error} Mend that file first, nothing was done."
        ) from None
    file = _File(data)
    begun: set[Setting] = set()
    for change in changes:
        setting = change.setting
        again = setting.many and setting in begun and bool(change.value)
        begun.add(setting)
        if change.add or again:
            file.add(change, others)
        elif change.value or others.is_set(setting.section, setting.key):
            file.replace(setting, change.value)
        else:
            file.remove(setting)
    return bytes(file)


def _tidied(data: bytes) -> bytes:
    """Nothing for a file that says nothing and in which nobody has written anything."""
    text = data.decode(errors="replace")
    lines = (line.strip() for line in text.splitlines())
    return data if any(line and line != _HEADER and line[0] != "[" for line in lines) else b""


def _is_comment(line: bytes) -> bool:
    return line.lstrip()[:1] in {b"#", b";"}


def _is_open(line: bytes) -> bool:
    """Whether the next line goes on with this one."""
    return (len(line) - len(line.rstrip(b"\\"))) % 2 == 1


@dataclass(slots=True)
class _Part:
    """A header, an assignment with all its lines, or what is neither. `key` empty: no assignment."""

    lines: list[tuple[bytes, bytes]]
    section: str = ""
    key: str = ""
    is_header: bool = False

    def value(self) -> str:
        texts = [line[:-1] if _is_open(line) else line for line, _ in self.lines if not _is_comment(line)]
        return b" ".join(texts).strip().decode().partition("=")[2].strip()


class _File:
    """A file in parts."""

    def __init__(self, data: bytes) -> None:
        self._bom = data[: len(data) - len(data.removeprefix(b"\xef\xbb\xbf"))]
        data = data.removeprefix(self._bom)
        self._parts = list(_parts(data))
        ends = [end for part in self._parts for _, end in part.lines if end]
        self._end = ends[0] if ends else b"\n"
        if not data.strip():
            self._parts = [_Part([(_HEADER.encode(), self._end)])]

    def __bytes__(self) -> bytes:
        return self._bom + b"".join(line + end for part in self._parts for line, end in part.lines)

    def _of(self, setting: Setting) -> list[int]:
        return [
            number
            for number, part in enumerate(self._parts)
            if (part.section, part.key) == (setting.section, setting.key)
        ]

    def remove(self, setting: Setting) -> None:
        self._put(setting, [])

    def replace(self, setting: Setting, value: str) -> None:
        """In the place of the first one."""
        found = self._of(setting)
        if [self._parts[number].value() for number in found] == [value]:
            return
        if found:
            self._put(setting, [self._part(setting, value)])
        else:
            self._append(setting, value)

    def _put(self, setting: Setting, new: list[_Part]) -> None:
        """These instead of all that there are; comments between the lines of one stay."""
        parts: list[_Part] = []
        for part in self._parts:
            if (part.section, part.key) != (setting.section, setting.key):
                parts.append(part)
                continue
            comments = [(line, end or self._end) for line, end in part.lines if _is_comment(line)]
            parts += [_Part(comments)] if comments else []
            parts += new
            new = []
        self._parts = parts

    def add(self, change: Change, others: Effective) -> None:
        setting = change.setting
        found = self._of(setting)
        if not setting.whole and change.value in [self._parts[number].value() for number in found]:
            return
        if setting.whole and not found and (held := others.all(setting.section, setting.key)):
            # Such a line takes the place of those of other files, so it says what they say.
            self._append(setting, join_words([value.text for value in held]))
        self._append(setting, change.value)

    def _part(self, setting: Setting, value: str) -> _Part:
        line = f"{setting.key}={value}".encode()
        return _Part([(line, self._end)], setting.section, setting.key)

    def _append(self, setting: Setting, value: str) -> None:
        """After the last one of its key, or else of its section, or else at the end."""
        part = self._part(setting, value)
        same = self._of(setting) or [
            number
            for number, other in enumerate(self._parts)
            if other.section == setting.section and (other.key or other.is_header)
        ]
        place = same[-1] + 1 if same else len(self._parts)
        new = [part]
        if not same:
            header = _Part([(f"[{setting.section}]".encode(), self._end)], setting.section, is_header=True)
            new = [_Part([(b"", self._end)]), header, part] if self._parts else [header, part]
        self._close(place - 1)
        self._parts[place:place] = new

    def _close(self, number: int) -> None:
        """See to it that the next part begins on a line of its own."""
        if number < 0:
            return
        lines = self._parts[number].lines
        line, end = lines[-1]
        lines[-1] = (line, end or self._end)
        last = next((line for line, _ in reversed(lines) if not _is_comment(line)), b"")
        if _is_open(last):
            lines.append((b"", self._end))


def _parts(data: bytes) -> Iterator[_Part]:
    section = ""
    lines: list[tuple[bytes, bytes]] = []
    for line, end in inifile.physical_lines(data):
        if _is_comment(line) and not lines:
            yield _Part([(line, end)])
            continue
        lines.append((line, end))
        if not _is_comment(line) and not _is_open(line):
            part = _part_of(lines, section)
            section = part.section if part.is_header else section
            yield part
            lines = []
    if lines:
        yield _part_of(lines, section)


def _part_of(lines: list[tuple[bytes, bytes]], section: str) -> _Part:
    texts = [line[:-1] if _is_open(line) else line for line, _ in lines if not _is_comment(line)]
    try:
        text = b" ".join(texts).strip().decode()
    except UnicodeDecodeError:
        return _Part(lines)
    if text.startswith("["):
        return _Part(lines, text[1:-1], is_header=True)
    key, separator, _ = text.partition("=")
    known = separator and table.find(section, key.strip()) is not None
    return _Part(lines, section, key.strip()) if known else _Part(lines)
