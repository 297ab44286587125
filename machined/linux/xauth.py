# SPDX-License-Identifier: LGPL-2.1-or-later
"""Files with the cookies of X servers: Xsecurity(7), in the format of libXau."""

from __future__ import annotations

from typing import Final

from machined.linux import plainfile

ANY_HOST: Final = 0xFFFF
"""The family of an entry that is for every host, whatever its name (FamilyWild of Xauth.h)."""
SIZE_MAX: Final = 64 * 1024
_FIELDS: Final = 4
"""After the family: address, display number, name of the protocol, cookie."""


def for_any_host(data: bytes) -> bytes:
    """The same cookies, good for whoever has them. Raises ValueError for what is no such file."""
    result, at = [], 0
    while at < len(data):
        end = at + 2
        for _ in range(_FIELDS):
            size = int.from_bytes(data[end : end + 2], "big")
            end += 2 + size
        if end > len(data):
            raise ValueError("it ends in the middle of an entry")
        result += [ANY_HOST.to_bytes(2, "big"), data[at + 2 : end]]
        at = end
    if not result:
        raise ValueError("no cookie is in it")
    return b"".join(result)


def read(path: str) -> bytes:
    """The cookies of a file, as for_any_host(). Raises OSError, ValueError."""
    return for_any_host(plainfile.read(path, SIZE_MAX, links=False))
