# SPDX-License-Identifier: LGPL-2.1-or-later
"""A Core over fakes, and the machines of a test in it."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from machined.model.core import Core
from machined.model.machine import Machine, MachineClass
from machined.model.ports import Unit
from machined.model.registrar import Registration
from machined.model.state import GUEST_READY, unit_of_machine
from tests.fakes.guest import FakeConnector
from tests.fakes.process import FakeProcess
from tests.fakes.sandbox import Sandbox
from tests.fakes.systemd import FakeServiceManager


class World:
    """The model, what is around it, and shortcuts for both."""

    def __init__(self, sandbox: Sandbox, version: int) -> None:
        self.sandbox = sandbox
        self.systemd = FakeServiceManager(version)
        self.connector = FakeConnector()
        self.core = Core(
            self.systemd, self.connector, cleanup="/lib/cleanup", state_directory=sandbox.records
        )
        self.core.images._search_path = (sandbox.pool,)
        self.core.image_ops.pool = sandbox.pool
        self.core.roots.pool = sandbox.pool
        self.systemd.attach(self.core)
        self._pids = itertools.count(4_000_000)  # above pid_max's limit on 64 bits, so nobody's

    def process(self, unit: str | None = None, pidfd_id: int | None = None) -> FakeProcess:
        """A new process, in this unit."""
        process = FakeProcess(next(self._pids), pidfd_id)
        if unit is not None:
            self.sandbox.units[process.pid] = unit
        return process

    async def register(self, name: str, unit: str = "", **more: Any) -> tuple[Machine, FakeProcess]:
        """A registered container with a leader in `unit` (by default ours), up unless the test said else."""
        unit = unit or unit_of_machine(name)
        self.systemd.known.setdefault(unit, Unit(unit, "active", "running", "success"))
        leader = self.process(unit)
        fields = {"name": name, "cls": MachineClass.CONTAINER, "leader": leader, **more}
        machine = await self.core.registrar.register(Registration(**fields))
        return machine, leader

    async def run(self, name: str) -> tuple[Machine, FakeProcess]:
        """A machine of ours that is up."""
        unit = unit_of_machine(name)
        self.systemd.emit(unit, ActiveState="activating", SubState="start")
        found = await self.register(name)
        self.systemd.emit(unit, ActiveState="active", SubState="running", StatusText=GUEST_READY)
        await turns()  # the guest is asked how it is
        return found

    def boots(self, then: Callable[[Machine, FakeProcess], object] = lambda machine, leader: None) -> None:
        """From now on units that are started behave as systemd-nspawn with a good image."""

        async def start(unit: str, *_: Any) -> None:
            name = unit.removeprefix("machine-").removesuffix(".service")
            job = self.systemd.last_job()
            self.systemd.emit(unit, ActiveState="activating", SubState="start")
            found = await self.register(name, root_directory=str(self.sandbox.pool / name))
            self.systemd.emit(unit, ActiveState="active", SubState="running", StatusText=GUEST_READY)
            await turns()
            self.systemd.finish(job, unit)
            then(*found)

        self.systemd.hooks["start_transient"] = start

    def ends(self, machine: Machine, *, failed: bool = False) -> None:
        """The machine powers off: nspawn unregisters it and its unit ends."""
        unit = machine.unit
        if self.core.registry.get(machine.name) is machine:
            self.core.registrar.unregister(machine)
        if failed:
            self.systemd.emit(unit, ActiveState="failed", SubState="failed", Result="exit-code")
        else:
            self.systemd.emit(unit, ActiveState="inactive", SubState="dead", Result="success")
        self.systemd.remove(unit)


@asynccontextmanager
async def world(sandbox: Sandbox, version: int = 257) -> AsyncIterator[World]:
    made = World(sandbox, version)
    made.core.announce([])
    try:
        yield made
    finally:
        await made.core.close()


async def turns(count: int = 10) -> None:
    """Let everything run that can run without an event from outside."""
    for _ in range(count):
        await asyncio.sleep(0)
