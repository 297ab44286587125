# SPDX-License-Identifier: LGPL-2.1-or-later
"""Our own settings files of machines: which there are, written as a whole, moved and removed."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from machined.linux import wholefile
from machined.model.errors import MachineError, Problem
from machined.model.names import is_machine_name
from machined.model.settings import presets, sources

_DROP_INS: Final = ".conf.d"
_FILE: Final = ".conf"
_NSPAWN: Final = ".nspawn"
_COMMENT_MAX: Final = 200


def write(files: Mapping[Path, bytes]) -> None:
    """Write each as a whole, or remove it where it says nothing. OSError; those written before stay then."""
    for path, data in files.items():
        if data:
            path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            wholefile.write(path, data, 0o644)
        else:
            path.unlink(missing_ok=True)
            if path.parent.name.endswith(_DROP_INS):
                with contextlib.suppress(OSError):
                    path.parent.rmdir()


def read(path: Path) -> bytes:
    """What a file says, nothing where there is none. OSError."""
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return b""


def _own(name: str) -> list[Path]:
    return [
        directory / "machines" / f"{name}{suffix}"
        for directory in (sources.CONFIGURATION, sources.RUNTIME)
        for suffix in (_FILE, _DROP_INS)
    ]


def of_machine(name: str) -> list[Path]:
    """Our own files and directories of drop-ins of a machine that are there."""
    return [path for path in _own(name) if path.exists()] if is_machine_name(name) else []


def remove(name: str) -> None:
    """Remove what of_machine() has. OSError."""
    for path in of_machine(name):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def check_rename(name: str, new_name: str) -> None:
    """Raises MachineError (FILE_EXISTS) where both have files: whose were to count then?"""
    if of_machine(name) and (theirs := of_machine(new_name)):
        raise MachineError(
            Problem.FILE_EXISTS,
            f"There are settings of a machine '{new_name}' already, '{theirs[0]}', and '{name}' has some of "
            f"its own. Move one of them away first.",
        )


def rename(name: str, new_name: str) -> None:
    """What one machine has is another's from now on; check_rename() first. OSError."""
    if not (is_machine_name(name) and is_machine_name(new_name)):
        return  # what is called so cannot be started
    for old, new in zip(_own(name), _own(new_name), strict=True):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            os.rename(old, new)


def named() -> set[str]:
    """The machines that there is a settings file for, with an image or without."""
    found: set[str] = set()
    for directory in sources.NSPAWN:
        found |= set(_names(directory, (_NSPAWN,)))
    for directory in (sources.CONFIGURATION, sources.RUNTIME):
        found |= set(_names(directory / "machines", (_DROP_INS, _FILE)))
    return {name for name in found if is_machine_name(name)}


def _names(directory: Path, suffixes: tuple[str, ...]) -> Iterator[str]:
    try:
        entries = os.listdir(directory)
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        for suffix in suffixes:
            if entry.endswith(suffix):
                yield entry.removesuffix(suffix)
                break


def profiles() -> list[tuple[str, str, str]]:
    """The profiles there are: name, file (none of those that come with us), what its first comment says."""
    names: set[str] = set(presets.PRESETS)
    for directory in (sources.CONFIGURATION, sources.RUNTIME):
        names |= set(_names(directory / "profiles", (_FILE,)))
    found = []
    for name in sorted(names):
        path = sources.profile_file(name)
        if path is None:
            found += [(name, "", preset.help)] if (preset := presets.PRESETS.get(name)) else []
        elif not name.startswith("."):
            found.append((name, str(path), _comment(path)))
    return found


def _comment(path: Path) -> str:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                text = line.strip().lstrip("\ufeff")
                # That of every file is none that somebody wrote about this one.
                if text[:1] in {"#", ";"} and "SPDX-License-Identifier" not in text:
                    return text.lstrip("#; ")[:_COMMENT_MAX]
                if text and text[:1] not in {"#", ";"}:
                    break
    except OSError:
        pass
    return ""
