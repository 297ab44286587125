# SPDX-License-Identifier: LGPL-2.1-or-later
"""The model put together: one object that the wires are tables over, fed with PID 1's events."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from machined.model import leftovers
from machined.model.collector import Collector
from machined.model.errors import ServiceManagerError
from machined.model.guests import Guests
from machined.model.images import Images
from machined.model.jobs import Jobs
from machined.model.lifecycle import Lifecycle
from machined.model.machine import Machine
from machined.model.ports import GuestConnector, ServiceManager, Unit
from machined.model.readiness import Readiness
from machined.model.registrar import Registrar
from machined.model.registry import Registry
from machined.model.state import States, machine_of_unit
from machined.model.statefile import DIRECTORY, StateDirectory

log = logging.getLogger(__name__)


class Core:
    """Everything about the machines of this host. Parts are public: wires use them directly."""

    def __init__(
        self,
        systemd: ServiceManager,
        connector: GuestConnector,
        *,
        cleanup: str,
        state_directory: Path = DIRECTORY,
    ) -> None:
        self.systemd = systemd
        self.connector = connector
        self.registry = Registry()
        self.images = Images()
        self.records = StateDirectory(state_directory, systemd.version)
        self.registrar = Registrar(self.registry, systemd, self.records)
        self.collector = Collector(self.registry, self.registrar, systemd)
        self.states = States(self.registry)
        self.jobs = Jobs()
        self.lifecycle = Lifecycle(self.registry, self.images, self.states, self.jobs, systemd, cleanup)
        self.guests = Guests(self.registry)
        self.readiness = Readiness(self.registry, self.states, systemd, connector)

    @property
    def version(self) -> int:
        """The host's systemd version, which decides what the contract looks like."""
        return self.systemd.version

    async def load(self) -> list[Machine]:
        """Take over what runs: records of any machined, and units of ours. Announce with `announce`."""
        self.records.sweep()
        self.registrar.add_host(_machine_id())
        adopted = self.registrar.adopt()
        kept = []
        for machine in adopted:
            if await self.collector.is_over(machine, adopting=True):
                log.info("Machine '%s' ended while nobody watched", machine.name)
                self.registrar.finalize(machine)
            else:
                kept.append(machine)
        try:
            for unit in await self.systemd.units(["machine-*.service"]):
                self.states.unit_changed(unit)
        except ServiceManagerError as error:
            log.warning("PID 1 does not list the units of machines, ignoring: %s", error)
        return kept

    def announce(self, machines: list[Machine]) -> None:
        for machine in machines:
            self.registrar.start(machine)

    # -- events of PID 1 -----------------------------------------------------------------------------------

    def job_removed(self, job: str, unit: str, result: str) -> None:
        self.registrar.job_removed(job, unit)
        self.collector.enqueue_unit(unit)

    def unit_changed(self, name: str, changed: dict[str, Any], apply: Any) -> None:
        if not self.states.wants(name):
            return
        unit = apply(self.states.tracked(name) or Unit(name), changed)
        self.states.unit_changed(unit)
        if not unit.is_up:
            self.collector.enqueue_unit(name)

    def unit_removed(self, name: str) -> None:
        if self.states.wants(name):
            self._clean_after(name)
            self.states.unit_removed(name)
            self.collector.enqueue_unit(name)

    def _clean_after(self, unit: str) -> None:
        """Take away what a killed nspawn of ours left; the unit does it as well, on hosts where it can."""
        name = machine_of_unit(unit)
        if name is None:
            return
        try:
            leftovers.remove(name, self.images.find(name))
        except OSError as error:
            log.warning("Cannot clean up after machine '%s', ignoring: %s", name, error)

    def reloaded(self) -> None:
        self.collector.enqueue_all()

    async def close(self) -> None:
        """Let go of everything in order; what runs goes on."""
        await self.jobs.close()
        await self.lifecycle.close()
        await self.readiness.close()
        await self.collector.close()
        self.guests.close()
        await self.registrar.close()


def _machine_id() -> bytes:
    try:
        return bytes.fromhex(Path("/etc/machine-id").read_text(encoding="ascii").strip())
    except (OSError, ValueError):
        return b""
