# SPDX-License-Identifier: LGPL-2.1-or-later
"""Hidden names for what is being made or removed, and who still works on what is called so.

Whoever works under such a name holds a lock of it, in a place that a reboot empties. So a file with such a
name that nobody holds was left by a process that was killed.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from machined.linux.locks import FileLock

PARTIAL: Final = ".#machined-"
"""What grows or goes is called so; nothing that begins like this is an image."""
LOCKS = "/run/machined/partial"
_NAME: Final = re.compile(re.escape(PARTIAL) + "[0-9a-f]{16}")
# Who may not make locks, or has no place for them. (Of what has run out somebody else may have some left.)
_NO_LOCKS: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT})


@contextmanager
def beside(target: str) -> Iterator[str]:
    """A hidden path beside another that is nobody else's inside the block. Nothing is there yet."""
    with inside(os.path.dirname(target)) as path:
        yield path


@contextmanager
def inside(directory: str) -> Iterator[str]:
    """As beside(), in a directory. OSError when no lock can be made just now: without one nothing begins."""
    name = f"{PARTIAL}{os.urandom(8).hex()}"
    lock = _lock(name)
    try:
        yield os.path.join(directory, name)
    finally:
        if lock is not None:
            lock.release()


def _lock(name: str) -> FileLock | None:
    """None where no lock is to be had: by whom nobody can run a daemon that would take anything away."""
    try:
        os.makedirs(LOCKS, 0o700, exist_ok=True)
        return FileLock.acquire(os.path.join(LOCKS, name))
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return None
        raise


@contextmanager
def abandoned(path: str) -> Iterator[bool]:
    """Whether nobody works under a hidden name; nobody can begin to inside the block.

    Who cannot lock cannot know.
    """
    try:
        lock = _lock(os.path.basename(path))
    except OSError:
        lock = None
    if lock is None:
        yield False
        return
    with lock:
        yield True


def is_partial(name: str) -> bool:
    """Whether a file of this name is one of ours that grows or goes."""
    return _NAME.fullmatch(name) is not None


def unfinished(directory: str) -> list[str]:
    """Paths of what somebody is at in a directory, or was when he was killed. OSError."""
    return [os.path.join(directory, name) for name in os.listdir(directory) if name.startswith(PARTIAL)]


def forget_locks() -> None:
    """Remove the locks that killed processes have left, as far as that goes."""
    with suppress(OSError):
        for name in filter(is_partial, os.listdir(LOCKS)):
            with suppress(BlockingIOError):
                FileLock.acquire(os.path.join(LOCKS, name)).release()
