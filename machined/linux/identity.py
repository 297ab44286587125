# SPDX-License-Identifier: LGPL-2.1-or-later
"""What makes a tree one particular system: taken out of a copy, so that its first boot makes it anew.

Two systems with one machine-id(5) take each other's address from DHCP and write into one journal directory;
with one random seed (systemd-random-seed.service(8)), or one secret for credentials (systemd-creds(1)), what
is secret in one is known in the other.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Final

from machined.linux import syscalls
from machined.linux.fds import OwnedFd

_MACHINE_ID: Final = ("etc", "machine-id")
# What the first boot of an image finds there: systemd knows by it that units have to be enabled.
_UNINITIALIZED: Final = b"uninitialized"
_GOING: Final = (
    ("var/lib/dbus", "machine-id"),
    ("var/lib/systemd", "random-seed"),
    ("var/lib/systemd", "credential.secret"),
)
# As the guest would find it, and never out of the tree.
_RESOLVE: Final = syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_MAGICLINKS
_ELSEWHERE: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})


def reset_identity(root: str) -> None:
    """Take the identity out of a tree that nobody runs: it is as before its first boot in that respect.

    Only regular files are touched, and nothing that a link in their place leads to: whatever else lies there
    stays. A machine-id that is missing stays so, and so does one that says "uninitialized"; one that is
    emptied is still there to be mounted over in a tree that is read-only. OSError.
    """
    with OwnedFd(os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)) as top:
        if (pinned := _regular(top, *_MACHINE_ID)) is not None:
            with pinned:
                _empty(pinned)
        for directory, name in _GOING:
            if (pinned := _regular(top, directory, name)) is not None:
                pinned.close()
                with _directory(top, directory) as place:
                    os.unlink(name, dir_fd=place.fileno())


def _directory(top: OwnedFd, path: str) -> OwnedFd:
    flags = os.O_PATH | os.O_DIRECTORY
    return OwnedFd(syscalls.openat2(top.fileno(), path, flags, resolve=_RESOLVE))


def _regular(top: OwnedFd, directory: str, name: str) -> OwnedFd | None:
    """A regular file, pinned but not opened: to open a FIFO or a device may hang or do things."""
    try:
        with _directory(top, directory) as place:
            flags = os.O_PATH | os.O_NOFOLLOW
            file = OwnedFd(syscalls.openat2(place.fileno(), name, flags, resolve=_RESOLVE))
    except OSError as error:
        if error.errno in _ELSEWHERE:
            return None
        raise
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return file
    file.close()
    return None


def _empty(pinned: OwnedFd) -> None:
    """Empty a file unless it says that there is no identity yet. (Its other names are in the tree, too.)"""
    path = f"/proc/self/fd/{pinned.fileno()}"
    with OwnedFd(os.open(path, os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC)) as file:
        content = os.read(file.fileno(), 64).strip()
    if content and content != _UNINITIALIZED:
        with OwnedFd(os.open(path, os.O_WRONLY | os.O_NOCTTY | os.O_CLOEXEC)) as file:
            os.ftruncate(file.fileno(), 0)
