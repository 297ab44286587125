# SPDX-License-Identifier: LGPL-2.1-or-later
"""Files with the cookies of X servers (Xsecurity(7), the format of libXau), and which one a server has."""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path
from typing import Final

ANY_HOST: Final = 0xFFFF
"""The family of an entry that is for every host, whatever its name (FamilyWild of Xauth.h)."""
SIZE_MAX: Final = 64 * 1024
_FIELDS: Final = 4
"""After the family: address, display number, name of the protocol, cookie."""
_CREDENTIALS: Final = struct.Struct("3i")


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


def server_file(listens: str) -> str:
    """The file that a server was told to have its cookies in (-auth), by the socket where it listens.

    It is one of the server's own user, or "".
    """
    with socket.socket(socket.AF_UNIX) as asked:
        asked.setblocking(False)
        try:
            asked.connect(listens)
            answer = asked.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
            pid, uid, _ = _CREDENTIALS.unpack(answer)
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            path = os.fsdecode(words[words.index(b"-auth", 0, -1) + 1])
            return path if path.startswith("/") and os.stat(path).st_uid == uid else ""
        except (OSError, ValueError):
            return ""
