# SPDX-License-Identifier: LGPL-2.1-or-later
"""What one file, or one command line, says of settings: read by the table, nothing merged yet.

systemd-nspawn passes over what it does not understand in a .nspawn file, and so it stays: that is a warning.
In our own files, and on a command line, it is an error.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from machined.linux.inifile import Assignment, Document, Place
from machined.model.settings import table
from machined.model.settings.setting import Form, Setting, Trust


class Source(StrEnum):
    """Where a value comes from; those further down count more."""

    DEFAULT = "default"
    IMAGE = "image"
    """The .nspawn file beside the image."""
    UNIT = "unit drop-in"
    """One that was written for the unit of systemd's template."""
    PROFILE = "profile"
    NSPAWN = "nspawn"
    """The .nspawn file in /run or /etc."""
    MACHINE = "machine"
    """Our own file, and its drop-ins."""
    COMMAND = "command line"

    def is_trusted(self) -> bool:
        return self is not Source.IMAGE

    def is_ours(self) -> bool:
        return self in {Source.PROFILE, Source.MACHINE, Source.COMMAND}

    def may_say(self, setting: Setting) -> bool:
        """Whether this is a place for it at all."""
        is_of_unit = setting.form is Form.UNIT or setting.name == "Exec.Slice"
        return self.is_ours() or (is_of_unit if self is Source.UNIT else setting.nspawn_since is not None)


class Severity(StrEnum):
    """How bad it is."""

    ERROR = "error"
    """The machine does not start like this."""
    WARNING = "warning"
    """This counts for nothing, or does not what one may think."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something about the settings that a person should know."""

    severity: Severity
    place: Place | None
    text: str

    def __str__(self) -> str:
        return f"{self.place}: {self.text}" if self.place else self.text


@dataclass(frozen=True, slots=True)
class Line:
    """The values of one assignment; none for an empty one, which forgets what was said before."""

    setting: Setting
    values: tuple[str, ...]
    source: Source
    place: Place | None


@dataclass(slots=True)
class Layer:
    """What one source says."""

    source: Source
    lines: list[Line] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)


def read(document: Document, source: Source, version: int) -> Layer:
    """What a file says to systemd-nspawn of this version."""
    layer = Layer(source)
    layer.findings += [_bad(source, complaint.place, complaint.text) for complaint in document.complaints]
    for section in dict.fromkeys(document.sections):
        if section not in table.SECTIONS:
            place = Place(document.path)
            known = ", ".join(f"[{name}]" for name in table.SECTIONS)
            layer.findings.append(
                _bad(source, place, f"unknown section [{section}]; there are {known}.{_ignored(source)}")
            )
    _read_lines(layer, (a for a in document.assignments if a.section in table.SECTIONS), version)
    return layer


def from_command_line(words: Iterable[str], version: int) -> Layer:
    """What `[Section.]Key=value` words say."""
    layer = Layer(Source.COMMAND)
    assignments = []
    for word in words:
        name, separator, value = word.partition("=")
        section, dot, key = name.rpartition(".")
        if not separator or not key:
            text = f"'{word}' must be Key=value or Section.Key=value."
            layer.findings.append(Finding(Severity.ERROR, None, text))
            continue
        if not dot:
            setting = table.by_key(key)
            section = setting.section if setting else ""
        assignments.append(Assignment(section, key, value.strip(), Place("command line")))
    _read_lines(layer, assignments, version)
    return layer


def _read_lines(layer: Layer, assignments: Iterable[Assignment], version: int) -> None:
    for assignment in assignments:
        line = _line(layer, assignment, version)
        if line is not None:
            layer.lines.append(line)


def _line(layer: Layer, said: Assignment, version: int) -> Line | None:
    source = layer.source

    def bad(text: str) -> None:
        layer.findings.append(_bad(source, said.place, text + _ignored(source)))

    setting = table.find(said.section, said.key)
    if setting is None or not source.may_say(setting):
        bad(_unknown(said, setting))
        return None
    if not setting.is_known_to(version):
        bad(f"{setting} {_needs(setting)}, this host has {version}.")
        return None
    if not said.value:
        return Line(setting, (), source, said.place)
    try:
        values = setting.kind.values(said.value)
    except ValueError as error:
        bad(f"{setting}{_short(said.value)} is not valid: {error}.")
        return None
    if not source.is_trusted() and setting.trust is not Trust.ALL:
        values = values if setting.trust is Trust.PROHIBITING and values[:1] and values[0][0] == "~" else []
        if not values:
            text = f"{setting}{_short(said.value)} may not come with an image. Ignored."
            layer.findings.append(Finding(Severity.WARNING, said.place, text))
            return None
    if not setting.many and len(values) > 1:
        bad(f"{setting}{_short(said.value)} is not valid: one value only.")
        return None
    return Line(setting, tuple(values), source, said.place)


def _bad(source: Source, place: Place | None, text: str) -> Finding:
    return Finding(Severity.ERROR if source.is_ours() else Severity.WARNING, place, text)


def _ignored(source: Source) -> str:
    return "" if source.is_ours() else " Ignored."


def _needs(setting: Setting) -> str:
    if setting.until:
        return f"is known to systemd before {setting.until} only"
    return f"needs systemd {setting.since}"


def _unknown(said: Assignment, setting: Setting | None) -> str:
    if setting is not None:
        return (
            f"{setting} is no key of .nspawn files; write it to /etc/machined/machines/NAME.conf "
            f"(machinectl set NAME {said.key}=…)."
        )
    elsewhere = table.by_key(said.key)
    if elsewhere is not None:
        return f"[{said.section}] has no key '{said.key}'; it belongs to [{elsewhere.section}]."
    keys = [setting.key for setting in table.SETTINGS]
    near = difflib.get_close_matches(said.key, keys, 1)
    hint = f"did you mean '{near[0]}'?" if near else "'man 5 systemd.nspawn' and docs/settings.md have all."
    where = f"[{said.section}] has no key" if said.section else "There is no setting"
    return f"{where} '{_short(said.key)}'; {hint}"


def _short(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:79]}…"
