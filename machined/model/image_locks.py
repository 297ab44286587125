# SPDX-License-Identifier: LGPL-2.1-or-later
"""The locks that everybody takes who does something to an image: nspawn, importd, machinectl, and we.

An image is locked by path (beside it, and by device and inode), a name that is to be taken by name.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

from machined.linux.locks import FileLock
from machined.model import images
from machined.model.images import Image
from machined.model.names import HOST

log = logging.getLogger(__name__)

# systemd's own switch, for file systems where locks cannot be had.
_SWITCH: Final = "SYSTEMD_NSPAWN_LOCK"
_OFF: Final = frozenset({"0", "no", "n", "false", "f", "off"})


def _busy(what: str) -> OSError:
    return OSError(errno.EBUSY, os.strerror(errno.EBUSY), what)


def _make_directory() -> None:
    with contextlib.suppress(OSError):
        images.LOCKS.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        images.LOCKS.mkdir(mode=0o700, exist_ok=True)


def _lock(path: str, exclusive: bool) -> FileLock:
    try:
        return FileLock.acquire(path, exclusive)
    except BlockingIOError:
        raise _busy(path) from None


@contextmanager
def image(target: Image, *, exclusive: bool) -> Iterator[None]:
    """Hold an image. OSError: EBUSY when it is in use, and that of the host for whoever would change it."""
    if target.path == "/":
        if exclusive:
            raise _busy("/")
        yield
        return
    if os.environ.get(_SWITCH, "").lower() in _OFF:
        yield
        return
    with ExitStack() as held:
        for path in target.lock_paths():
            if path.parent == images.LOCKS:
                _make_directory()
            try:
                held.enter_context(_lock(os.fspath(path), exclusive))
            except OSError as error:
                # Nothing can change what is read-only: readers need no lock there.
                if exclusive or error.errno != errno.EROFS:
                    raise
                log.debug("Reading image '%s' without lock %s", target.name, path)
        yield


@contextmanager
def name(wanted: str) -> Iterator[None]:
    """Hold a name that an image is to get. OSError: EBUSY when somebody else is at it."""
    if wanted == HOST:
        raise _busy(wanted)
    if os.environ.get(_SWITCH, "").lower() in _OFF:
        yield
        return
    _make_directory()
    with _lock(os.fspath(images.LOCKS / f"name-{wanted}"), True):
        yield
