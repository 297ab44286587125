# SPDX-License-Identifier: LGPL-2.1-or-later
"""Is an imported directory whole? systemd-importd 257 says so even where the disk got full on the way.

Sizes tell: a copy that was cut short is shorter than what it is of, or is not there. What importd leaves
out on purpose is not missed: directories that something is mounted on and, unless it makes a snapshot,
subvolumes of btrfs, which it takes for other file systems.
"""

from __future__ import annotations

import os
import re
import stat
from typing import NamedTuple

POOL = "/var/lib/machines"


class Verdict(NamedTuple):
    """What a copy does not have. Paths below the directory that was copied."""

    missing: str
    """The first file that is not there whole, "" where there is none."""
    subvolumes: list[str]
    """Those left out."""


def compare(source: int, copy: str, since: float) -> Verdict:
    """Look at a copy of a tree, until something is missing.

    `source`: a descriptor of the directory; what was changed after `since`, in seconds, is not looked
    at. Raises OSError where the copy cannot be looked at by us.
    """
    mounted, device = _mounted_below(source), os.fstat(source).st_dev
    subvolumes: list[str] = []
    there = os.open(copy, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        for folder, folders, files, at in os.fwalk(".", dir_fd=source):
            skipped = set()
            for name in folders + files:
                path = os.path.join(folder, name).removeprefix("./")
                try:
                    wanted = os.stat(name, dir_fd=at, follow_symlinks=False)
                except FileNotFoundError:
                    continue
                if path in mounted and stat.S_ISDIR(wanted.st_mode):
                    skipped.add(name)
                elif wanted.st_ctime < since and not _is_whole(wanted, there, path):
                    if not stat.S_ISDIR(wanted.st_mode) or wanted.st_dev == device:
                        return Verdict(path, subvolumes)
                    skipped.add(name)
                    subvolumes.append(path)
            folders[:] = [name for name in folders if name not in skipped]
    finally:
        os.close(there)
    return Verdict("", subvolumes)


def _mounted_below(directory: int) -> frozenset[str]:
    """What is mounted in the tree of an open directory, as paths below it. Empty where nobody tells."""
    try:
        top = os.readlink(f"/proc/self/fd/{directory}").rstrip("/") + "/"
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            targets = [line.split(" ", 5)[4] for line in file]
    except OSError:
        return frozenset()
    # Blanks and their like are written as octal numbers (proc(5)).
    paths = [re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), target) for target in targets]
    return frozenset(path[len(top) :] for path in paths if path.startswith(top))


def _is_whole(wanted: os.stat_result, there: int, path: str) -> bool:
    if stat.S_ISSOCK(wanted.st_mode):
        return True  # not worth a copy
    try:
        found = os.stat(path, dir_fd=there, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return not stat.S_ISREG(wanted.st_mode) or found.st_size >= wanted.st_size
