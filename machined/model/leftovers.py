# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a killed systemd-nspawn leaves behind, and how it goes away.

nspawn 257 refuses to start while the mount point of the run before still holds a mount, and nothing removes
it after a SIGKILL; from 262 on `systemd-nspawn --cleanup` exists. This runs before a start on every version,
and after a stop (machined.cleanup) where nspawn cannot do it.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Final

from machined.linux import envfile, mounts
from machined.linux.locks import FileLock
from machined.model.images import Image

log = logging.getLogger(__name__)

RUNTIME: Final = Path("/run/systemd/nspawn")
RECORDS: Final = Path("/run/systemd/machines")
# Where the versions keep the socket directory of a machine: up to 258 and after.
_EXPORTS: Final = ("unix-export/{name}", "{name}/unix-export")


def stale_mounts(name: str) -> list[str]:
    """Mount points of a machine below /run/systemd/nspawn, deepest first; empty when it left none."""
    places = [os.fspath(RUNTIME / pattern.format(name=name)) for pattern in _EXPORTS]
    # The usual answer, without reading the table of all mounts.
    if not any(os.path.ismount(place) for place in places):
        return []
    found = [m.target for place in places for m in mounts.below(place)]
    return sorted(found, key=len, reverse=True)


def remove(name: str, image: Image | None) -> list[str]:
    """Take away what a machine that does not run left; returns what was taken. Raises OSError."""
    if _is_recorded(name):
        return []
    removed = stale_locks(image) if image is not None else []
    for target in stale_mounts(name):
        mounts.unmount(target, lazy=True)
        removed.append(target)
    for pattern in (*_EXPORTS, "propagate/{name}"):
        path = RUNTIME / pattern.format(name=name)
        try:
            path.rmdir()
        except FileNotFoundError:
            continue
        except OSError as error:
            log.debug("Cannot remove %s, ignoring: %s", path, error)
            continue
        removed.append(os.fspath(path))
    return removed


def _is_recorded(name: str) -> bool:
    """Whether a machine of this name is registered and its leader lives: then nothing of it is left over.

    Looked up in the record, since this runs without the daemon as well.
    """
    try:
        record = envfile.parse((RECORDS / name).read_bytes())
        return Path("/proc", str(int(record.get("LEADER", "0")))).exists()
    except (OSError, ValueError):
        return False


def stale_locks(image: Image) -> list[str]:
    """Remove the lock files that nobody holds any more, and say which: to take and release one does it."""
    removed = []
    try:
        paths = [os.fspath(path) for path in image.lock_paths() if path.exists()]
    except FileNotFoundError:
        return []
    for path in paths:
        try:
            FileLock.acquire(path).release()
        except OSError as error:
            log.debug("Lock %s is in use, leaving it: %s", path, error)
            continue
        removed.append(path)
    return removed
