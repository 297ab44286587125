# SPDX-License-Identifier: LGPL-2.1-or-later
"""[::1] of a published TCP port: a socket of PID 1, and systemd-socket-proxyd when somebody comes.

The kernel sends nothing with that address out of any link, so no rule can do it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from machined.model.network.ports import Port
from machined.model.network.store import Record
from machined.model.ports import UnitProperty

PROGRAM: Final = "/usr/lib/systemd/systemd-socket-proxyd"
PATTERN: Final = "machined-port-*.socket"
Units = tuple[str, list[UnitProperty]]


def unit(port: Port) -> str:
    """The name of the socket."""
    return f"machined-port-{port.protocol}-{port.host}.socket"


def wanted(records: list[Record]) -> Iterator[tuple[Units, Units]]:
    """The socket and the service of each port."""
    for record in records:
        for port in record.ports:
            if port.protocol == "tcp":
                yield _units(record, port)


def _units(record: Record, port: Port) -> tuple[Units, Units]:
    name = unit(port)
    text = f"[::1]:{port.host} for machine {record.machine} (machined)"
    argv = [PROGRAM, "--exit-idle-time=2min", f"{record.address}:{port.machine}"]
    return (
        (
            name,
            [
                UnitProperty("Description", "s", text),
                UnitProperty("Listen", "a(ss)", [["Stream", f"[::1]:{port.host}"]]),
                UnitProperty("CollectMode", "s", "inactive-or-failed"),
            ],
        ),
        (
            name.replace(".socket", ".service"),
            [
                UnitProperty("Description", "s", text),
                UnitProperty("Type", "s", "notify"),
                UnitProperty("ExecStart", "a(sasb)", [[PROGRAM, argv, False]]),
                UnitProperty("DynamicUser", "b", True),
                UnitProperty("ProtectHome", "s", "yes"),
                UnitProperty("CollectMode", "s", "inactive-or-failed"),
            ],
        ),
    )
