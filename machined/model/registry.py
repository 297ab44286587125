# SPDX-License-Identifier: LGPL-2.1-or-later
"""The table of registered machines, findable by name, unit and leader; and who is told when it changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from machined.linux import cgroup
from machined.linux.process import PidRef
from machined.model.errors import MachineError, Problem, no_such_machine
from machined.model.machine import Machine
from machined.model.names import HOST, is_machine_name

Listener = Callable[[Machine], None]
Key = TypeVar("Key")


class Registry:
    """Machines by name. Listeners run synchronously, in the order they were added."""

    def __init__(self) -> None:
        self._machines: dict[str, Machine] = {}
        self._reserved: set[str] = set()
        # The host is in neither of these.
        self._of_unit: dict[str, dict[str, Machine]] = {}
        self._of_pid: dict[int, dict[str, Machine]] = {}
        self.generation = 0
        """Another number whenever there are other machines."""
        self.on_new: list[Listener] = []
        self.on_removed: list[Listener] = []

    def __iter__(self) -> Iterator[Machine]:
        return iter(list(self._machines.values()))

    def __len__(self) -> int:
        return len(self._machines)

    def get(self, name: str) -> Machine | None:
        return self._machines.get(name)

    def find(self, name: str) -> Machine:
        """Raises MachineError (NO_SUCH_MACHINE)."""
        machine = self._machines.get(name)
        if machine is None:
            raise no_such_machine(name)
        return machine

    def still(self, machine: Machine) -> Machine:
        """The same machine after a wait during which it may have gone.

        Raises MachineError (NO_SUCH_MACHINE).
        """
        if self._machines.get(machine.name) is not machine:
            raise no_such_machine(machine.name)
        return machine

    def by_unit(self, unit: str) -> list[Machine]:
        """The machines of a unit; several may share one."""
        return list(self._of_unit.get(unit, {}).values())

    def by_leader(self, process: PidRef) -> Machine | None:
        for machine in self._of_pid.get(process.pid, {}).values():
            if machine.leader is not None:
                same = machine.leader_id is None or process.id is None or machine.leader_id == process.id
                return machine if same else None
        return None

    def by_late_leader(self, pid: int) -> Machine | None:
        """The machine whose leader had a number that no process has any more."""
        return next(iter(self._of_pid.get(pid, {}).values()), None) if pid > 1 else None

    def of_process(self, process: PidRef) -> Machine | None:
        """The machine that a process leads, or in whose unit it is where that is the machine's alone."""
        machine = self.by_leader(process)
        if machine is not None:
            return machine
        try:
            unit = cgroup.unit_of(process.pid)
        except OSError:
            return None
        return next((m for m in self.by_unit(unit or "") if not m.subgroup or m.owns_unit()), None)

    @contextmanager
    def reserved(self, name: str) -> Iterator[None]:
        """Keep a name for a registration that has to wait on the way.

        Raises MachineError (MACHINE_EXISTS).
        """
        if name in self._machines or name in self._reserved:
            raise MachineError(Problem.MACHINE_EXISTS, f"Machine '{name}' already exists")
        self._reserved.add(name)
        try:
            yield
        finally:
            self._reserved.discard(name)

    def add(self, machine: Machine) -> None:
        """Unit and leader stay what they are from now on."""
        assert is_machine_name(machine.name) or machine.name == HOST
        assert machine.name not in self._machines
        self._machines[machine.name] = machine
        self.generation += 1
        if not machine.is_host():
            if machine.unit:
                self._of_unit.setdefault(machine.unit, {})[machine.name] = machine
            self._of_pid.setdefault(machine.leader_pid, {})[machine.name] = machine

    def remove(self, machine: Machine) -> None:
        assert self._machines.get(machine.name) is machine
        del self._machines[machine.name]
        self.generation += 1
        _take_out(self._of_unit, machine.unit, machine.name)
        _take_out(self._of_pid, machine.leader_pid, machine.name)

    def announce(self, machine: Machine) -> None:
        machine.started = True
        for listener in self.on_new:
            listener(machine)

    def announce_removed(self, machine: Machine) -> None:
        for listener in self.on_removed:
            listener(machine)


def _take_out(index: dict[Key, dict[str, Machine]], key: Key, name: str) -> None:
    found = index.get(key)
    if found is not None:
        found.pop(name, None)
        if not found:
            del index[key]
