# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which ports of the host somebody listens on, from /proc/net (proc_pid_net(5))."""

from __future__ import annotations

from pathlib import Path
from typing import Final

ROOT: Final = Path("/proc/net")
_LISTEN: Final = 0x0A
# A UDP socket that is connected to nobody: all that come with that port are its.
_UNCONNECTED: Final = 0x07


def ports(protocol: str) -> set[int]:
    """The ports that are taken on at least one address; `protocol` is tcp or udp. OSError."""
    wanted = _LISTEN if protocol == "tcp" else _UNCONNECTED
    found: set[int] = set()
    for name in (protocol, f"{protocol}6"):
        try:
            lines = (ROOT / name).read_text(encoding="ascii").splitlines()[1:]
        except FileNotFoundError:  # a kernel without IPv6
            continue
        for line in lines:
            words = line.split()
            if len(words) > 3 and int(words[3], 16) == wanted:
                found.add(int(words[1].rpartition(":")[2], 16))
    return found
