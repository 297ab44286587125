# SPDX-License-Identifier: LGPL-2.1-or-later
"""Files that are written as a whole: whoever reads one sees what was there before, or all that is new."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def write(path: Path, data: bytes, mode: int) -> None:
    """Put a file with this mode, whatever the umask, in the place of what is there. OSError."""
    # Hidden, and without the suffix: neither a drop-in nor anybody's settings by its name.
    temporary = path.with_name(f".#{path.name}-{os.urandom(8).hex()}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(temporary, flags, mode)
    try:
        with open(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        os.rename(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
