# SPDX-License-Identifier: LGPL-2.1-or-later
"""Files of the Container Device Interface: what vendors say a container needs for a device of theirs.

They are made by tools of the vendor (as 'nvidia-ctk cdi generate'). Device nodes, mounts and variables are
plain settings here; hooks are programs for another kind of runtime, and are named. Source: SPEC.md of
github.com/cncf-tags/container-device-interface.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from machined.linux import plainfile
from machined.linux.inifile import Place
from machined.model.settings import devices, table
from machined.model.settings.layers import Finding, Layer, Line, Severity, Source

DIRECTORIES: Final = (Path("/etc/cdi"), Path("/run/cdi"))
SIZE_MAX: Final = 1024 * 1024
FILES_MAX: Final = 256
_HOW: Final = "a vendor's tool makes one, as 'nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml' does"
_SUFFIXES: Final = {".json", ".yaml", ".yml"}


_Stamp = tuple[int, int, int]


class _BadFileError(Exception):
    pass


@dataclass(frozen=True, slots=True)
class _File:
    path: Path
    kind: str
    content: Mapping[str, Any]

    def devices(self) -> dict[str, Mapping[str, Any]]:
        return {str(one.get("name")): one for one in _tables(self.content.get("devices"))}


_KNOWN: Final[dict[Path, tuple[_Stamp, _File | _BadFileError]]] = {}


def layer(name: str, source: Source, place: Place | None, used: set[Path]) -> Layer:
    """What a device, VENDOR/CLASS=NAME, means; errors are in it as findings, at the place that names it.

    `used`: files of which a device is there already; what such a file says of all of them is not said again.
    """
    result = Layer(source)
    kind, _, wanted = name.partition("=")
    known: list[str] = []
    for path in _paths():
        try:
            file = _read(path)
        except (_BadFileError, OSError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            result.findings.append(Finding(Severity.WARNING, place, f"{path}: {why}. Ignored."))
            continue
        if file.kind != kind:
            continue
        found = file.devices()
        if wanted in found:
            shared = [] if path in used else [file.content.get("containerEdits")]
            used.add(path)
            for edits in (*shared, found[wanted].get("containerEdits")):
                _add(result, file, edits if isinstance(edits, Mapping) else {})
            return result
        known += found
    there = f"; of {kind} there are: {', '.join(sorted(known)[:20])}" if known else f"; {_HOW}"
    where = " and ".join(map(str, DIRECTORIES))
    result.findings.append(
        Finding(Severity.ERROR, place, f"[Machine] Device={name}: no file in {where} describes it{there}.")
    )
    return result


def _paths() -> list[Path]:
    """Those in the later directory come first: they count more."""
    found: list[Path] = []
    for directory in reversed(DIRECTORIES):
        try:
            found += sorted(path for path in directory.iterdir() if path.suffix in _SUFFIXES)
        except OSError:
            continue
    return found[:FILES_MAX]


def _read(path: Path) -> _File:
    """Raises _BadFileError, OSError. Files that have not changed are not read again: YAML takes its time."""
    status = path.stat()
    stamp = status.st_ino, status.st_size, status.st_mtime_ns
    known = _KNOWN.get(path)
    if known is None or known[0] != stamp:
        try:
            known = stamp, _parse(path)
        except _BadFileError as error:
            known = stamp, error
        if len(_KNOWN) >= FILES_MAX:
            _KNOWN.clear()
        _KNOWN[path] = known
    if isinstance(known[1], _BadFileError):
        raise _BadFileError(*known[1].args)
    return known[1]


def _parse(path: Path) -> _File:
    try:
        data = plainfile.read(path, SIZE_MAX)
        content = json.loads(data) if path.suffix == ".json" else _yaml(data)
    except (ValueError, RecursionError) as error:
        raise _BadFileError(f"it cannot be understood ({str(error).splitlines()[0][:120]})") from error
    if not isinstance(content, Mapping):
        raise _BadFileError("it has no keys at its top")
    return _File(path, str(content.get("kind")), content)


def _yaml(data: bytes) -> Any:
    import yaml  # few hosts have such files

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        # Aliases make small files large; no tool writes them here.
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(data, Loader=loader)):
            raise ValueError("aliases are not supported")
        return yaml.load(data, Loader=loader)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error


def _tables(value: Any) -> list[Mapping[str, Any]]:
    return [one for one in value if isinstance(one, Mapping)] if isinstance(value, list) else []


def _add(result: Layer, file: _File, edits: Mapping[str, Any]) -> None:
    """The lines of one set of edits."""
    place = Place(str(file.path))
    for section, key, text in _assignments(edits):
        setting = table.find(section, key)
        assert setting is not None
        try:
            value = setting.kind.read(text)
        except ValueError as error:
            problem = f"{setting}{text} is not valid: {error}."
            result.findings.append(Finding(Severity.ERROR, place, problem))
        else:
            result.lines.append(Line(setting, (value,), result.source, place))
    for hook in _tables(edits.get("hooks")):
        given = hook.get("args")
        words = " ".join(map(str, given if isinstance(given, list) and given else [hook.get("path")]))
        result.findings.append(Finding(Severity.WARNING, place, f"The hook '{words}' {_advice(words)}."))


def _advice(words: str) -> str:
    if "update-ldcache" in words:
        return "is not run: run 'ldconfig' inside once the machine is up"
    return "is not run: systemd-nspawn has none; what it does is to be done inside"


def _assignments(edits: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    for node in _tables(edits.get("deviceNodes")):
        target = str(node.get("path") or "")
        source = str(node.get("hostPath") or target)
        said = str(node.get("permissions") or devices.ACCESS)
        access = "".join(letter for letter in "rwm" if letter in said)
        yield "Machine", "Device", f"{_escaped(source)}:{_escaped(target)}:{access}"
    for mount in _tables(edits.get("mounts")):
        options = mount.get("options")
        read_only = isinstance(options, list) and "ro" in options
        paths = f"{_escaped(mount.get('hostPath'))}:{_escaped(mount.get('containerPath'))}"
        yield "Files", "BindReadOnly" if read_only else "Bind", paths
    variables = edits.get("env")
    for variable in variables if isinstance(variables, list) else []:
        yield "Exec", "Environment", str(variable)


def _escaped(path: Any) -> str:
    return str(path or "").replace("\\", "\\\\").replace(":", "\\:")
