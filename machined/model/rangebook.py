# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which range of users each machine has: for good, and while it runs. One symbolic link each, NAME -> range.

A link is whole or not there, whatever happens, and one system call reads it; it leads nowhere. What was
picked is kept, so that what a machine owns outside of its tree, such as on a file system that is shared with
it, is its own ever after, and nobody else's while it does not run.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from machined.linux.overlay import RANGE
from machined.model.names import is_machine_name
from machined.model.privateusers import Range

log = logging.getLogger(__name__)

KEPT: Final = Path("/var/lib/machined/ranges")
RUNTIME: Final = Path("/run/machined/ranges")
_TEXT: Final = re.compile(r"([0-9]{1,10}):([0-9]{1,10})(:named)?")
_MAX: Final = 2**32 - 1


def get(name: str) -> int | None:
    """The first user of the range that was picked for a machine; None when none was."""
    found = _read(KEPT, name)
    return found.base if found is not None and found.count == RANGE else None


def kept() -> Iterator[tuple[str, int]]:
    """What was picked for all machines, those that do not run as well: name, first user."""
    for name, found in _all(KEPT):
        if found.count == RANGE:
            yield name, found.base


def keep(name: str, base: int) -> None:
    """From now on a machine has this range. OSError."""
    _write(KEPT, name, Range(base))


def forget(name: str) -> None:
    """A machine is no more. OSError."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(KEPT / name)


def rename(name: str, new_name: str) -> None:
    """What was picked for one machine is another's from now on. OSError."""
    assert is_machine_name(name)
    if not is_machine_name(new_name):
        return  # what is called so cannot be started
    with contextlib.suppress(FileNotFoundError):
        os.replace(KEPT / name, KEPT / new_name)


def running() -> list[tuple[str, Range]]:
    """The ranges that machines had when they were started, those that have ended since as well."""
    return list(_all(RUNTIME))


def begin(name: str, users: Range) -> None:
    """A machine is about to run with these. OSError."""
    _write(RUNTIME, name, users)


def end(name: str) -> None:
    """A machine runs no more. OSError."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(RUNTIME / name)


def _all(directory: Path) -> Iterator[tuple[str, Range]]:
    try:
        names = sorted(filter(is_machine_name, os.listdir(directory)))
    except FileNotFoundError:
        return
    except OSError as error:
        log.warning("Cannot read '%s', ignoring: %s", directory, error)
        return
    for name in names:
        if (found := _read(directory, name)) is not None:
            yield name, found


def _read(directory: Path, name: str) -> Range | None:
    try:
        text = os.readlink(directory / name)
    except FileNotFoundError:
        return None
    except OSError as error:
        log.warning("Cannot read '%s', ignoring: %s", directory / name, error)
        return None
    match = _TEXT.fullmatch(text)
    users = Range(int(match[1]), int(match[2]), named=bool(match[3])) if match else None
    if users is None or not users.count or users.end > _MAX:
        log.warning("'%s' is no range of users, ignoring: '%s'", directory / name, text)
        return None
    return users


def _write(directory: Path, name: str, users: Range) -> None:
    assert is_machine_name(name)
    directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    # No machine has a name that begins with a dot.
    partial = directory / f".#{name}"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(partial)
    os.symlink(f"{users.base}:{users.count}{':named' if users.named else ''}", partial)
    os.replace(partial, directory / name)
