# SPDX-License-Identifier: LGPL-2.1-or-later
"""Password hashes by the system's own libcrypt (crypt(3)); Python's module for it is gone since 3.13."""

from __future__ import annotations

import errno
import os
from typing import Final

# Debian, Fedora and Arch call the same library so; the first has the old interface as well.
LIBRARIES: Final = ("libcrypt.so.1", "libcrypt.so.2")
METHOD: Final = "$6$rounds=100000$"
"""SHA-512, which every libc of the last fifteen years reads: a guest may be older than us (crypt(5))."""
_LETTERS: Final = "./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def hashed(password: str) -> str:
    """The line for /etc/shadow. Takes some 0.1 s. OSError ENOSYS where there is no libcrypt."""
    salt = "".join(_LETTERS[byte & 63] for byte in os.urandom(16))
    import ctypes

    for name in LIBRARIES:
        try:
            library = ctypes.CDLL(name, use_errno=True)
        except OSError:
            continue
        library.crypt.restype = ctypes.c_char_p
        result: bytes | None = library.crypt(password.encode(), (METHOD + salt).encode())
        if result is None or not result.startswith(b"$6$"):
            raise OSError(ctypes.get_errno() or errno.EINVAL, "libcrypt cannot hash this password")
        return result.decode("ascii")
    raise OSError(errno.ENOSYS, "no libcrypt on this host to hash a password with")
