# SPDX-License-Identifier: LGPL-2.1-or-later
"""Device nodes: which there are under a path, and others like them that somebody else may own."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Node:
    """A device: its path, its kind and permissions as of stat(2), its number, its group."""

    path: str
    mode: int
    device: int
    group: int

    @property
    def is_block(self) -> bool:
        return stat.S_ISBLK(self.mode)


def find(path: str, limit: int) -> list[Node]:
    """A device, or all that are below a directory and names for them, by their paths.

    Raises OSError: ENOENT; ENODEV where there is no device; E2BIG for more than `limit` files.
    """
    found: list[Node] = []
    for count, (status, name) in enumerate(_walk(path)):
        if stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
            found.append(Node(name, status.st_mode, status.st_rdev, status.st_gid))
        if count > limit:
            raise OSError(errno.E2BIG, os.strerror(errno.E2BIG), path)
    if not found:
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV), path)
    return sorted(found, key=lambda node: node.path)


def _walk(path: str) -> Iterator[tuple[os.stat_result, str]]:
    status = os.stat(path)
    yield status, path
    if stat.S_ISDIR(status.st_mode):
        for directory, _, names in os.walk(path):
            for name in names:
                inside = os.path.join(directory, name)
                # What has been unplugged meanwhile is no more, and a link may lead nowhere.
                with contextlib.suppress(FileNotFoundError):
                    yield os.stat(inside), inside


def make(node: Node, path: Path, user: int, group: int, permissions: int) -> None:
    """Another node for the same device. Directories on the way are made. Raises OSError."""
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    os.mknod(path, stat.S_IFMT(node.mode) | 0o600, node.device)
    os.chown(path, user, group)
    os.chmod(path, permissions)


def remove(directory: Path) -> None:
    """Take nodes away again, all that are in a directory; OSError. That there is none is no error."""
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(directory)
