# SPDX-License-Identifier: LGPL-2.1-or-later
"""Small files that may be anything: read without waiting for anybody, and not more than is wanted."""

from __future__ import annotations

import os
import stat

from machined.linux.fds import OwnedFd


def read(path: str | os.PathLike[str], limit: int, *, links: bool = True) -> bytes:
    """A regular file of `limit` bytes at most, by a link only with `links`.

    Raises OSError, and ValueError for what is none or larger.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC | (0 if links else os.O_NOFOLLOW)
    with OwnedFd(os.open(path, flags)) as fd:
        if not stat.S_ISREG(os.fstat(fd.fileno()).st_mode):
            raise ValueError("it is no regular file")
        with open(fd.fileno(), "rb", closefd=False) as file:
            data = file.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"it is larger than {limit >> 10} KiB")
    return data
