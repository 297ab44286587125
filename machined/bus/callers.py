# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who is behind each name on the bus: asked once, since a connection's credentials never change.

A name is that of one connection for good (D-Bus specification, "Unique Connection Names").
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from machined.bus.connection import DBUS, DBUS_PATH, Bus, RemoteError
from machined.linux.process import PidRef
from machined.model.errors import MachineError, Problem

# Callers that are remembered, and those of them whose process is pinned: each takes a descriptor.
REMEMBERED: Final = 4096
PINNED: Final = 256


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who a peer is, by its numbers; Callers.process() pins the process behind the pid."""

    uid: int
    pid: int
    pinnable: bool = False
    """Whether the bus gives us a pidfd for it."""


class Callers:
    """Remembers those who called last."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._known: OrderedDict[str, Credentials] = OrderedDict()
        self._pinned: OrderedDict[str, PidRef] = OrderedDict()
        self._asking: dict[str, asyncio.Task[Credentials]] = {}
        # Those of them that have left meanwhile: their answer is not remembered, or it would be for good.
        self._left: set[str] = set()

    def known(self, sender: str) -> Credentials | None:
        """What is remembered, without asking."""
        return self._known.get(sender)

    async def credentials(self, sender: str) -> Credentials:
        """Raises MachineError (ACCESS_DENIED) when the sender has left already."""
        found = self._known.get(sender)
        if found is None:
            return await self._ask(sender)
        self._known.move_to_end(sender)
        return found

    async def process(self, sender: str) -> PidRef:
        """The sender's process, pinned (the caller closes it). Raises ProcessLookupError, MachineError."""
        credentials = await self.credentials(sender)
        pinned = self._pinned.get(sender)
        if pinned is None and credentials.pinnable:  # not any more
            await self._ask(sender)
            pinned = self._pinned.get(sender)
        if pinned is not None:
            self._pinned.move_to_end(sender)
            return pinned.dup()
        # dbus-daemon before 1.15 hands out no pidfd: a window for a reused pid remains there.
        return PidRef.open(credentials.pid)

    async def _ask(self, sender: str) -> Credentials:
        """However many calls come before the answer, there is one question."""
        task = self._asking.get(sender)
        if task is None:
            task = self._asking[sender] = asyncio.ensure_future(self._query(sender))
            task.add_done_callback(lambda _: self._answered(sender))
        return await asyncio.shield(task)

    def _answered(self, sender: str) -> None:
        self._asking.pop(sender, None)
        self._left.discard(sender)

    async def _query(self, sender: str) -> Credentials:
        try:
            body, fds = await self._bus.request_with_fds(
                DBUS, DBUS_PATH, DBUS, "GetConnectionCredentials", "s", [sender]
            )
        except RemoteError as error:
            raise MachineError(
                Problem.ACCESS_DENIED, f"Who sent this request cannot be told any more: {error.text}"
            ) from error
        with fds:
            values = body[0]
            if "UnixUserID" not in values or "ProcessID" not in values:
                raise MachineError(Problem.ACCESS_DENIED, "The bus does not tell who sent this request.")
            found = Credentials(values["UnixUserID"].value, values["ProcessID"].value, "ProcessFD" in values)
            if sender in self._left:
                return found
            if found.pinnable:
                self._pin(sender, fds.steal(values["ProcessFD"].value))
        self._known[sender] = found
        while len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return found

    def _pin(self, sender: str, pidfd: int) -> None:
        try:
            pinned = PidRef.adopt(pidfd)
        except ProcessLookupError:
            return
        self._unpin(sender)
        self._pinned[sender] = pinned
        while len(self._pinned) > PINNED:
            self._unpin(next(iter(self._pinned)))

    def _unpin(self, sender: str) -> None:
        pinned = self._pinned.pop(sender, None)
        if pinned is not None:
            pinned.close()

    def left(self, sender: str) -> None:
        """The sender is not on the bus any more."""
        if sender in self._asking:
            self._left.add(sender)
        self._known.pop(sender, None)
        self._unpin(sender)

    async def close(self) -> None:
        """Let go of everything."""
        tasks = list(self._asking.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for sender in list(self._pinned):
            self._unpin(sender)
        self._known.clear()
