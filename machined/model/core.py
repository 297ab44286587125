# SPDX-License-Identifier: LGPL-2.1-or-later
"""The model put together: one object that the wires are tables over, fed with PID 1's events."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from itertools import chain, repeat
from pathlib import Path
from typing import Any, Final

from machined.linux.worker import Workers
from machined.model import adoption, leftovers
from machined.model.belongings import Belonging, Belongings
from machined.model.cloning import Cloning
from machined.model.collector import Collector
from machined.model.creation import Creation
from machined.model.devices import Devices
from machined.model.errors import ServiceManagerError
from machined.model.filetransfer import FileTransfer
from machined.model.guests import Guests
from machined.model.idmaps import IdMaps, Kind
from machined.model.image_cache import ImageCache
from machined.model.image_ops import ImageOps
from machined.model.jobs import Jobs
from machined.model.lending import Lending
from machined.model.lifecycle import Lifecycle
from machined.model.machine import Machine
from machined.model.names import is_machine_name
from machined.model.network.manager import Networks
from machined.model.placed import Placed
from machined.model.pool import Pool
from machined.model.poolservice import PoolService
from machined.model.ports import GuestConnector, ServiceManager, Unit
from machined.model.privateusers import Range
from machined.model.readiness import Readiness
from machined.model.registrar import Registrar
from machined.model.registry import Registry
from machined.model.roots import Roots
from machined.model.setproperty import SetProperty
from machined.model.state import States, machine_of_unit, unit_of_machine
from machined.model.statefile import DIRECTORY, StateDirectory
from machined.model.sweeping import Sweeping
from machined.model.users import Users

log = logging.getLogger(__name__)


# So many short operations on files of each kind, reading and changing, at a time; more wait.
SHORT_WORKERS: Final = 8
# So many removals of what machines wrote that leave nothing behind at a time: each may take minutes.
REMOVERS: Final = 4
# Attempts at an answer of PID 1 that no event overtakes.
LOOKS: Final = 5
# Units asked for at the same time, with up to six questions each: dbus-daemon allows 128 pending replies.
LOOKS_AT_ONCE: Final = 12
# Seconds between questions about a unit that is about to start again, or to a PID 1 that does not answer.
ASK_AGAIN: Final = (0.1, 0.2, 0.5, 1.0, 2.0, 4.0)


class Core:
    """Everything about the machines of this host. Parts are public: wires use them directly."""

    def __init__(
        self,
        systemd: ServiceManager,
        connector: GuestConnector,
        *,
        cleanup: str,
        poolctl: str = "poolctl",
        state_directory: Path = DIRECTORY,
    ) -> None:
        self.systemd = systemd
        self.connector = connector
        self.registry = Registry()
        self.images = ImageCache(version=systemd.version)
        self.placed = Placed(self.images, systemd.version)
        self.long_workers = Workers()
        # What only reads, which anybody may ask for: whoever changes something does not stand in that queue.
        self.read_workers = Workers(SHORT_WORKERS, wait=True)
        self.change_workers = Workers(SHORT_WORKERS, wait=True)
        self.removers = Workers(REMOVERS, wait=True)
        self.image_ops = ImageOps(self.images, self.long_workers, self.change_workers, systemd.version)
        self.records = StateDirectory(state_directory, systemd.version)
        self.registrar = Registrar(self.registry, systemd, self.records)
        self.collector = Collector(self.registry, self.registrar, systemd)
        self.states = States(self.registry)
        self.jobs = Jobs()
        self.pool_file = PoolService(
            self.registry, self.jobs, systemd, self.change_workers, lambda: str(self.image_ops.pool), poolctl
        )
        self.cloning = Cloning(self.images, self.image_ops)
        self.creation = Creation(
            self.images, self.image_ops, self.jobs, systemd, self.long_workers, self.change_workers
        )
        self.sweeping = Sweeping(self.change_workers)
        self.image_ops.make_room = self.pool_file.make_room
        self.pool = Pool(self.images, self.image_ops, self.change_workers, self.pool_file, self.sweeping)
        self.idmaps = IdMaps(self.registry)
        self.roots = Roots(
            self.change_workers,
            self.removers,
            Users(self._ranges, lambda name: self.images.find(name) is not None),
        )
        self.networks = Networks(systemd)
        self.devices = Devices()
        self.lending = Lending()
        self.belongings = Belongings(
            self.images, systemd.version, cleanup, self.roots, self.networks, self.devices, self.lending
        )
        self.registrar.on_registered = self.belongings.attach
        self.lifecycle = Lifecycle(
            self.registry, self.images, self.placed, self.states, self.jobs, systemd, self.registrar,
            self.belongings, self.release,
        )  # fmt: skip
        self.lending.on_returned = self.states.refresh
        self.set_property = SetProperty(
            self.registry,
            self.states,
            self.jobs,
            systemd,
            self.lifecycle.image_to_start,
            self.devices.allowed,
        )
        self.guests = Guests(self.registry)
        self.files = FileTransfer(self.registry, self.guests, systemd.version)
        self.readiness = Readiness(self.registry, self.states, self.look, connector)
        # Events of each unit, to tell an answer of PID 1 that they have overtaken.
        self._events: Counter[str] = Counter()
        self._looks: set[asyncio.Task[None]] = set()
        # Units that are being looked at, and those of them that PID 1 forgot meanwhile.
        self._looking: Counter[str] = Counter()
        self._forgotten: set[str] = set()
        self._turn = asyncio.Semaphore(LOOKS_AT_ONCE)
        self.registry.on_removed.append(self._machine_removed)

    @property
    def version(self) -> int:
        """The host's systemd version, which decides what the contract looks like."""
        return self.systemd.version

    @property
    def version_text(self) -> str:
        """The host's systemd version in full, say "257.13-1~deb13u1"."""
        return self.systemd.version_text

    async def load(self) -> list[Machine]:
        """Take over what runs: records of any machined, and units of ours. Announce with `announce`."""
        self.records.sweep()
        adoption.add_host(self.registry, _machine_id())
        for machine in adoption.adopt(self.registry, self.records):
            if await self.collector.is_over(machine):
                log.info("Machine '%s' ended while nobody watched", machine.name)
                self.registrar.finalize(machine)
                self._clean_after(machine.unit)
            elif machine.scope_job and not await self._job_exists(machine.scope_job):
                machine.scope_job = ""
        try:
            for unit in await self.systemd.units(["machine-*.service"]):
                self.states.unit_changed(unit)
        except ServiceManagerError as error:
            log.warning("PID 1 does not list the units of machines, ignoring: %s", error)
        else:
            self.belongings.adopt(self.registry, self._unit_is_up)
        return [machine for machine in self.registry if not machine.is_host()]

    def _unit_is_up(self, name: str) -> bool:
        unit = self.states.tracked(unit_of_machine(name))
        return unit is not None and unit.is_up

    def _ranges(self) -> Iterator[tuple[str, Range]]:
        """The users that machines have, by the kernel."""
        for machine, first, count in self.idmaps.ranges(Kind.USER):
            yield machine.name, Range(first, count)

    async def _job_exists(self, job: str) -> bool:
        try:
            return await self.systemd.job_exists(job)
        except ServiceManagerError:
            return True

    def announce(self, machines: list[Machine]) -> None:
        """Tell everybody of the machines that load() found, and begin to take out those that end."""
        for machine in machines:
            self.registrar.start(machine)
        self.collector.release()

    # -- events of PID 1 -----------------------------------------------------------------------------------

    def job_removed(self, job: str, unit: str, result: str) -> None:
        self.registrar.job_removed(job, unit)
        self.collector.enqueue_unit(unit)

    def unit_changed(self, name: str, changed: dict[str, Any], apply: Any) -> None:
        if not self.states.wants(name):
            return
        self._events[name] += 1
        unit = apply(self.states.tracked(name) or Unit(name), changed)
        self._unit_is(unit)

    def _unit_is(self, unit: Unit) -> None:
        was_up = (before := self.states.tracked(unit.name)) is not None and before.is_up
        self.states.unit_changed(unit)
        if not unit.is_up:
            self._events.pop(unit.name, None)
            if was_up:
                self._clean_after(unit.name)
            self.collector.enqueue_unit(unit.name)

    def _machine_removed(self, machine: Machine) -> None:
        unit = self.states.tracked(machine.unit)
        if unit is None or not unit.is_up:
            self._clean_after(machine.unit)

    def unit_removed(self, name: str) -> None:
        """PID 1 forgot a unit, as it does with every unit at a reload: a hint to look, no more.

        To look at a unit that is not there makes PID 1 load and forget it again: what is known to be down is
        left alone.
        """
        unit = self.states.tracked(name)
        if unit is not None and unit.is_up:
            # A look that is under way may have its answer already, and this is newer.
            self._events[name] += 1
            self.look_at(name)
        elif unit is None and self._looking[name]:
            # The first look at it may have its answer already, and say that it is up.
            self._forgotten.add(name)

    def look_at(self, unit: str) -> None:
        """Ask PID 1 for a unit soon."""
        self._spawn(self.look(unit))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._looks.add(task)
        task.add_done_callback(self._looks.discard)

    async def look(self, name: str) -> None:
        """Take over how a unit is now, unless an event says something newer meanwhile."""
        async with self._turn:
            await self._look(name)

    async def _look(self, name: str) -> None:
        self._looking[name] += 1
        try:
            for _ in range(LOOKS):
                events = self._events[name]
                self._forgotten.discard(name)
                unit = await self.systemd.unit(name)
                if self._events[name] == events and not (unit.is_up and name in self._forgotten):
                    self._unit_is(unit)
                    return
        except ServiceManagerError as error:
            log.debug("PID 1 does not tell of unit '%s', ignoring: %s", name, error)
        finally:
            self._looking[name] -= 1
            if not self._looking[name]:
                del self._looking[name]
                self._forgotten.discard(name)

    def _clean_after(self, unit: str) -> None:
        """Take away what a killed nspawn left; the unit does it as well, where it can (257's cannot)."""
        name = machine_of_unit(unit) or _of_template(unit)
        if name is None or not is_machine_name(name) or self.registry.get(name) is not None:
            return
        try:
            leftovers.remove(name, self.images.find(name))
        except OSError as error:
            log.warning("Cannot clean up after machine '%s', ignoring: %s", name, error)
        self.release(name)

    def release(self, name: str) -> None:
        """Take back what a machine had of us, as soon as PID 1 says that nothing of it runs."""
        for one in self.belongings.of(name):
            self._spawn(self._release(name, one))

    async def _release(self, name: str, one: Belonging) -> None:
        if await self._is_over(name, one.concerns):
            await one.take()
            self.states.refresh(name)

    async def _is_over(self, machine: str, concerns: Callable[[], bool]) -> bool:
        """Whether a machine is over, waiting for PID 1 to say so; False when that is not ours any more."""
        name = unit_of_machine(machine)
        pauses = chain(ASK_AGAIN, repeat(ASK_AGAIN[-1]))
        while concerns():
            try:
                if (await self.systemd.unit(name)).is_up:
                    return False  # its end will be an event of its own
                waits = await self.systemd.has_job(name) or self.states.record(machine).starting
                if not waits:
                    break
            except ServiceManagerError as error:
                log.debug("PID 1 does not tell whether machine '%s' is over: %s", machine, error)
            await asyncio.sleep(next(pauses))
        return concerns()

    def reloaded(self) -> None:
        """PID 1 has read its units again, or has executed itself anew: events may have been lost."""
        self.collector.enqueue_all()
        for unit in self.states.tracked_units():
            self.look_at(unit)

    async def close(self) -> None:
        """Let go of everything in order; what runs goes on."""
        await self.long_workers.close()
        await self.read_workers.close()
        await self.change_workers.close()
        await self.removers.close()
        await self.jobs.close()
        await self.lifecycle.close()
        await self.pool_file.close()
        for task in self._looks:
            task.cancel()
        await asyncio.gather(*self._looks, return_exceptions=True)
        await self.belongings.close()
        await self.readiness.close()
        await self.collector.close()
        await self.files.operations.close()
        await self.guests.close()
        await self.registrar.close()
        self.images.close()


def _machine_id() -> bytes:
    try:
        return bytes.fromhex(Path("/etc/machine-id").read_text(encoding="ascii").strip())
    except (OSError, ValueError):
        return b""


def _of_template(unit: str) -> str | None:
    """The machine of an instance of the stock template."""
    if unit.startswith("systemd-nspawn@") and unit.endswith(".service"):
        return unit.removeprefix("systemd-nspawn@").removesuffix(".service")
    return None
