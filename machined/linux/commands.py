# SPDX-License-Identifier: LGPL-2.1-or-later
"""Short programs that are asked something, with a time limit. They block: call them in a thread."""

from __future__ import annotations

import errno
import shutil
import subprocess
from typing import Final

TIMEOUT: Final = 20.0
"""Seconds."""
_ENVIRONMENT: Final = {"PATH": "/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}


class NotInstalledError(FileNotFoundError):
    """There is no such program."""


def is_installed(program: str) -> bool:
    return shutil.which(program, path=_ENVIRONMENT["PATH"]) is not None


def run(*argv: str, text: str = "") -> str:
    """What a program prints, given `text` on its standard input.

    Raises OSError with its first complaint, NotInstalledError, TimeoutError.
    """
    try:
        done = subprocess.run(
            argv, input=text, capture_output=True, text=True, errors="replace", env=_ENVIRONMENT,
            timeout=TIMEOUT, check=False,
        )  # fmt: skip
    except FileNotFoundError:
        raise NotInstalledError(errno.ENOENT, f"'{argv[0]}' is not installed") from None
    except subprocess.TimeoutExpired:
        raise TimeoutError(errno.ETIMEDOUT, f"'{argv[0]}' did not end within {TIMEOUT:g} s") from None
    if done.returncode:
        complaint = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[0]
        raise OSError(errno.EIO, f"{argv[0]}: {complaint[:500]}")
    return done.stdout
