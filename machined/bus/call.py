# SPDX-License-Identifier: LGPL-2.1-or-later
"""One incoming method call: who calls, with which descriptors, and what may be asked about it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Protocol

from dbus_fast import Message

from machined.bus.callers import Callers, Credentials
from machined.bus.connection import Bus
from machined.linux.fds import FdSet, OwnedFd
from machined.linux.process import PidRef

# Header flags, D-Bus specification, "Message Format".
NO_REPLY_EXPECTED = 0x1
ALLOW_INTERACTIVE_AUTHORIZATION = 0x4


class Authority(Protocol):
    """Says whether a caller may do something (polkit)."""

    async def check(self, call: Call, action: str, details: Mapping[str, str]) -> None: ...


class Call:
    """An incoming call. Owned by the dispatcher, which closes what is left of the descriptors afterwards."""

    __slots__ = ("_authority", "_callers", "bus", "fds", "message", "only_waits", "reply_fds", "sender")

    def __init__(
        self, bus: Bus, authority: Authority, callers: Callers, message: Message, fds: FdSet
    ) -> None:
        self.bus = bus
        self._callers = callers
        self.message = message
        self.fds = fds
        self.reply_fds: FdSet | None = None
        # Nothing is done but waiting: nobody wants the answer when the sender has left.
        self.only_waits = False
        # A p2p peer has no name; the bus always sets one.
        self.sender = message.sender or ""
        self._authority = authority

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

    async def credentials(self) -> Credentials:
        """The sender's user and process. Raises MachineError (ACCESS_DENIED) when it has left already."""
        return self._callers.known(self.sender) or await self._callers.credentials(self.sender)

    async def process(self) -> PidRef:
        """The sender's process, pinned (the caller closes it).

        Raises ProcessLookupError when it has gone.
        """
        return await self._callers.process(self.sender)

    async def privileged(self) -> bool:
        """Whether the sender is root, or the user this daemon runs as (sd-bus's rule on a message bus)."""
        return (await self.credentials()).uid in {0, os.geteuid()}

    async def authorize(self, action: str, details: Mapping[str, str]) -> None:
        """Ask polkit (root is not asked).

        Raises MachineError; look up and check again what you looked up before.
        """
        if not await self.privileged():
            await self._authority.check(self, action, details)
