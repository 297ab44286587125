# SPDX-License-Identifier: LGPL-2.1-or-later
"""The service manager inside a machine, over the machine's own system bus.

The bus of a guest sees who connects: the socket is made here and connected by a helper that is the guest's
root. Everything that comes back is the guest's word, so it has a time limit and is checked.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Sequence
from typing import Any, Final

from dbus_fast import Variant
from dbus_fast.errors import AuthError

from machined.bus.connection import Bus, RemoteError, system_bus_path, unix_socket
from machined.bus.systemd1 import MANAGER, NAME, PATH, PROPERTIES
from machined.linux import helper
from machined.linux.process import PidRef
from machined.model.errors import ServiceManagerError
from machined.model.ports import GuestManager, UnitProperty

log = logging.getLogger(__name__)

# Where a guest's bus listens, in the guest's own view (D-Bus specification, "System Bus").
BUS_SOCKET: Final = "/run/dbus/system_bus_socket"
TIMEOUT: Final = 25.0
# Bytes that a guest's bus may say to us in one connection: some replies of a few hundred bytes are due.
BUDGET: Final = 256 * 1024


class Guest:
    """A GuestManager over one connection."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def _call(
        self, path: str, interface: str, member: str, signature: str, *body: Any, fds: Sequence[int] = ()
    ) -> list[Any]:
        try:
            return await self._bus.request(
                NAME, path, interface, member, signature, body, fds=fds, timeout=TIMEOUT
            )
        except RemoteError as error:
            raise ServiceManagerError(error.name, error.text) from error

    async def system_state(self) -> str:
        """What `systemctl is-system-running` says in the machine."""
        body = await self._call(PATH, PROPERTIES, "Get", "ss", MANAGER, "SystemState")
        value = body[0].value if body and isinstance(body[0], Variant) else ""
        return value if isinstance(value, str) else ""

    async def start_unit(self, name: str) -> None:
        await self._call(PATH, MANAGER, "StartUnit", "ss", name, "replace")

    async def start_transient(
        self, name: str, properties: Sequence[UnitProperty], fds: Sequence[int]
    ) -> None:
        rows = [[p.name, Variant(p.type, p.value)] for p in properties]
        await self._call(
            PATH, MANAGER, "StartTransientUnit", "ssa(sv)a(sa(sv))", name, "fail", rows, [], fds=fds
        )

    def close(self) -> None:
        self._bus.close()


class Connector:
    """Opens guests' buses, and the host's own for `.host`."""

    async def host(self) -> GuestManager:
        """The host's own manager. Raises OSError, TimeoutError."""
        return Guest(await Bus.connect_to(system_bus_path()))

    async def connect(self, leader: PidRef) -> GuestManager:
        """The manager of the machine with this leader.

        Raises FileNotFoundError when there is no bus, OSError, TimeoutError.
        """
        sock = unix_socket()
        sock.budget = BUDGET
        try:
            reply = await helper.run("connect", leader, {"path": BUS_SOCKET}, fds=[sock.fileno()])
            reply.fds.close()
        except BaseException:
            sock.close()
            raise
        try:
            return Guest(await Bus.adopt(sock, timeout=TIMEOUT))
        except (AuthError, EOFError, RemoteError) as error:
            raise ConnectionRefusedError(
                errno.ECONNREFUSED, f"the machine's bus does not take us: {error}"
            ) from error
