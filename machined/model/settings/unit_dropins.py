# SPDX-License-Identifier: LGPL-2.1-or-later
"""What was written for the unit of systemd's template, systemd-nspawn@NAME.service: drop-ins, set-property.

Machines of ours run in machine-NAME.service, which PID 1 does not make of that template. So its limits and
devices are taken over, and what cannot be is named. Drop-ins for machine-NAME.service itself are PID 1's.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from machined.linux import inifile
from machined.linux.inifile import Assignment, Document, Place
from machined.model.settings import layers, section_service, table
from machined.model.settings.layers import Finding, Layer, Severity, Source
from machined.model.settings.setting import Setting

UNITS: Final = tuple(
    Path(directory)
    for directory in (
        "/etc/systemd/system.control",
        "/run/systemd/system.control",
        "/run/systemd/transient",
        "/etc/systemd/system",
        "/run/systemd/system",
        "/usr/local/lib/systemd/system",
        "/usr/lib/systemd/system",
    )
)
"""Where PID 1 looks for units, those before counting more."""
_TRANSIENT: Final = Path("/run/systemd/transient")
_TEMPLATE: Final = "systemd-nspawn@"
FILES_MAX: Final = 256

# What the template says itself, and machines of ours have as well.
_AS_OURS: Final = {
    "Type": {"notify"},
    "KillMode": {"mixed"},
    "Delegate": {"yes", "true", "on", "1"},
    "DelegateSubgroup": {"supervisor"},
    "RestartForceExitStatus": {"133"},
    "SuccessExitStatus": {"133"},
}
_TWO_IN_ONE: Final = {"TimeoutSec": ("TimeoutStartSec", "TimeoutStopSec")}
_ELSEWHERE: Final = "the options of systemd-nspawn are settings, in /etc/machined/machines/{name}.conf"
_SPECIFIER: Final = re.compile(r"%(.)")
# Keys in which PID 1 replaces specifiers.
_WITH_SPECIFIERS: Final = frozenset(
    (
        "Slice",
        "DeviceAllow",
        "IODeviceWeight",
        "IOReadBandwidthMax",
        "IOWriteBandwidthMax",
        "IOReadIOPSMax",
        "IOWriteIOPSMax",
        "IODeviceLatencyTargetSec",
        "IPIngressFilterPath",
        "IPEgressFilterPath",
        "BPFProgram",
    )
)


def unit_name(name: str) -> str:
    """The unit of systemd's template for a machine."""
    return f"{_TEMPLATE}{name}.service"


def _directories(units: tuple[str, ...]) -> Iterator[Path]:
    for directory in UNITS:
        for unit in units:
            yield directory / f"{unit}.d"


def _drop_ins(units: tuple[str, ...]) -> list[Path]:
    """In the order of their names, wherever they are; the first of one name is all there is of it."""
    found: dict[str, Path] = {}
    for directory in _directories(units):
        try:
            entries = os.listdir(directory)
        except OSError:
            continue  # most of them are not there
        for entry in sorted(entries)[:FILES_MAX]:
            if entry.endswith(".conf") and not entry.startswith("."):
                found.setdefault(entry, directory / entry)
    return [found[entry] for entry in sorted(found) if not _is_mask(found[entry])]


def _is_mask(path: Path) -> bool:
    return os.path.realpath(path) == os.devnull


def has_own(name: str) -> bool:
    """Whether anybody wrote something for the template's unit of this very machine."""
    unit = unit_name(name)
    return bool(_drop_ins((unit,))) or _instead((unit,)) is not None


def _instead(units: tuple[str, ...]) -> Path | None:
    """A unit file of this very machine, or a template in the place of systemd's."""
    for unit in units:
        for directory in UNITS[:-1]:
            path = directory / unit
            # Links are how units are enabled under other names, or masked.
            if path.is_file() and not path.is_symlink():
                return path
    return None


def files(name: str) -> list[Path]:
    """Drop-ins for the template's unit of a machine, the later ones counting more."""
    return _drop_ins((unit_name(name), f"{_TEMPLATE}.service"))


def own_drop_ins(name: str) -> list[Path]:
    """Drop-ins that PID 1 itself puts on machine-NAME.service, over all that we tell it."""
    unit = f"machine-{name}.service"
    # Of a name with dashes in it also those for all that begin like it.
    stems = [unit.removesuffix(".service")]
    while "-" in stems[-1].rstrip("-"):
        stems.append(stems[-1].rstrip("-").rpartition("-")[0] + "-")
    units = (unit, *(f"{stem}.service" for stem in stems[1:]), "service")
    return _drop_ins(units)


def overriding(name: str, settings: Iterable[Setting]) -> list[Finding]:
    """Where drop-ins of the machine's unit itself say these, and so count more than all settings do."""
    keys = {setting.key for setting in settings}
    findings = []
    for path in own_drop_ins(name):
        if path.is_relative_to(_TRANSIENT):
            continue  # of what was changed while the machine runs, and gone with it
        try:
            document = inifile.read(path)
        except (OSError, inifile.InvalidFileError):
            continue  # PID 1 says so
        for said in document.assignments if document is not None else ():
            if said.section == section_service.SECTION and said.key in keys:
                text = f"{said.key}={said.value} counts more, whenever machine-{name}.service is started."
                findings.append(Finding(Severity.WARNING, said.place, text))
    return findings


def layer(name: str, version: int) -> Layer:
    """What all of them say. What cannot be honoured is a finding, never an error."""
    result = Layer(Source.UNIT)
    base = _instead((unit_name(name), f"{_TEMPLATE}.service"))
    if base is not None:
        _add(result, base, name, version, whole=True)
    for path in files(name):
        _add(result, path, name, version)
    return result


def _add(result: Layer, path: Path, name: str, version: int, *, whole: bool = False) -> None:
    try:
        document = inifile.read(path)
    except (OSError, inifile.InvalidFileError) as error:
        text = str(error) if isinstance(error, inifile.InvalidFileError) else f"{path}: {error.strerror}."
        result.findings.append(Finding(Severity.WARNING, None, f"{text} Ignored."))
        return
    if document is None:
        return
    kept: list[Assignment] = []
    others: list[Assignment] = []
    for said in document.assignments:
        taken = list(_taken(said, name))
        kept += taken
        if not taken and not _is_as_ours(said):
            others.append(said)
    known = Document(document.path, tuple(kept), document.complaints)
    read = layers.read(known, Source.UNIT, version)
    result.lines += read.lines
    result.findings += read.findings
    result.findings += [
        Finding(Severity.WARNING, said.place, _empty_devices())
        for said in kept
        if said.key == "DeviceAllow" and not said.value
    ]
    if whole and others:
        keys = ", ".join(dict.fromkeys(f"{said.key}=" for said in others))
        where = unit_name(name)
        text = (
            f"a unit of its own for {where}, of which limits and devices count for machine-{name}.service "
            f"as well, but not {keys}; {_ELSEWHERE.format(name=name)}."
        )
        result.findings.append(Finding(Severity.WARNING, Place(document.path), text))
    else:
        result.findings += [
            Finding(Severity.WARNING, said.place, _not_honoured(said, name)) for said in others
        ]


def _taken(said: Assignment, name: str) -> Iterator[Assignment]:
    """What it is with us; nothing where we cannot honour it."""
    if said.section != section_service.SECTION:
        return
    for key in _TWO_IN_ONE.get(said.key, (said.key,)):
        if key == "Slice":
            yield Assignment("Exec", key, _expanded(said, name), said.place)
        elif key in section_service.BY_KEY:
            yield Assignment(said.section, key, _expanded(said, name), said.place)


def _expanded(said: Assignment, name: str) -> str:
    if said.key not in _WITH_SPECIFIERS:
        return said.value
    known = {"%": "%", "i": name, "I": name.replace("-", "/"), "p": _TEMPLATE[:-1], "P": _TEMPLATE[:-1]}
    known |= {"n": unit_name(name), "N": unit_name(name).removesuffix(".service")}
    # The others stay, and make the value one that is not valid.
    return _SPECIFIER.sub(lambda found: known.get(found[1], found[0]), said.value)


def _is_as_ours(said: Assignment) -> bool:
    return said.section == "Install" or (
        said.section == section_service.SECTION and said.value.lower() in _AS_OURS.get(said.key, ())
    )


def _empty_devices() -> str:
    return "DeviceAllow= without a value forgets those before, but not the devices that every machine needs."


def _not_honoured(said: Assignment, name: str) -> str:
    what = f"[{said.section}] {said.key}= is written for {unit_name(name)} and does not count: "
    unit = f"the machine runs in machine-{name}.service, for which it can be written as well."
    if said.section != section_service.SECTION:
        return what + unit
    if said.key.startswith(("Exec", "Environment")):
        return f"{what}{_ELSEWHERE.format(name=name)}."
    setting = table.by_key(said.key)
    if setting is not None and setting.section == "Exec":
        return f"{what}'machinectl set {name} {said.key}=…' says it to systemd-nspawn."
    return what + unit
