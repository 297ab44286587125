# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is known of the trees that are mounted for machines, also when the daemon is not there.

Each is mounted below /run while the machine's unit is up, and a record beside it says what it is made of.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from machined.linux import mounts
from machined.model import leftovers
from machined.model.images import Image, ImageType
from machined.model.names import is_machine_name

log = logging.getLogger(__name__)

RUNTIME: Final = Path("/run/machined/roots")
# What a machine that leaves nothing behind writes; no image has a name that begins so.
SCRATCH: Final = ".#ephemeral-"
# Beside what is mounted: no machine has a name that begins with a dot.
_RECORD: Final = ".{}.json"


@dataclass(frozen=True, slots=True)
class Root:
    """What a machine runs on. Paths; `base` is the first user of its range, 0 for those of the host."""

    machine: str
    image: str
    image_path: str
    layers: tuple[str, ...]
    writable: str
    base: int
    ephemeral: bool
    read_only: bool

    @property
    def directory(self) -> Path:
        return RUNTIME / self.machine


def _record(name: str) -> Path:
    return RUNTIME / _RECORD.format(name)


def write(root: Root) -> None:
    """Record a root. OSError."""
    RUNTIME.mkdir(mode=0o700, parents=True, exist_ok=True)
    record = _record(root.machine)
    partial = record.with_suffix(".new")
    partial.write_text(json.dumps(asdict(root)), encoding="utf-8")
    partial.replace(record)


def read(name: str) -> Root | None:
    """The record of a machine's root, None without one."""
    try:
        fields = json.loads(_record(name).read_text(encoding="utf-8"))
        return Root(**{**fields, "layers": tuple(fields["layers"])})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        log.warning("Cannot read the record of the root of machine '%s', ignoring: %s", name, error)
        return None


def recorded() -> Iterator[Root]:
    """Every root that there is a record of."""
    try:
        entries = sorted(os.listdir(RUNTIME))
    except OSError:
        return
    before, after = _RECORD.split("{}")
    for entry in entries:
        name = entry.removeprefix(before).removesuffix(after)
        if entry == _RECORD.format(name) and is_machine_name(name) and (root := read(name)) is not None:
            yield root


def take_away(name: str) -> list[str]:
    """Unmount the root of a machine that does not run; returns what is to be removed, and hidden already.

    Also for who is not the daemon. Idempotent. Raises OSError.
    """
    root = read(name)
    if root is None:
        return []
    with contextlib.suppress(OSError):  # what a killed systemd-nspawn left of it
        leftovers.stale_locks(Image(name, os.fspath(root.directory), ImageType.DIRECTORY, read_only=False))
    while os.path.ismount(root.directory):
        mounts.unmount(os.fspath(root.directory), lazy=True)
    with contextlib.suppress(FileNotFoundError):
        root.directory.rmdir()
    ours = root.ephemeral and os.path.basename(root.writable).startswith(SCRATCH)
    doomed = [root.writable] if ours and os.path.isdir(root.writable) else []
    # Last: what could not be done is done the next time.
    _record(name).unlink(missing_ok=True)
    return doomed


def abandoned(pool: Path) -> list[str]:
    """What machines wrote that left nothing behind, but for a crash. OSError."""
    used = {root.writable for root in recorded()}
    paths = (os.fspath(pool / entry) for entry in os.listdir(pool) if entry.startswith(SCRATCH))
    return [path for path in paths if path not in used]
