# SPDX-License-Identifier: LGPL-2.1-or-later
"""When a guest has come up: what its manager says of itself.

systemd-nspawn passes the guest's "Ready." on as the status of its own service, so an event tells; one in
a scope has no such status and is asked instead, less and less often, and taken for running when it never
answers.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from machined.model.errors import ServiceManagerError
from machined.model.machine import Machine, MachineClass
from machined.model.ports import GuestConnector
from machined.model.registry import Registry
from machined.model.state import GUEST_READY, State, States
from machined.model.turns import Turns

log = logging.getLogger(__name__)

# Seconds in which who has just registered a machine may do something else with it, and PID 1 is busy anyway.
SETTLING: Final = 0.05
# Seconds between questions to a guest that nobody else tells of.
PAUSES: Final = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
# The first pause to begin with where an event is expected.
LATER: Final = 4
# Seconds for one answer.
TIMEOUT: Final = 10.0
NOT_READY: Final = frozenset({"", "initializing", "starting"})


class Readiness:
    """Follows each new container until it is up, then asks once whether something in it failed."""

    def __init__(
        self,
        registry: Registry,
        states: States,
        look: Callable[[str], Awaitable[None]],
        connector: GuestConnector,
    ) -> None:
        self._registry = registry
        self._states = states
        self._look = look
        self._connector = connector
        self._tasks: dict[Machine, asyncio.Task[None]] = {}
        # After a restart of ours every machine is asked at once.
        self._turns = Turns()
        registry.on_new.append(self._follow)
        registry.on_removed.append(self._forget)

    def _follow(self, machine: Machine) -> None:
        task = asyncio.ensure_future(self._run(machine))
        self._tasks[machine] = task
        task.add_done_callback(lambda _: self._done(machine, task))

    def _done(self, machine: Machine, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("Following machine '%s' failed, taking it for running", machine.name, exc_info=error)
            self._states.guest_says(machine, State.RUNNING)

    def _forget(self, machine: Machine) -> None:
        task = self._tasks.pop(machine, None)
        if task is not None:
            task.cancel()

    async def close(self) -> None:
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._tasks.clear()

    async def _run(self, machine: Machine) -> None:
        await asyncio.sleep(SETTLING)
        await self._look(machine.unit)
        if machine.cls is not MachineClass.CONTAINER:
            return
        state = await self._first_word(machine)
        self._states.guest_says(machine, State.DEGRADED if state == "degraded" else State.RUNNING)

    async def _first_word(self, machine: Machine) -> str:
        """The guest's state, from whoever tells first: nspawn that it is ready, or the guest when asked.

        Not every guest says "Ready." in nspawn's ear: other inits, and old ones of systemd.
        """
        asked = asyncio.ensure_future(self._ask_until_ready(machine))
        told = asyncio.ensure_future(
            self._states.wait_until(machine.name, lambda: self._said_ready(machine))
        )
        try:
            await asyncio.wait([asked, told], return_when=asyncio.FIRST_COMPLETED)
            return asked.result() if asked.done() else await self._ask(machine)
        finally:
            for task in (asked, told):
                task.cancel()
            await asyncio.gather(asked, told, return_exceptions=True)

    def _asks_soon(self, machine: Machine) -> bool:
        """Where nspawn has a service of its own it tells: to ask is for guests that it cannot hear."""
        return not machine.unit.endswith(".service")

    def _said_ready(self, machine: Machine) -> bool:
        unit = self._states.tracked(machine.unit)
        return unit is not None and unit.status_text == GUEST_READY

    async def _ask(self, machine: Machine) -> str:
        """The guest's SystemState, empty when it gives no answer."""
        try:
            async with self._turns.of(machine.uid), asyncio.timeout(TIMEOUT):
                if machine.leader is None:
                    return ""
                with machine.leader.dup() as leader:
                    guest = await self._connector.connect(leader)
                try:
                    return await guest.system_state()
                finally:
                    guest.close()
        except (OSError, ServiceManagerError, TimeoutError) as error:
            log.debug("Machine '%s' does not tell its state: %s", machine.name, error)
            return ""

    async def _ask_until_ready(self, machine: Machine) -> str:
        for pause in PAUSES if self._asks_soon(machine) else PAUSES[LATER:]:
            await asyncio.sleep(pause)
            state = await self._ask(machine)
            if state not in NOT_READY:
                return state
        return "running"
