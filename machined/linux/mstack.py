# SPDX-License-Identifier: LGPL-2.1-or-later
"""Stacks of layers on disk, as in systemd.mstack(7).

Links `layer@N` to the trees below, `rw/data` and `rw/work` for what is written.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Sequence
from typing import Final

LAYER: Final = "layer@"
WRITABLE: Final = "rw"
DATA: Final = "data"
WORK: Final = "work"
FLATTENED: Final = ".flattened"
"""A file in a stack whose flat copy is complete and takes its place."""


def make_writable(path: str, like: str) -> None:
    """A directory of this name with `data`, which is as the directory `like` is, and `work`. OSError."""
    os.mkdir(path, 0o700)
    data = os.path.join(path, DATA)
    os.mkdir(data, 0o700)
    os.mkdir(os.path.join(path, WORK), 0o700)
    status = os.stat(like)
    os.chown(data, status.st_uid, status.st_gid)
    with contextlib.suppress(OSError):
        shutil.copystat(like, data)  # an attribute that the other file system has not is none of the root's
    os.chmod(data, stat.S_IMODE(status.st_mode))


def write(path: str, layers: Sequence[str], *, beside: str) -> None:
    """The links of a stack in a new directory, to be renamed to one `beside` it: relative ones. OSError."""
    os.mkdir(path, 0o700)
    # The lowest has the least number.
    for number, layer in enumerate(reversed(layers)):
        os.symlink(os.path.relpath(layer, beside), os.path.join(path, f"{LAYER}{number}"))
