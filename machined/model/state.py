# SPDX-License-Identifier: LGPL-2.1-or-later
"""The state of each machine, registered or not, and who wants to hear when it changes.

A state is computed from what is known (the registration, the unit, the job under way, the guest's own word,
how the last run ended) and never set: a lost event can delay it, not falsify it for good.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from machined.linux import process
from machined.model.machine import Machine, MachineClass
from machined.model.ports import Unit
from machined.model.registry import Registry

PREFIX: Final = "machine-"
SUFFIX: Final = ".service"

# What systemd-nspawn says of itself as soon as the guest's manager has said READY=1 and its status.
GUEST_READY: Final = "Container running: Ready."


class State(StrEnum):
    STARTING = "starting"
    RUNNING = "running"
    DEGRADED = "degraded"
    STOPPING = "stopping"
    FAILED = "failed"
    STOPPED = "stopped"

    def is_up(self) -> bool:
        return self in {State.RUNNING, State.DEGRADED}

    def is_down(self) -> bool:
        return self in {State.STOPPED, State.FAILED}


def unit_of_machine(name: str) -> str:
    """The transient unit that we start a machine as (a machine name needs no escaping in a unit name)."""
    return f"{PREFIX}{name}{SUFFIX}"


def machine_of_unit(unit: str) -> str | None:
    """The reverse of unit_of_machine."""
    if unit.startswith(PREFIX) and unit.endswith(SUFFIX):
        return unit[len(PREFIX) : -len(SUFFIX)]
    return None


@dataclass(slots=True)
class Record:
    """What is remembered of a machine between events."""

    state: State = State.STOPPED
    unit: str = ""  # of the last registration
    since: int = 0  # µs realtime of the last change
    result: str = ""  # of the last run of our unit
    guest: State | None = None  # the guest's own word: RUNNING or DEGRADED, None before it spoke
    starting: bool = False  # PID 1 is asked to start our unit and has not ended that job
    stopping: bool = False  # a stop of ours is under way


Changed = Callable[[str, State, State], None]


class States:
    """Computes and remembers states. `changed` listeners get (name, new, old)."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._records: dict[str, Record] = {}
        self._units: dict[str, Unit] = {}
        # Names by the unit in their records.
        self._of_unit: dict[str, set[str]] = {}
        self._waiters: dict[str, set[asyncio.Future[None]]] = {}
        self.changed: list[Changed] = []
        registry.on_new.append(self._registered)
        registry.on_removed.append(lambda machine: self.refresh(machine.name))

    # -- reading -------------------------------------------------------------------------------------------

    def get(self, name: str) -> State:
        return self._compute(name, self._records.get(name) or Record())

    def record(self, name: str) -> Record:
        """What is remembered of a machine; a fresh record for one never heard of."""
        return self._records.get(name) or Record()

    def known(self) -> list[str]:
        """Names that are in a state worth showing without a registration or an image."""
        return [n for n, r in self._records.items() if r.state is not State.STOPPED]

    def unit(self, name: str) -> Unit | None:
        """The unit last seen for a machine: that of its registration, the one before, or ours."""
        machine = self._registry.get(name)
        if machine is not None:
            return self._units.get(machine.unit)
        return self._units.get(self.record(name).unit) or self._units.get(unit_of_machine(name))

    async def wait_change(self, name: str) -> None:
        """Return at the next event about a machine (spurious ones happen: look again, and wait again)."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiters = self._waiters.setdefault(name, set())
        waiters.add(future)
        try:
            await future
        finally:
            waiters.discard(future)
            if not waiters:
                self._waiters.pop(name, None)

    async def wait_until(self, name: str, condition: Callable[[], bool]) -> None:
        """Return as soon as `condition` holds; it is looked at again at each event about the machine."""
        while not condition():
            await self.wait_change(name)

    # -- being told ----------------------------------------------------------------------------------------

    def unit_changed(self, unit: Unit) -> None:
        """PID 1 says how a unit is now."""
        if unit.is_up or self._registry.by_unit(unit.name):
            self._units[unit.name] = unit
        else:
            self._units.pop(unit.name, None)
        name = machine_of_unit(unit.name)
        if name is not None:
            self._note_result(name, unit)
        for affected in self._affected(unit.name, name):
            self.refresh(affected)

    def tracked(self, unit: str) -> Unit | None:
        return self._units.get(unit)

    def tracked_units(self) -> list[str]:
        return list(self._units)

    def wants(self, unit: str) -> bool:
        """Whether changes of this unit matter here."""
        return unit in self._units or machine_of_unit(unit) is not None or bool(self._registry.by_unit(unit))

    def guest_says(self, machine: Machine, state: State) -> None:
        """The guest's manager says that it is up."""
        if self._registry.get(machine.name) is machine:
            self._ensure(machine.name).guest = state
            self.refresh(machine.name)

    def start_under_way(self, name: str, yes: bool) -> None:
        self._ensure(name).starting = yes
        self.refresh(name)

    def stop_under_way(self, name: str, yes: bool) -> None:
        self._ensure(name).stopping = yes
        self.refresh(name)

    def run_failed(self, name: str, result: str) -> None:
        """A start that came to nothing, where no unit tells of it."""
        self._ensure(name).result = result
        self.refresh(name)

    def refresh(self, name: str) -> None:
        """Compute a state again and tell if it has changed."""
        record = self._ensure(name)
        old, new = record.state, self._compute(name, record)
        if new is not old:
            record.state = new
            record.since = process.now_usec()[0]
            for listener in self.changed:
                listener(name, new, old)
        for future in list(self._waiters.get(name, ())):
            if not future.done():
                future.set_result(None)
        if record.state is State.STOPPED and not (record.result or record.stopping or record.starting):
            self._records.pop(name, None)
            self._set_unit(name, record, "")

    # -- inside --------------------------------------------------------------------------------------------

    def _registered(self, machine: Machine) -> None:
        record = self._ensure(machine.name)
        self._set_unit(machine.name, record, machine.unit)
        record.guest = None
        record.result = ""
        self.refresh(machine.name)

    def _ensure(self, name: str) -> Record:
        return self._records.setdefault(name, Record())

    def _set_unit(self, name: str, record: Record, unit: str) -> None:
        names = self._of_unit.get(record.unit)
        if names is not None:
            names.discard(name)
            if not names:
                del self._of_unit[record.unit]
        record.unit = unit
        if unit:
            self._of_unit.setdefault(unit, set()).add(name)

    def _affected(self, unit: str, name: str | None) -> set[str]:
        affected = {machine.name for machine in self._registry.by_unit(unit)}
        affected |= self._of_unit.get(unit, set())
        if name is not None:
            affected.add(name)
        return affected

    def _note_result(self, name: str, unit: Unit) -> None:
        if unit.active == "failed":
            self._ensure(name).result = unit.result or "failed"
        elif unit.is_up:
            self._ensure(name).result = ""

    def _compute(self, name: str, record: Record) -> State:
        machine = self._registry.get(name)
        if machine is not None and machine.cls is MachineClass.HOST:
            return State.RUNNING
        unit = self.unit(name)
        active = unit.active if unit is not None else "inactive"
        if machine is None:
            if active == "activating":
                return State.STARTING
            if active in {"active", "deactivating", "reloading"}:
                # Unregistered already (or not yet): between nspawn's last word and its end.
                return State.STOPPING if active == "deactivating" or record.guest else State.STARTING
            if record.starting:
                return State.STARTING
            return State.FAILED if record.result else State.STOPPED
        if machine.stopping or record.stopping or active == "deactivating":
            return State.STOPPING
        if machine.scope_job or active == "activating":
            return State.STARTING
        if machine.cls is MachineClass.VM:
            return State.RUNNING
        return record.guest or State.STARTING
