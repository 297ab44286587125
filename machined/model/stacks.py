# SPDX-License-Identifier: LGPL-2.1-or-later
"""Layered images: NAME.mstack/ directories (systemd.mstack(7)) of the plain kind that `clone` makes.

Such a directory has `layer@ID` entries, links to the trees below (or trees), and `rw/data` and `rw/work` for
what is written. The format is systemd's own, so that 260 and later start them without us as well; before, a
host's systemd knows nothing of them. What else a mount stack may have (disk images, binds, a root) is left
to those who made it: that is no layered image of ours.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cmp_to_key
from typing import Final

from machined.linux.mstack import DATA, FLATTENED, LAYER, WRITABLE
from machined.model import versions

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


def read(path: str) -> Stack | None:
    """The layered image in a directory, None when it is none that we can put together. OSError."""
    names = os.listdir(path)
    layers = sorted(
        (name for name in names if name.startswith(LAYER)), key=cmp_to_key(versions.compare), reverse=True
    )
    others = {name for name in names if not name.startswith(LAYER)} - {WRITABLE, FLATTENED}
    if not 0 < len(layers) <= MAX_LAYERS or others or WRITABLE not in names:
        return None
    found = [os.path.realpath(os.path.join(path, name)) for name in layers]
    if any(os.path.exists(layer) and not os.path.isdir(layer) for layer in found):
        return None
    return Stack(path, tuple(found))
