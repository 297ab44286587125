# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a machine is started from: an image by its name or another's, or a tree that its settings name.

Machines of the last kind ([Image] Directory=, Image=) are known by what our own files say, not by what is
there: so they are listed and waited for while they do not run, and nobody learns by that whether a file of
root's exists.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from machined.model import configured
from machined.model.errors import MachineError, Problem
from machined.model.images import SEARCH_PATH, Image, Images
from machined.model.names import HOST, check_machine_name, is_machine_name
from machined.model.settings import layers, sources
from machined.model.settings.merge import Effective
from machined.model.settings.section_image import TREES

# More than that are not looked at.
NAMES_MAX: Final = 4096
_BYTES_MAX: Final = 1024 * 1024
_WORDS: Final = (b"Directory", b"Image", b"OCIBundle", b"Profile")
_SUFFIXES: Final = (".conf.d", ".conf")

_Stamp = tuple[tuple[str, int, int, int], ...]


def names_tree(effective: Effective) -> bool:
    """Whether settings say what the tree of their machine is."""
    return any(effective.all("Image", key) for key in TREES)


def words_name_tree(words: Iterable[str], version: int) -> bool:
    """Whether settings of a command line do."""
    lines = layers.from_command_line(words, version).lines
    keys = {f"Image.{key}" for key in TREES}
    return any(line.values and line.setting.name in keys for line in lines)


class Placed:
    """Finds them. What a machine's files say is read once, and again when one of them has changed."""

    def __init__(self, images: Images, version: int) -> None:
        self._images = images
        self._version = version
        self._read: dict[str, tuple[_Stamp, bool]] = {}

    def is_known(self, name: str) -> bool:
        """Whether there is something that a machine of this name is started from."""
        return self._images.find(name) is not None or self.has(name)

    def has(self, name: str) -> bool:
        """Whether the files of a machine name its tree."""
        if not is_machine_name(name):
            return False
        stamp = _stamp(name)
        if not stamp:
            self._read.pop(name, None)
            return False
        before = self._read.get(name)
        if before is not None and before[0] == stamp:
            return before[1]
        if not _may_name_tree(path for path, *_ in stamp):
            self._read[name] = stamp, False
            return False
        effective = sources.load(name, None, self._version)
        answer = names_tree(effective)
        # A profile is a file as well, and not in the stamp.
        if not effective.all("Machine", "Profile"):
            self._read[name] = stamp, answer
        return answer

    def check(self, name: str, origin: str = "", words: Sequence[str] = ()) -> bool:
        """Whether a machine's tree is named by settings, its files' or these; no more is looked at.

        For callers of whom it is not known yet what they may do: they learn nothing of files that are not
        theirs. Where there is no image either that raises MachineError, as a bad name does.
        """
        self._check_name(name, origin)
        elsewhere = origin in {"", name} and (self.has(name) or words_name_tree(words, self._version))
        if not elsewhere and self._images.find(origin or name) is None:
            raise _no_image(origin or name)
        return elsewhere

    def look(self, name: str, origin: str, words: Sequence[str]) -> tuple[Image, Effective]:
        """The image that a machine is started from, and its settings, valid or not. Raises MachineError."""
        self._check_name(name, origin)
        image = self._images.find(origin or name)
        if origin not in {"", name}:
            settings = sources.load(name, image, self._version, words)
        else:
            image, settings = configured.load(name, image, self._version, words)
        if image is None:
            raise _no_image(origin or name)
        return image, settings

    def _check_name(self, name: str, origin: str) -> None:
        if name == HOST:
            raise MachineError(
                Problem.INVALID_ARGS,
                "'.host' is this host, which runs. A machine that is made of its tree and keeps nothing is "
                "started by 'machinectl start --ephemeral .host'.",
            )
        check_machine_name(name)
        if origin not in {"", name} and self._images.find(name) is not None:
            raise MachineError(
                Problem.FILE_EXISTS,
                f"Machine '{name}' cannot be made of image '{origin}': there is an image '{name}'. "
                f"Choose another name.",
            )

    def names(self, known: Sequence[Image]) -> list[str]:
        """Those that have files of ours that name a tree, and no image among these."""
        others = {image.name for image in known}
        found = sorted({name for name in _named() if name not in others})[:NAMES_MAX]
        self._read = {name: self._read[name] for name in found if name in self._read}
        return [name for name in found if self.has(name)]


def _no_image(name: str) -> MachineError:
    where = ", ".join(str(path) for path in SEARCH_PATH)
    return MachineError(
        Problem.NO_SUCH_IMAGE,
        f"No image '{name}' known: nothing of that name is in {where}. "
        f"'machinectl list-images' shows what there is.",
    )


def _directories() -> tuple[Path, Path]:
    return sources.CONFIGURATION / "machines", sources.RUNTIME / "machines"


def _named() -> Iterator[str]:
    for directory in _directories():
        try:
            entries = os.listdir(directory)
        except OSError:
            continue
        for entry in entries:
            name = next((entry.removesuffix(end) for end in _SUFFIXES if entry.endswith(end)), "")
            if is_machine_name(name):
                yield name


def _may_name_tree(paths: Iterable[str]) -> bool:
    """Whether it is worth the trouble to read them as settings: most have no word of it."""
    for path in filter(os.path.isfile, paths):
        try:
            with open(path, "rb") as file:
                data = file.read(_BYTES_MAX)
        except OSError:  # for others to say
            continue
        if any(word in data for word in _WORDS):
            return True
    return False


def _stamp(name: str) -> _Stamp:
    """What is different when a file of ours of a machine is; empty where there is none."""
    paths = [sources.machine_file(name)]
    for directory in _directories():
        place = directory / f"{name}.conf.d"
        paths.append(place)
        try:
            paths += [place / entry for entry in sorted(os.listdir(place))[: sources.DROP_INS_MAX]]
        except OSError:
            continue
    found = []
    for path in paths:
        try:
            status = path.stat()
        except OSError:
            continue
        found.append((os.fspath(path), status.st_ino, status.st_size, status.st_mtime_ns))
    return tuple(found)
