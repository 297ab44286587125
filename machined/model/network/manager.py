# SPDX-License-Identifier: LGPL-2.1-or-later
"""The managed network: what machines get of it when they start, and give back when they are over.

Machines without it never come here, and nothing is imported, asked or started for them.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final, TypeVar

from machined.linux.locks import FileLock
from machined.model.errors import MachineError, Problem, ServiceManagerError
from machined.model.finishing import to_the_end
from machined.model.images import Image
from machined.model.machine import Machine
from machined.model.network import configuration, dnsmasq, draft, guest, host, store
from machined.model.network.addresses import Plan
from machined.model.network.guest import Prepared
from machined.model.network.ports import Port, check_free
from machined.model.network.services import NETWORKD, Services
from machined.model.network.store import Record
from machined.model.ports import ServiceManager
from machined.model.settings import managed
from machined.model.settings.merge import Effective
from machined.model.state import unit_of_machine

log = logging.getLogger(__name__)

_T = TypeVar("_T")

MAX_PORTS: Final = 1024


class Networks:
    """Gives and takes. One change at a time."""

    def __init__(self, systemd: ServiceManager) -> None:
        self._services = Services(systemd)
        self._records: dict[str, Record] = {}
        # Which run of a machine has them: one that is over takes nothing from the next one.
        self._runs: dict[str, int] = {}
        self._count = 0
        self._turn = asyncio.Lock()
        self._lock: FileLock | None = None
        self._adopting: asyncio.Task[None] | None = None
        self.advice: list[str] = []
        """What stands in the way of the network, and what to do."""

    def holds(self, name: str) -> bool:
        """Whether a machine has something of the network."""
        return name in self._records

    def run(self, name: str) -> int:
        """Which run of a machine has it; 0 when none has."""
        return self._runs.get(name, 0) if name in self._records else 0

    # -- a start --------------------------------------------------------------------------------------------

    async def check(self, name: str, settings: Effective) -> None:
        """Whether a machine could have what it wishes for; nothing is changed. Raises MachineError."""
        if managed.is_managed(settings):
            await self._services.choose_server()
            await self._draft(name, settings)

    async def _draft(self, name: str, settings: Effective) -> draft.Draft:
        others = [record for record in self._records.values() if record.machine != name]
        return await _in_thread(
            f"The network of machine '{name}'", lambda: draft.make(name, settings, others)
        )

    async def prepare(self, name: str, image: Image, settings: Effective) -> Prepared:
        """Have everything ready for a machine that is about to be started. Raises MachineError."""
        if not managed.is_managed(settings):
            return Prepared(settings)
        async with self._turn:
            server = await self._services.choose_server()
            made = await self._draft(name, settings)
            record = made.record
            try:
                await self._hold()
                await _in_thread("The managed network", lambda: guest.write(made, server))
                self._begin(record)
                await self._apply(made.plan)
            except BaseException:
                await self._release(name)
                raise
        return guest.prepared(name, image, settings, made)

    async def plan(self, name: str, image: Image, settings: Effective) -> Prepared:
        """What prepare() would make of the settings now. Raises MachineError."""
        if not managed.is_managed(settings):
            return Prepared(settings)
        return guest.prepared(name, image, settings, await self._draft(name, settings))

    def _begin(self, record: Record) -> None:
        self._count += 1
        self._records[record.machine], self._runs[record.machine] = record, self._count

    async def _hold(self) -> None:
        if self._lock is None:
            self._lock = await _in_thread("The managed network", host.hold)

    async def _apply(self, plan: Plan, records: list[Record] | None = None) -> None:
        """Make rules, tables and services as the records want them, all or these. Raises MachineError."""
        records = self.all() if records is None else records
        said = configuration.load()
        server = host.server()
        names = dnsmasq.program() is not None

        def work() -> list[str]:
            advice = host.apply(plan, records, open_firewall=said.firewall)
            if server == NETWORKD:
                host.write_networkd(plan, records, names=names)
            return advice

        advice = await _in_thread("The managed network", work)
        for text in advice:
            if text not in self.advice:
                log.warning("%s", text)
        self.advice = advice
        try:
            await self._services.serve(plan, server)
            await self._services.proxy(records)
        except ServiceManagerError as error:
            raise MachineError(
                Problem.FAILED, f"PID 1 does not serve the managed network: {error}"
            ) from error

    # -- a machine that registers ---------------------------------------------------------------------------

    async def attach(self, machine: Machine) -> None:
        """Set up the links of a machine before its init runs: it need not ask for its addresses."""
        record = self._records.get(machine.name)
        if record is None or machine.unit != unit_of_machine(machine.name) or machine.leader is None:
            return
        try:
            namespace = os.open(f"/proc/{machine.leader_pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            try:
                if machine.leader.alive():
                    await asyncio.to_thread(host.set_up_links, record, namespace)
            finally:
                os.close(namespace)
        except OSError as error:
            log.warning("Machine '%s' has to ask for its addresses itself: %s", machine.name, error)

    # -- an end ---------------------------------------------------------------------------------------------

    async def release(self, name: str, run: int = 0) -> None:
        """Take back what a machine had that is over, of this run if that is not 0. Never raises."""
        if not self.holds(name):
            return
        async with self._turn:
            if self.holds(name) and run in {0, self.run(name)}:
                await self._release(name)

    async def _release(self, name: str) -> None:
        # At the end: until then the machine counts as not quite over.
        record = self._records.get(name)
        try:
            await self._take_back(name)
        finally:
            if self._records.get(name) is record:
                self._records.pop(name, None)
                self._runs.pop(name, None)

    async def _take_back(self, name: str) -> None:
        rest = [self._records[other] for other in sorted(self._records) if other != name]
        try:
            await asyncio.to_thread(store.forget, name)
            plan = host.plan_in_force()
            if rest and plan is not None:
                await self._apply(plan, rest)
            elif not rest:
                await self._end()
        except (MachineError, OSError) as error:
            log.warning("Cannot take back the network of machine '%s', ignoring: %s", name, error)

    async def _end(self) -> None:
        await self._services.end()
        await asyncio.to_thread(host.tear_down)
        self.advice = []
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    # -- a start of ours ------------------------------------------------------------------------------------

    def adopt(self, is_up: Callable[[str], bool]) -> None:
        """Take over what there is, and take away what is left of machines that ended meanwhile."""
        if store.taken() is None and not store.RUNTIME.exists():
            return
        for record in store.records():
            if is_up(record.machine):
                self._begin(record)
        self._adopting = asyncio.ensure_future(self._adopt())

    async def _adopt(self) -> None:
        async with self._turn:
            try:
                await self._hold()
                for record in store.records():
                    if record.machine not in self._records:
                        store.forget(record.machine)
                plan = host.plan_in_force()
                if not self._records or plan is None:
                    await self._end()
                    return
                await asyncio.to_thread(host.set_up, plan, host.server())
                await self._apply(plan)
            except (MachineError, OSError) as error:
                log.warning("Cannot take over the managed network, ignoring: %s", error)

    async def close(self) -> None:
        """Let go; what is there stays."""
        if self._adopting is not None:
            self._adopting.cancel()
            await asyncio.gather(self._adopting, return_exceptions=True)
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    # -- ports ----------------------------------------------------------------------------------------------

    def record(self, name: str) -> Record:
        """What a machine has. Raises MachineError."""
        if (record := self._records.get(name)) is None:
            raise MachineError(
                Problem.NOT_RUNNING,
                f"Machine '{name}' does not run with a managed network, and those that do have published "
                f"ports ('machinectl set {name} Network=managed', then start it).",
            )
        return record

    def all(self) -> list[Record]:
        return [self._records[name] for name in sorted(self._records)]

    async def publish(self, name: str, text: str) -> Port:
        """Have a port of the host lead to a machine until that is over. Raises MachineError."""
        port = Port.parse(text, live=True)

        async def change(record: Record) -> tuple[Port, ...]:
            if any(replace(there, live=True) == port for there in record.ports):
                return record.ports
            if len(record.ports) >= MAX_PORTS:
                raise MachineError(
                    Problem.LIMITS_EXCEEDED, f"Machine '{name}' has {MAX_PORTS} ports already."
                )
            others = [(other.machine, p) for other in self.all() for p in other.ports]
            await _in_thread("The ports of this host", lambda: check_free(port, others, f"Port {port}"))
            return (*record.ports, port)

        await self._change_ports(name, change)
        return port

    async def unpublish(self, name: str, text: str) -> None:
        """Take a port back, also one of the settings. Raises MachineError."""
        port = Port.parse(text)
        exact = text.count(":") - text.startswith(("tcp:", "udp:")) > 0

        async def change(record: Record) -> tuple[Port, ...]:
            kept = tuple(
                p for p in record.ports if p.place != port.place or (exact and p.machine != port.machine)
            )
            if kept == record.ports:
                there = ", ".join(map(str, record.ports)) or "none"
                raise MachineError(
                    Problem.FILE_NOT_FOUND,
                    f"Machine '{name}' has no published port '{text}'; it has: {there}.",
                )
            return kept

        await self._change_ports(name, change)

    async def _change_ports(
        self, name: str, change: Callable[[Record], Awaitable[tuple[Port, ...]]]
    ) -> None:
        async with self._turn:
            before = self.record(name)
            after = replace(before, ports=await change(before))
            plan = host.plan_in_force()
            if after == before or plan is None:
                return
            try:
                await self._put(after, plan)
            except BaseException:
                await self._put(before, plan)
                raise

    async def _put(self, record: Record, plan: Plan) -> None:
        self._records[record.machine] = record
        await _in_thread("The managed network", lambda: store.write(record))
        await self._apply(plan)


async def _in_thread(what: str, work: Callable[[], _T]) -> _T:
    try:
        return await to_the_end(work)
    except OSError as error:
        raise MachineError(Problem.FAILED, f"{what} cannot be set up: {error.strerror or error}") from error
