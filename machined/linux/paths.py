# SPDX-License-Identifier: LGPL-2.1-or-later
"""Absolute paths as callers name them: what is acceptable, and where the last component begins.

The rules are those of systemd's callers (observed with systemd-machined 257 and 262).
"""

from __future__ import annotations

import errno
import os

PATH_MAX = 4095
"""Bytes of a path, and of"""
NAME_MAX = 255
"""one component; limits.h, without the NUL."""


def _is_short_enough(path: str) -> bool:
    encoded = os.fsencode(path)
    return len(encoded) <= PATH_MAX and all(len(part) <= NAME_MAX for part in encoded.split(b"/"))


def is_normalized(path: str) -> bool:
    """Whether a path is absolute and says nothing twice: no "//", no "." and no ".." in it.

    One slash at its end is fine. Too long is not.
    """
    if not path.startswith("/") or "//" in path or "\0" in path or not _is_short_enough(path):
        return False
    return not {".", ".."} & set(path.split("/"))


def split(path: str) -> tuple[str, str]:
    """The directory and the name in it that an absolute path means.

    OSError EADDRNOTAVAIL when the path is the root directory, EINVAL when it is too long or ends in "..".
    """
    if "\0" in path or not _is_short_enough(path):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    parts = [part for part in path.split("/") if part not in {"", "."}]
    if not parts:
        raise OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
    if parts[-1] == "..":
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    return "/" + "/".join(parts[:-1]), parts[-1]
