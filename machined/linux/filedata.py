# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is in a file, from one descriptor to another: shared blocks, holes, bytes, extended attributes."""

from __future__ import annotations

import errno
import fcntl
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

    Reflink = Literal["auto", "always", "never", "tried"]

# <linux/fs.h>; mips, powerpc, sparc and alpha encode directions differently.
FICLONE = 0x80049409 if os.uname().machine.startswith(("mips", "ppc", "sparc", "alpha")) else 0x40049409

CHUNK = 1 << 20
# One call may take this long at most: a signal waits for it.
RANGE = 64 << 20

ACCESS_ACL = "system.posix_acl_access"
DEFAULT_ACL = "system.posix_acl_default"

# How the kernel says that two files cannot share or pass data this way (ioctl_ficlone(2),
# copy_file_range(2)); a mount that seals off either file says EPERM or ETXTBSY.
_NOT_THIS_WAY = frozenset(
    {
        errno.EOPNOTSUPP,
        errno.EXDEV,
        errno.EINVAL,
        errno.ENOTTY,
        errno.ENOSYS,
        errno.EBADF,
        errno.EPERM,
        errno.ETXTBSY,
    }
)
_NO_ATTRIBUTES = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.ENODATA})
# Labels that the host's security policy gives: it may refuse them (EPERM), and then gives its own.
_LABELS = ("security.selinux", "security.SMACK64", "security.apparmor", "security.ima", "security.evm")


def share_data(source: int, target: int) -> bool:
    """Have an empty file share all blocks of another (a reflink); False where that cannot be. OSError."""
    try:
        fcntl.ioctl(target, FICLONE, source)
    except OSError as error:
        if error.errno not in _NOT_THIS_WAY:
            raise
        return False
    return True


def copy_data(source: int, target: int, size: int, reflink: Reflink = "auto") -> None:
    """Fill an empty file from a regular one of `size` bytes, holes included. Raises OSError.

    What says it is empty is read to its end, since files of procfs and sysfs all say so. Blocks are shared
    if that goes ("auto"), or it is an error if that does not go (EOPNOTSUPP, "always"), or they are not
    shared whatever happens ("never"); "tried" is "auto" for who knows that whole files cannot be.
    """
    if not size:
        _copy_bytes(source, target, None)
        return
    if reflink in {"auto", "always"} and share_data(source, target):
        return
    if reflink == "always":
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
    os.truncate(target, size)
    start = 0
    while start < size:
        start, end = _segment(source, start, size)
        if end > start:
            _copy_range(source, target, start, end, by_kernel=reflink != "never")
        start = end


def _segment(source: int, start: int, size: int) -> tuple[int, int]:
    """Where the next data is at or behind start, within size."""
    try:
        begin = os.lseek(source, start, os.SEEK_DATA)
        end = os.lseek(source, begin, os.SEEK_HOLE)
    except OSError as error:
        if error.errno == errno.ENXIO:  # nothing but a hole to the end
            return size, size
        if error.errno not in _NOT_THIS_WAY:
            raise
        return start, size
    return min(begin, size), min(end, size)


def _copy_range(source: int, target: int, start: int, end: int, *, by_kernel: bool) -> None:
    while start < end:
        try:
            # (It shares blocks where it can.)
            length = min(end - start, RANGE)
            done = os.copy_file_range(source, target, length, start, start) if by_kernel else 0
        except OSError as error:
            if error.errno not in _NOT_THIS_WAY:
                raise
            done = 0
        if not done:  # by hand, which also finds out whether the file has become shorter
            os.lseek(source, start, os.SEEK_SET)
            os.lseek(target, start, os.SEEK_SET)
            _copy_bytes(source, target, end - start)
            return
        start += done


def _copy_bytes(source: int, target: int, limit: int | None) -> None:
    left = limit
    while left is None or left > 0:
        data = memoryview(os.read(source, CHUNK if left is None else min(CHUNK, left)))
        if not data:
            return
        if left is not None:
            left -= len(data)
        while data:
            data = data[os.write(target, data) :]


def copy_attributes(source: int, target: int, prefixes: tuple[str, ...]) -> None:
    """Copy the extended attributes whose names begin like this, as far as the target can hold them.

    Raises OSError for what is wrong beyond that, such as a full disk.
    """
    try:
        names = os.listxattr(source)
    except OSError as error:
        if error.errno in _NO_ATTRIBUTES:
            return
        raise
    for name in names:
        if not name.startswith(prefixes):
            continue
        try:
            os.setxattr(target, name, os.getxattr(source, name))
        except OSError as error:
            if error.errno not in _NO_ATTRIBUTES:
                raise


def copy_all_attributes(source: int | str, target: int | str) -> None:
    """Copy the extended attributes of every namespace, as far as the target can hold them. OSError.

    A link at the end of the target's path is not followed; one at the end of the source's is.
    """
    for name in os.listxattr(source):
        try:
            value = os.getxattr(source, name)
            if isinstance(target, int):
                os.setxattr(target, name, value)
            else:
                os.setxattr(target, name, value, follow_symlinks=False)
        except OSError as error:
            refused = error.errno in {errno.EPERM, errno.EACCES, errno.EINVAL} and name in _LABELS
            if error.errno not in _NO_ATTRIBUTES and not refused:
                raise
