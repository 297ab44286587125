# SPDX-License-Identifier: LGPL-2.1-or-later
"""What killed processes have left among the images: our own hidden files, and those of systemd's tools.

Only what provably nobody works on goes: ours have locks (machined.linux.partials), the ephemeral copies of
systemd-nspawn have the locks of images, and of the importers' unfinished downloads no process has anything
open while no importer runs at all. For machined.linux.worker.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterator, Sequence
from typing import Final

from machined.linux import partials, removal
from machined.linux.locks import FileLock

_EPHEMERAL: Final = re.compile(r"\.#(?:machine|snapshot)\..+[0-9a-f]{16}")
"""systemd-nspawn --ephemeral: up to 257, and the later ones."""
_UNFINISHED: Final = re.compile(r"\.#(?!machined-|machine\.|snapshot\.|ephemeral-).+[0-9a-f]{16}")
"""What systemd-pull and systemd-import write to until it is whole."""
_IMPORTERS: Final = frozenset({"systemd-pull", "systemd-import", "systemd-import-"})
"""As the kernel calls them, which cuts names short."""
_VERSIONS: Final = ".v"


def sweep(directories: Sequence[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Remove what has been left in directories of images; what that was, and what could not go and why."""
    removed: list[str] = []
    failures: list[tuple[str, str]] = []
    places = [place for directory in directories for place in _places(directory)]
    for place in dict.fromkeys(places):
        for path, busy in _candidates(place):
            with busy as free:
                if not free or not os.path.lexists(path):
                    continue
                try:
                    kind = "tree" if stat.S_ISDIR(os.lstat(path).st_mode) else "file"
                    removal.remove(path, kind)
                    removed.append(path)
                except FileNotFoundError:
                    continue  # whoever made it has taken it back
                except OSError as error:
                    failures.append((path, error.strerror or str(error)))
    partials.forget_locks()
    return removed, failures


def _places(directory: str) -> Iterator[str]:
    """A directory of images, those of versions in it, and those that its links lead to."""
    if not _is_ours(directory):
        return
    yield os.path.realpath(directory)
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_symlink():
                # An image that is going has lost its name there, so the link may lead to nothing.
                place = os.path.dirname(os.path.realpath(entry.path))
            elif entry.name.endswith(_VERSIONS):
                place = entry.path
            else:
                continue
            if _is_ours(place):
                yield place


def _is_ours(directory: str) -> bool:
    """Whether nobody but root can put anything there."""
    try:
        status = os.stat(directory)
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == 0 and not status.st_mode & 0o022


def _candidates(place: str) -> Iterator[tuple[str, contextlib.AbstractContextManager[bool]]]:
    unfinished = []
    for name in os.listdir(place):
        path = os.path.join(place, name)
        if not _is_file_or_directory(path):
            continue
        if partials.is_partial(name):
            yield path, partials.abandoned(path)
        elif _EPHEMERAL.fullmatch(name):
            yield path, _unlocked(path)
        elif _UNFINISHED.fullmatch(name):
            unfinished.append(path)
    if unfinished:
        used = _used(unfinished)
        for path in unfinished:
            yield path, contextlib.nullcontext(path not in used)


def _is_file_or_directory(path: str) -> bool:
    try:
        mode = os.lstat(path).st_mode
    except OSError:
        return False
    return stat.S_ISREG(mode) or stat.S_ISDIR(mode)


@contextlib.contextmanager
def _unlocked(path: str) -> Iterator[bool]:
    """Whether nobody has locked an image beside it, as nspawn does all its life; so it stays."""
    directory, name = os.path.split(path)
    try:
        lock = FileLock.acquire(os.path.join(directory, f".#{name}.lck"))
    except OSError:
        yield False  # held, or not to be had: who cannot lock cannot know
        return
    with lock:
        yield not _used([path])


def _used(paths: Sequence[str]) -> set[str]:
    """Those of the paths that a process may be at work on: all of them while an importer runs."""
    inodes = {}
    for path in paths:
        with contextlib.suppress(OSError):
            status = os.lstat(path)
            inodes[status.st_dev, status.st_ino] = path
    used: set[str] = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
                if file.read().strip() in _IMPORTERS:
                    return set(paths)
            places = [f"/proc/{pid}/{what}" for what in ("root", "cwd")]
            places += [entry.path for entry in os.scandir(f"/proc/{pid}/fd")]
        except OSError:
            continue  # it has ended
        for place in places:
            with contextlib.suppress(OSError):
                status = os.stat(place)
                if found := inodes.get((status.st_dev, status.st_ino)):
                    used.add(found)
                opened = os.readlink(place)
                used |= {path for path in paths if opened.startswith(f"{path}/")}
    return used
