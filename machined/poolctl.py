# SPDX-License-Identifier: LGPL-2.1-or-later
"""Moves the pool: what the daemon runs as machined-pool.service, since its own service may not.

A unit of its own also goes on when the daemon ends. How it went is in the unit's status text, as
"Problem:sentence".
"""

from __future__ import annotations

import os
import socket
import sys

from machined.model import poolfile, poolmove
from machined.model.errors import MachineError


def _tell(text: str) -> None:
    """sd_notify(3), without the library, which the private environment does not have."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            line = f"STATUS={text}".replace("\n", " ").encode("utf-8", "replace")[:2048]
            sock.sendto(line, "\0" + address[1:] if address.startswith("@") else address)


def main() -> int:
    """poolctl create BYTES | remove | recover. Exit status 0, 1 when it failed, 2 for a bad call."""
    place = poolfile.place()
    try:
        match sys.argv[1:]:
            case ["create", size] if size.isdecimal():
                poolmove.create(place, int(size))
            case ["remove"]:
                poolmove.remove(place)
            case ["recover"]:
                poolmove.recover(place)
            case _:
                print(f"Usage: {sys.argv[0]} create BYTES | remove | recover", file=sys.stderr)
                return 2
    except MachineError as error:
        print(error.text, file=sys.stderr)
        _tell(f"{error.problem.value}:{error.text}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
