# SPDX-License-Identifier: LGPL-2.1-or-later
"""Small files of a tree that is not to be trusted, read without ever leaving it."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from typing import Final

from machined.linux.fds import OwnedFd
from machined.linux.syscalls import RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS, openat2

LIMIT: Final = 512 * 1024


def read(root: str, wanted: Sequence[Sequence[str]], limit: int = LIMIT) -> list[bytes | None]:
    """For each list of paths the first bytes of the first that is a regular file; links stay in the tree."""
    with OwnedFd(os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)) as top:
        return [_first(top, paths, limit) for paths in wanted]


def _first(top: OwnedFd, paths: Sequence[str], limit: int) -> bytes | None:
    for path in paths:
        try:
            # Nothing that blocks when it is opened, or acts when it is read.
            flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY
            fd = openat2(top.fileno(), path, flags, resolve=RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)
        except OSError:
            continue
        with OwnedFd(fd):
            if stat.S_ISREG(os.fstat(fd).st_mode):
                with open(fd, "rb", closefd=False) as file:
                    return file.read(limit)
    return None
