# SPDX-License-Identifier: LGPL-2.1-or-later
"""polkit on the private bus, and an authority that allows everything."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from machined.bus.call import Call
from machined.bus.connection import DBUS, DBUS_PATH, Bus
from machined.bus.dispatch import Dispatcher
from machined.bus.polkit import AUTHORITY, NAME, PATH
from machined.bus.vtable import Fixed, Interface, method
from machined.model.errors import MachineError, Problem

YES, NO, CHALLENGE = [True, False, {}], [False, False, {}], [False, True, {}]


class Everybody:
    """An Authority for servers that do not ask."""

    async def check(self, call: Call, action: str, details: Mapping[str, str]) -> None:
        return


@dataclass(frozen=True)
class Question:
    kind: str
    subject: dict[str, Any]
    action: str
    details: dict[str, str]
    flags: int
    cancellation: str


class FakePolkit:
    """Answers CheckAuthorization with `answer`; while `hold` is set, only when the test releases it."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.answer = YES
        self.error: MachineError | None = None
        self.questions: asyncio.Queue[Question] = asyncio.Queue()
        self.cancelled: asyncio.Queue[str] = asyncio.Queue()
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.dispatcher = Dispatcher(bus, Everybody())
        table = Interface(
            AUTHORITY,
            (
                method(
                    "CheckAuthorization",
                    "(sa{sv}) subject, s action, a{ss} details, u flags, s cancellation",
                    "(bba{ss}) result",
                    self._check,
                ),
                method("CancelCheckAuthorization", "s cancellation", "", self._cancel),
            ),
        )
        self.dispatcher.add(Fixed(PATH, self, (table,)))
        self.dispatcher.start()

    async def own(self) -> None:
        await self.bus.request(DBUS, DBUS_PATH, DBUS, "RequestName", "su", [NAME, 0])

    async def leave(self) -> None:
        """Not on the bus any more."""
        await self.bus.request(DBUS, DBUS_PATH, DBUS, "ReleaseName", "s", [NAME])

    async def close(self) -> None:
        await self.dispatcher.close()
        await self.leave()
        self.bus.close()

    async def _check(
        self,
        call: Call,
        me: Any,
        subject: list[Any],
        action: str,
        details: dict[str, str],
        flags: int,
        cancellation: str,
    ) -> list[Any]:
        kind, values = subject
        plain = {key: variant.value for key, variant in values.items()}
        self.questions.put_nowait(Question(kind, plain, action, details, flags, cancellation))
        await self.go_on.wait()
        if self.error is not None:
            raise self.error
        return self.answer

    def _cancel(self, call: Call, me: Any, cancellation: str) -> None:
        self.cancelled.put_nowait(cancellation)


FAILED = MachineError(Problem.FAILED, "polkit is out of order")
