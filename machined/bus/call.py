# SPDX-License-Identifier: LGPL-2.1-or-later
"""One incoming method call: who calls, with which descriptors, and what may be asked about it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from dbus_fast import Message

from machined.bus.connection import DBUS, DBUS_PATH, Bus, RemoteError
from machined.linux.fds import FdSet, OwnedFd
from machined.linux.process import PidRef
from machined.model.errors import MachineError, Problem

# Header flags, D-Bus specification, "Message Format".
NO_REPLY_EXPECTED = 0x1
ALLOW_INTERACTIVE_AUTHORIZATION = 0x4


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who a peer is, by its numbers; Call.process() pins the process behind the pid."""

    uid: int
    pid: int


class Authority(Protocol):
    """Says whether a caller may do something (polkit)."""

    async def check(self, call: Call, action: str, details: Mapping[str, str]) -> None: ...


class Call:
    """An incoming call. Owned by the dispatcher, which closes what is left of the descriptors afterwards."""

    __slots__ = ("_authority", "_credentials", "bus", "fds", "message", "only_waits", "reply_fds", "sender")

    def __init__(self, bus: Bus, authority: Authority, message: Message, fds: FdSet) -> None:
        self.bus = bus
        self.message = message
        self.fds = fds
        self.reply_fds: FdSet | None = None
        # Nothing is done but waiting: nobody wants the answer when the sender has left.
        self.only_waits = False
        # A p2p peer has no name; the bus always sets one.
        self.sender = message.sender or ""
        self._authority = authority
        self._credentials: Credentials | None = None

    @property
    def wants_reply(self) -> bool:
        return not self.message.flags.value & NO_REPLY_EXPECTED

    @property
    def interactive(self) -> bool:
        """Whether polkit may ask the user (the header's flag, set by the client)."""
        return bool(self.message.flags.value & ALLOW_INTERACTIVE_AUTHORIZATION)

    def attach(self, fd: OwnedFd) -> int:
        """Send a descriptor with the reply; returns its index, which is the value of the out argument."""
        if self.reply_fds is None:
            self.reply_fds = FdSet([fd.detach()])
            return 0
        held = [self.reply_fds.steal(i) for i in range(len(self.reply_fds))]
        self.reply_fds = FdSet([*held, fd.detach()])
        return len(held)

    async def _query(self) -> tuple[Credentials, PidRef | None]:
        try:
            body, fds = await self.bus.request_with_fds(
                DBUS, DBUS_PATH, DBUS, "GetConnectionCredentials", "s", [self.sender]
            )
        except RemoteError as error:
            raise MachineError(
                Problem.ACCESS_DENIED, f"Who sent this request cannot be told any more: {error.text}"
            ) from error
        with fds:
            values = body[0]
            if "UnixUserID" not in values or "ProcessID" not in values:
                raise MachineError(Problem.ACCESS_DENIED, "The bus does not tell who sent this request.")
            pinned = None
            if "ProcessFD" in values:
                try:
                    pinned = PidRef.adopt(fds.steal(values["ProcessFD"].value))
                except ProcessLookupError:
                    pinned = None
            credentials = Credentials(values["UnixUserID"].value, values["ProcessID"].value)
        self._credentials = credentials
        return credentials, pinned

    async def credentials(self) -> Credentials:
        """The sender's user and process. Raises MachineError (ACCESS_DENIED) when it has left already."""
        if self._credentials is None:
            _, pinned = await self._query()
            if pinned is not None:
                pinned.close()
        assert self._credentials is not None
        return self._credentials

    async def process(self) -> PidRef:
        """The sender's process, pinned (the caller closes it).

        Raises ProcessLookupError when it has gone.
        """
        credentials, pinned = await self._query()
        # dbus-daemon before 1.15 hands out no pidfd: a window for a reused pid remains there.
        return pinned if pinned is not None else PidRef.open(credentials.pid)

    async def privileged(self) -> bool:
        """Whether the sender is root, or the user this daemon runs as (sd-bus's rule on a message bus)."""
        return (await self.credentials()).uid in {0, os.geteuid()}

    async def authorize(self, action: str, details: Mapping[str, str]) -> None:
        """Ask polkit (root is not asked).

        Raises MachineError; look up and check again what you looked up before.
        """
        if not await self.privileged():
            await self._authority.check(self, action, details)
