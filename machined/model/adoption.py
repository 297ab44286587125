# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a daemon finds when it starts: the records that any machined has left, and the host itself."""

from __future__ import annotations

from pathlib import Path

from machined.linux import cgroup, process
from machined.linux.process import PidRef
from machined.model.machine import Machine, MachineClass
from machined.model.names import HOST
from machined.model.registry import Registry
from machined.model.statefile import StateDirectory


def adopt(registry: Registry, records: StateDirectory) -> list[Machine]:
    """Read the records that any machined left; the machines are in the registry but not announced yet."""
    machines = []
    for machine in records.load():
        if registry.get(machine.name) is None:
            _recognise(machine)
            registry.add(machine)
            machines.append(machine)
    return machines


def _recognise(machine: Machine) -> None:
    """Let go of processes that may be others by now.

    Some records have their numbers alone: a process of another unit is not the one that was meant.
    """
    leader = _surely(machine, machine.leader, machine.leader_id)
    if leader is None:
        # Never again to be taken for whoever has the number now.
        machine.leader, machine.leader_pid, machine.leader_id = None, 0, None
    else:
        machine.set_leader(leader)
    supervisor = _surely(machine, machine.supervisor, machine.supervisor_id)
    if supervisor is None:
        machine.supervisor = None
    else:
        machine.set_supervisor(supervisor)


def _surely(machine: Machine, found: PidRef | None, known_id: int | None) -> PidRef | None:
    """The process of a record if it is that one still; else it is closed."""
    if found is None or known_id is not None:
        return found
    try:
        unit = cgroup.unit_of(found.pid)
    except OSError:
        unit = None
    if unit == machine.unit:
        return found
    found.close()
    return None


def add_host(registry: Registry, machine_id: bytes) -> None:
    """The host itself is in the table as `.host`; it has no record and is never announced."""
    host = Machine(name=HOST, cls=MachineClass.HOST, id=machine_id, unit="-.slice", root_directory="/")
    host.leader_pid = 1
    with PidRef.open(1) as init:
        host.leader_id = init.id
    host.realtime = process.boot_time_realtime_usec()
    host.monotonic = 0
    if Path("/dev/vsock").exists():
        host.vsock_cid = 1  # VMADDR_CID_LOCAL, vsock(7)
    host.started = True
    registry.add(host)
