# SPDX-License-Identifier: LGPL-2.1-or-later
"""Programs that do a part of a long operation: run to their end, never longer than we live."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
from typing import Final

from machined.linux.syscalls import die_with_parent

_ENVIRONMENT: Final = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}
_STDERR_MAX: Final = 64 * 1024
_ERRORS: Final = {
    os.strerror(number): number
    for number in (
        errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EBUSY,
        errno.ENOENT, errno.ELOOP, errno.ENAMETOOLONG, errno.EOPNOTSUPP, errno.ENOTEMPTY, errno.EMFILE,
    )
}  # fmt: skip


def run(*command: str, ignore: str = "") -> None:
    """Run a tool to its end. OSError with what its first complaint was about, EIO when that is not clear.

    Complaints with the text `ignore` are none. It is killed when this process ends or is told to.
    """
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=_ENVIRONMENT,
        preexec_fn=_die_with_parent,  # the process of a long operation has one thread
    )
    assert process.stderr is not None
    with process, process.stderr:
        try:
            complaints = process.stderr.read(_STDERR_MAX).decode(errors="replace")
            while process.stderr.read(_STDERR_MAX):
                continue
        except BaseException:
            process.kill()
            raise
    lines = [line for line in complaints.splitlines() if not ignore or ignore not in line]
    if process.returncode and (lines or not complaints):
        for line in lines:
            reason = line.rpartition(": ")[2]
            if reason in _ERRORS:
                raise OSError(_ERRORS[reason], line)
        raise OSError(errno.EIO, complaints.strip() or f"{command[0]} failed ({process.returncode})")


def _die_with_parent() -> None:
    die_with_parent(signal.SIGKILL)
