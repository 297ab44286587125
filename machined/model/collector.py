# SPDX-License-Identifier: LGPL-2.1-or-later
"""Takes machines out of the table when their unit, job and leader say that they are over.

The rules are those of systemd-machined of the host's version: up to 257 the unit alone decides, from 258 on
a living leader keeps its machine as well.
"""

from __future__ import annotations

import asyncio
import logging

from machined.model.errors import MachineError, ServiceManagerError
from machined.model.machine import Machine
from machined.model.ports import ServiceManager
from machined.model.registrar import Registrar
from machined.model.registry import Registry

log = logging.getLogger(__name__)


class Collector:
    """Looks at queued machines when the loop has nothing better to do, one pass at a time."""

    def __init__(self, registry: Registry, registrar: Registrar, systemd: ServiceManager) -> None:
        self._registry = registry
        self._registrar = registrar
        self._systemd = systemd
        self._queue: dict[str, Machine] = {}
        self._task: asyncio.Task[None] | None = None
        # While records are adopted nobody may be taken out: half of the facts are not in yet.
        self.held = True
        registrar.collect = self.collect
        registrar.on_leader_exit = self.enqueue

    def enqueue(self, machine: Machine) -> None:
        """Have a look at this machine soon."""
        self._queue[machine.name] = machine
        if self._task is None and not self.held:
            self._task = asyncio.ensure_future(self._run())

    def release(self) -> None:
        """Begin to work, with what has been queued so far."""
        self.held = False
        if self._queue and self._task is None:
            self._task = asyncio.ensure_future(self._run())

    def enqueue_unit(self, unit: str) -> None:
        for machine in self._registry.by_unit(unit):
            self.enqueue(machine)

    def enqueue_all(self) -> None:
        for machine in self._registry:
            self.enqueue(machine)

    async def _run(self) -> None:
        try:
            while self._queue:
                _, machine = self._queue.popitem()
                try:
                    await self.collect(machine)
                except Exception:
                    log.exception("Looking at machine '%s' failed, ignoring", machine.name)
        finally:
            self._task = None

    async def collect(self, machine: Machine) -> None:
        """Take the machine out if it is over; otherwise nothing happens."""
        if self._registry.get(machine.name) is not machine or not await self.is_over(machine):
            return
        if not machine.stopping:
            # The unit may hold processes although the machine is over: let them go, then look again.
            try:
                await self._registrar.terminate(machine)
            except (ServiceManagerError, MachineError, OSError) as error:
                # Where the unit is not the machine's alone a process was to end it, which may have ended.
                log.debug("Cannot stop unit '%s', ignoring: %s", machine.unit, error)
            if not await self.is_over(machine):
                return
        if self._registry.get(machine.name) is machine:
            self._registrar.finalize(machine)

    async def is_over(self, machine: Machine) -> bool:
        """Whether nothing keeps this machine any more.

        No answer from PID 1 counts as a reason to keep it.
        """
        if machine.is_host():
            return False
        if not machine.leader_pid:
            return True
        alive = machine.leader_alive()
        if self._systemd.version >= 258 and alive:
            return False
        if machine.subgroup and not alive and not machine.owns_unit():
            return True  # the unit goes on with what else is in it
        try:
            if machine.scope_job and await self._systemd.job_exists(machine.scope_job):
                return False
            return not (machine.unit and (await self._systemd.unit(machine.unit)).is_up)
        except ServiceManagerError as error:
            log.debug("PID 1 does not tell of machine '%s', keeping it: %s", machine.name, error)
            return False

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
