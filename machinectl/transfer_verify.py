# SPDX-License-Identifier: LGPL-2.1-or-later
"""Is an imported directory whole? systemd-importd 257 says so even where the disk got full on the way.

Sizes tell: a copy that was cut short is shorter than what it is of, or is not there.
"""

from __future__ import annotations

import os
import stat

POOL = "/var/lib/machines"


def incomplete(source: int, copy: str, since: float) -> str:
    """The first file of a tree that its copy does not have whole, "" where there is none.

    `source`: a descriptor of the directory; what was changed after `since`, in seconds, is not looked
    at. Raises OSError where the copy cannot be looked at by us.
    """
    there = os.open(copy, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        for folder, folders, files, at in os.fwalk(".", dir_fd=source):
            for name in folders + files:
                try:
                    wanted = os.stat(name, dir_fd=at, follow_symlinks=False)
                except FileNotFoundError:
                    continue
                path = os.path.join(folder, name)
                if wanted.st_ctime < since and not _is_whole(wanted, there, path):
                    return path.removeprefix("./")
    finally:
        os.close(there)
    return ""


def _is_whole(wanted: os.stat_result, there: int, path: str) -> bool:
    if stat.S_ISSOCK(wanted.st_mode):
        return True  # not worth a copy
    try:
        found = os.stat(path, dir_fd=there, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return not stat.S_ISREG(wanted.st_mode) or found.st_size >= wanted.st_size
