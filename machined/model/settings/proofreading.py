# SPDX-License-Identifier: LGPL-2.1-or-later
"""What would be wrong if a text were written to a settings file."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

from machined.linux import inifile
from machined.model.images import Image
from machined.model.names import is_machine_name
from machined.model.settings import layers, sources
from machined.model.settings.layers import Finding, Severity, Source


class Kind(StrEnum):
    """Of file."""

    NSPAWN = "nspawn"
    """systemd.nspawn(5)"""
    MACHINE = "machine"
    """Our own, of a machine."""
    DROP_IN = "drop-in"
    """To that, its name is that of the machine, a slash and that of the file."""
    PROFILE = "profile"


def proofread(kind: Kind, name: str, image: Image | None, version: int, data: bytes) -> list[Finding]:
    """What there is to say about the text, and about what it makes wrong elsewhere."""
    path = _path(kind, name)
    name = name.partition("/")[0] if kind is Kind.DROP_IN else name
    if kind is Kind.PROFILE or not is_machine_name(name):
        return _alone(data, path, Source.PROFILE if kind is Kind.PROFILE else Source.NSPAWN, version)
    before = sources.load(name, image, version).findings
    after = sources.load(name, image, version, instead={path: data}).findings
    return [finding for finding in after if _is_of(finding, path) or finding not in before]


def _path(kind: Kind, name: str) -> Path:
    match kind:
        case Kind.NSPAWN:
            return sources.NSPAWN[-1] / f"{name}.nspawn"
        case Kind.MACHINE:
            return sources.machine_file(name)
        case Kind.DROP_IN:
            machine, _, file = name.partition("/")
            return sources.drop_in(machine, file.rpartition("/")[2])
        case Kind.PROFILE:
            return sources.CONFIGURATION / "profiles" / f"{name}.conf"


def _alone(data: bytes, path: Path, source: Source, version: int) -> list[Finding]:
    try:
        document = inifile.parse(data, str(path))
    except inifile.InvalidFileError as error:
        return [Finding(Severity.ERROR, None, str(error))]
    return layers.read(document, source, version).findings


def _is_of(finding: Finding, path: Path) -> bool:
    if finding.place is not None:
        return finding.place.path == str(path)
    return finding.text.startswith(f"{path}:")
