# SPDX-License-Identifier: LGPL-2.1-or-later
"""When a guest has come up: what its manager says of itself.

systemd-nspawn passes the guest's "Ready." on as the status of its own service, so an event tells; one in
a scope has no such status and is asked instead, less and less often, and taken for running when it never
answers.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from machined.model.errors import ServiceManagerError
from machined.model.machine import Machine, MachineClass
from machined.model.ports import GuestConnector, ServiceManager
from machined.model.registry import Registry
from machined.model.state import GUEST_READY, State, States

log = logging.getLogger(__name__)

# Seconds between questions to a guest that nobody else tells of.
PAUSES: Final = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
# Seconds for one answer.
TIMEOUT: Final = 10.0
CONCURRENCY: Final = 8
NOT_READY: Final = frozenset({"", "initializing", "starting"})


class Readiness:
    """Follows each new container until it is up, then asks once whether something in it failed."""

    def __init__(
        self, registry: Registry, states: States, systemd: ServiceManager, connector: GuestConnector
    ) -> None:
        self._registry = registry
        self._states = states
        self._systemd = systemd
        self._connector = connector
        self._tasks: dict[Machine, asyncio.Task[None]] = {}
        # After a restart of ours every machine is asked at once.
        self._turn = asyncio.Semaphore(CONCURRENCY)
        registry.on_new.append(self._follow)
        registry.on_removed.append(self._forget)

    def _follow(self, machine: Machine) -> None:
        self._tasks[machine] = asyncio.ensure_future(self._run(machine))

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
        try:
            self._states.unit_changed(await self._systemd.unit(machine.unit))
        except ServiceManagerError as error:
            log.debug("PID 1 does not tell of unit '%s', ignoring: %s", machine.unit, error)
        if machine.cls is not MachineClass.CONTAINER:
            return
        if self._tells_by_itself(machine):
            await self._states.wait_until(machine.name, lambda: self._said_ready(machine))
            state = await self._ask(machine)
        else:
            state = await self._ask_until_ready(machine)
        self._states.guest_says(machine, State.DEGRADED if state == "degraded" else State.RUNNING)

    def _tells_by_itself(self, machine: Machine) -> bool:
        unit = self._states.tracked(machine.unit)
        # Before READY=1 the status is empty: a service of nspawn's kind is told by its name.
        return unit is not None and (
            unit.status_text.startswith("Container running")
            or (
                machine.unit.startswith(("machine-", "systemd-nspawn@"))
                and machine.unit.endswith(".service")
            )
        )

    def _said_ready(self, machine: Machine) -> bool:
        unit = self._states.tracked(machine.unit)
        return unit is not None and unit.status_text == GUEST_READY

    async def _ask(self, machine: Machine) -> str:
        """The guest's SystemState, empty when it gives no answer."""
        try:
            async with self._turn, asyncio.timeout(TIMEOUT):
                guest = await self._connector.connect(machine.leader)
                try:
                    return await guest.system_state()
                finally:
                    guest.close()
        except (OSError, ServiceManagerError, TimeoutError) as error:
            log.debug("Machine '%s' does not tell its state: %s", machine.name, error)
            return ""

    async def _ask_until_ready(self, machine: Machine) -> str:
        for pause in PAUSES:
            await asyncio.sleep(pause)
            state = await self._ask(machine)
            if state not in NOT_READY:
                return state
        return "running"
