# SPDX-License-Identifier: LGPL-2.1-or-later
"""Layered images: NAME.mstack/ directories (systemd.mstack(7)) of the plain kind that `clone` makes.

Such a directory has `layer@ID` entries, links to the trees below (or trees), and `rw/data` and `rw/work` for
what is written. The format is systemd's own, so that 260 and later start them without us as well; before, a
host's systemd knows nothing of them. What else a mount stack may have (disk images, binds, a root) is left
to those who made it: that is no layered image of ours.

Anybody whose archive is unpacked in the pool may have called it so. What a machine is given to read and to
write is to be had by no links but ours: to trees that are images, and nowhere else.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cmp_to_key
from pathlib import Path
from typing import Final

from machined.linux.mstack import DATA, FLATTENED, LAYER, WORK, WRITABLE
from machined.model import versions
from machined.model.names import is_image_name

SUFFIX: Final = ".mstack"
MAX_LAYERS: Final = 64


@dataclass(frozen=True, slots=True)
class Stack:
    """A layered image: the trees below, the topmost first, and where what is written goes."""

    path: str
    layers: tuple[str, ...]
    """Real paths, of directories unless one is gone meanwhile."""

    @property
    def writable(self) -> str:
        """The directory with what was written, `data`, and the kernel's `work`."""
        return os.path.join(self.path, WRITABLE)

    @property
    def written(self) -> str:
        return os.path.join(self.path, WRITABLE, DATA)

    @property
    def trees(self) -> tuple[str, ...]:
        """All of it, what was written first."""
        return (self.written, *self.layers)


def read(path: str, places: Sequence[Path]) -> Stack | None:
    """The layered image in a directory, None when it is none that we can put together. OSError.

    `places` are the directories that images are in.
    """
    names = os.listdir(path)
    layers = sorted(
        (name for name in names if name.startswith(LAYER)), key=cmp_to_key(versions.compare), reverse=True
    )
    others = {name for name in names if not name.startswith(LAYER)} - {WRITABLE, FLATTENED}
    if not 0 < len(layers) <= MAX_LAYERS or others or not _is_writable(path, names):
        return None
    found = [os.path.realpath(os.path.join(path, name)) for name in layers]
    for name, layer in zip(layers, found, strict=True):
        mode = os.lstat(os.path.join(path, name)).st_mode
        if not (stat.S_ISDIR(mode) or (stat.S_ISLNK(mode) and is_tree_of_image(layer, places))):
            return None
        if os.path.exists(layer) and not os.path.isdir(layer):
            return None
    return Stack(path, tuple(found))


def _is_writable(path: str, names: Sequence[str]) -> bool:
    """Whether there is a place for what is written, and a note in no file but one of the stack's own."""
    for part in (WRITABLE, f"{WRITABLE}/{DATA}", f"{WRITABLE}/{WORK}"):
        try:
            if not stat.S_ISDIR(os.lstat(os.path.join(path, part)).st_mode):
                return False
        except (FileNotFoundError, NotADirectoryError):
            return False
    return FLATTENED not in names or stat.S_ISREG(os.lstat(os.path.join(path, FLATTENED)).st_mode)


def is_tree_of_image(tree: str, places: Sequence[Path]) -> bool:
    """Whether a real path is one that an image is at: in a directory of images or of versions of one, or
    where a link in there leads to. It may be gone; the host's own tree is none.
    """
    around, name = os.path.split(tree)
    if tree == "/" or not is_image_name(name):
        return False
    real = {os.path.realpath(place) for place in places}
    outer, versioned = os.path.split(around)
    return around in real or (versioned.endswith(".v") and outer in real) or tree in _linked(real)


def _linked(places: set[str]) -> Iterator[str]:
    """Where the links in directories of images lead to."""
    for place in places:
        try:
            with os.scandir(place) as entries:
                links = [entry.path for entry in entries if entry.is_symlink()]
        except OSError:
            continue
        yield from map(os.path.realpath, links)
