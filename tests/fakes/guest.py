# SPDX-License-Identifier: LGPL-2.1-or-later
"""Guests that answer what the test says."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from machined.linux.process import PidRef
from machined.model.ports import UnitProperty


class FakeGuest:
    """A GuestManager."""

    def __init__(self, states: list[str]) -> None:
        self.states = states
        self.calls: list[tuple[Any, ...]] = []
        self.closed = False

    async def system_state(self) -> str:
        return self.states.pop(0) if len(self.states) > 1 else self.states[0]

    async def start_unit(self, name: str) -> None:
        self.calls.append(("start_unit", name))

    async def start_transient(
        self, name: str, properties: Sequence[UnitProperty], fds: Sequence[int]
    ) -> None:
        self.calls.append(("start_transient", name, {row.name: row.value for row in properties}, len(fds)))

    def close(self) -> None:
        self.closed = True


class FakeConnector:
    """A GuestConnector. `error` is raised instead of a connection; `asked` tells of each attempt."""

    def __init__(self) -> None:
        self.guest = FakeGuest(["running"])
        self.error: Exception | None = None
        self.leaders: list[PidRef | None] = []
        self.asked = asyncio.Event()

    async def host(self) -> FakeGuest:
        return self._connected(None)

    async def connect(self, leader: PidRef) -> FakeGuest:
        return self._connected(leader)

    def _connected(self, leader: PidRef | None) -> FakeGuest:
        self.leaders.append(leader)
        self.asked.set()
        if self.error is not None:
            raise self.error
        return self.guest
