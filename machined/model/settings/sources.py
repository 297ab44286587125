# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where the settings of a machine are, and all of them read and merged.

In this order, the later ones counting more: what holds by default, NAME.nspawn beside the image, limits in
drop-ins for systemd-nspawn@NAME.service, profiles,
/run/systemd/nspawn/NAME.nspawn and the one in /etc, /etc/machined/machines/NAME.conf with its drop-ins
NAME.conf.d/*.conf there and in /run, the command line.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from machined.linux import inifile
from machined.model.images import Image
from machined.model.settings import cdi, layers, merge, presets, rules, unit_dropins
from machined.model.settings.layers import Finding, Layer, Severity, Source
from machined.model.settings.merge import Effective

NSPAWN: Final = (Path("/run/systemd/nspawn"), Path("/etc/systemd/nspawn"))
"""Of .nspawn files, the later counting more."""
CONFIGURATION: Final = Path("/etc/machined")
"""The administrator's; what is beside it in /run goes with the next boot."""
RUNTIME: Final = Path("/run/machined")
DROP_INS_MAX: Final = 256
PROFILES_MAX: Final = 32

Instead = Mapping[Path, bytes]
"""What files would say that are about to be written."""
_AS_THEY_ARE: Final[Instead] = {}


@dataclass(frozen=True, slots=True)
class Place:
    """A file that may say something of a machine."""

    path: Path
    source: Source


def machine_file(name: str) -> Path:
    """Our own file of a machine."""
    return CONFIGURATION / "machines" / f"{name}.conf"


def drop_in(name: str, file: str, *, runtime: bool = False) -> Path:
    """A drop-in of it."""
    return (RUNTIME if runtime else CONFIGURATION) / "machines" / f"{name}.conf.d" / file


def places(name: str, image: Image | None, instead: Instead = _AS_THEY_ARE) -> list[Place]:
    """The files that may say something of a machine, in their order; not all of them are there."""
    found = []
    # A machine that is made of another's image has that one's settings where it has none of its own.
    its = name
    if image is not None and image.name != name and not any((d / f"{name}.nspawn").exists() for d in NSPAWN):
        its = image.name
    if image is not None and image.path.startswith("/"):
        found.append(Place(Path(image.path).parent / f"{image.name}.nspawn", Source.IMAGE))
    found += [Place(directory / f"{its}.nspawn", Source.NSPAWN) for directory in NSPAWN]
    own = name if image is None or image.name == name or _has_own(name, instead) else image.name
    found.append(Place(machine_file(own), Source.MACHINE))
    return found + [Place(path, Source.MACHINE) for path in _drop_ins(own, instead)]


def _has_own(name: str, instead: Instead) -> bool:
    return machine_file(name) in instead or machine_file(name).exists() or bool(_drop_ins(name, instead))


def _drop_ins(name: str, instead: Instead) -> list[Path]:
    """By the names of the files; one in /etc is instead of one in /run with its name."""
    found: dict[str, Path] = {}
    for runtime in (True, False):
        directory = drop_in(name, "", runtime=runtime)
        try:
            names = [entry for entry in os.listdir(directory) if entry.endswith(".conf") and entry[0] != "."]
        except (FileNotFoundError, NotADirectoryError):
            names = []
        names += [path.name for path in instead if path.parent == directory]
        found |= {entry: directory / entry for entry in sorted(names)[:DROP_INS_MAX]}
    return [found[entry] for entry in sorted(found)]


def profile_file(name: str) -> Path | None:
    """An administrator's profile."""
    for directory in (CONFIGURATION, RUNTIME):
        path = directory / "profiles" / f"{name}.conf"
        if path.is_file():
            return path
    return None


def load(
    name: str,
    image: Image | None,
    version: int,
    command_line: Iterable[str] = (),
    instead: Instead = _AS_THEY_ARE,
) -> Effective:
    """What holds for a machine on a host with this systemd, with all that there is to say against it."""
    read = [_layer(place, version, instead) for place in places(name, image, instead)]
    last = layers.from_command_line(command_line, version)
    wanted = merge.merge([*read, last]).all("Machine", "Profile")
    profiles = list(_profiles([value.text for value in wanted], version))
    beside = [layer for layer in read if layer.source is Source.IMAGE]
    rest = [layer for layer in read if layer.source is not Source.IMAGE]
    unit = _of_unit(name, image, version)
    trusted = [*profiles, *rest, last]
    _describe(trusted)
    effective = merge.merge([*beside, unit, *trusted])
    effective.findings += rules.check(effective)
    return effective


def _of_unit(name: str, image: Image | None, version: int) -> Layer:
    """What was written for the unit of systemd's template."""
    its = name if image is None or unit_dropins.has_own(name) else image.name
    return unit_dropins.layer(its, version)


def _layer(place: Place, version: int, instead: Instead) -> Layer:
    return _read(place.path, place.source, version, instead) or Layer(place.source)


def _read(path: Path, source: Source, version: int, instead: Instead = _AS_THEY_ARE) -> Layer | None:
    """What a file says, None where there is none. One that cannot be read is an error of its own."""
    try:
        document = inifile.parse(instead[path], str(path)) if path in instead else inifile.read(path)
    except inifile.InvalidFileError as error:
        return Layer(source, findings=[Finding(Severity.ERROR, None, str(error))])
    except OSError as error:
        text = f"{path}: cannot be read: {error.strerror}."
        return Layer(source, findings=[Finding(Severity.ERROR, None, text)])
    return None if document is None else layers.read(document, source, version)


def _profiles(names: list[str], version: int) -> Iterator[Layer]:
    for name in list(dict.fromkeys(names))[:PROFILES_MAX]:
        path = profile_file(name)
        layer = _read(path, Source.PROFILE, version) if path is not None else _preset(name, version)
        if layer is None:
            text = (
                f"[Machine] Profile={name}: there is no {CONFIGURATION}/profiles/{name}.conf, and of those "
                f"that come with machined there are {', '.join(presets.PRESETS)}."
            )
            layer = Layer(Source.PROFILE, findings=[Finding(Severity.ERROR, None, text)])
        yield layer


def _preset(name: str, version: int) -> Layer | None:
    try:
        text = presets.text(name, presets.Host(version))
    except presets.NotHereError as error:
        finding = Finding(Severity.ERROR, None, f"[Machine] Profile={name}: {error}.")
        return Layer(Source.PROFILE, findings=[finding])
    if text is None:
        return None
    return layers.read(inifile.parse(text.encode(), presets.ORIGIN.format(name)), Source.PROFILE, version)


def _describe(said: Iterable[Layer]) -> None:
    """Where a device is named as CDI does, what that means comes right after it."""
    known: set[str] = set()
    used: set[Path] = set()
    for layer in said:
        lines = []
        for line in layer.lines:
            lines.append(line)
            if line.setting.name != "Machine.Device":
                continue
            if not line.values:
                known.clear()
                used.clear()
            for value in line.values:
                if not value.startswith("/") and value not in known:
                    known.add(value)
                    described = cdi.layer(value, line.source, line.place, used)
                    lines += described.lines
                    layer.findings += described.findings
        layer.lines = lines
