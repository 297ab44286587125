# SPDX-License-Identifier: LGPL-2.1-or-later
"""Machines come and go: registration with or without a unit of their own, and unregistration.

The order that clients see: the record is on disk, then MachineNew, then the reply; and on the way out the
record is gone, then MachineRemoved, then the reply.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import signal
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from machined.linux import cgroup, process
from machined.linux.escape import unit_name_escape
from machined.linux.process import PidRef
from machined.model import log as journal
from machined.model.errors import (
    MachineError,
    Problem,
    ServiceManagerError,
    not_supported,
)
from machined.model.machine import Machine, MachineClass
from machined.model.ports import ServiceManager, UnitProperty
from machined.model.registry import Registry
from machined.model.statefile import StateDirectory

log = logging.getLogger(__name__)

TASKS_MAX: Final = 16384
# PATH_MAX bounds what a text can usefully be; a record with more is not read back.
MAX_TEXT: Final = 4096
MAX_INTERFACES: Final = 1024
MAX_PER_USER: Final = 1024
# Seconds that the unit of a new machine may take to come up: PID 1 moves processes, it does not start any.
SCOPE_TIMEOUT: Final = 90.0


@dataclass(frozen=True, slots=True)
class Registration:
    """A checked request. `scope` holds the caller's properties when a scope is to be made, else None."""

    name: str
    cls: MachineClass | None
    leader: PidRef  # owned by the request until the machine takes it over
    id: bytes = b""
    service: str = ""
    root_directory: str = ""
    ifindices: tuple[int, ...] = ()
    supervisor: PidRef | None = None
    uid: int = 0
    vsock_cid: int | None = None
    ssh_address: str = ""
    ssh_private_key_path: str = ""
    control_address: str = ""
    scope: Sequence[UnitProperty] | None = None
    scope_fds: Sequence[int] = ()

    def close(self) -> None:
        self.leader.close()
        if self.supervisor is not None:
            self.supervisor.close()


class Registrar:
    """Adds machines to the registry and takes them out again."""

    def __init__(self, registry: Registry, systemd: ServiceManager, records: StateDirectory) -> None:
        self._registry = registry
        self._systemd = systemd
        self._records = records
        self._unrefs: set[asyncio.Task[None]] = set()
        # Set by the collector: looks at one machine at once and takes it out if it is over.
        self.collect: Callable[[Machine], Awaitable[None]] | None = None
        self.on_leader_exit: Callable[[Machine], None] = lambda _: None
        # What a machine needs before its init runs, which waits for the answer to its registration.
        self.on_registered: Callable[[Machine], Awaitable[None]] | None = None

    # -- coming --------------------------------------------------------------------------------------------

    async def register(self, request: Registration) -> Machine:
        """Register a machine; with `request.scope` also make its scope and wait for that job.

        Takes over the processes of the request, also when it fails. Raises MachineError,
        ServiceManagerError.
        """
        try:
            self._check(request)
            await self.make_room(request.name, request.leader, own_unit=request.scope is not None)
            with self._registry.reserved(request.name):
                if request.cls is None:
                    raise not_supported("Operation not supported")
                if self._registry.by_leader(request.leader) is not None:
                    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
                machine = await self._new_machine(request, request.cls)
        except BaseException:
            request.close()
            raise
        if machine.scope_job:
            await self._wait_for_scope(machine)
        if self.on_registered is not None:
            await self.on_registered(machine)
        return machine

    def _check(self, request: Registration) -> None:
        """Bounds on what a caller may leave with us."""
        texts = (request.service, request.root_directory, request.ssh_address, request.ssh_private_key_path)
        if any(len(text) > MAX_TEXT for text in (*texts, request.control_address)):
            raise MachineError(Problem.LIMITS_EXCEEDED, "An argument is too long")
        if len(request.ifindices) > MAX_INTERFACES:
            raise MachineError(Problem.LIMITS_EXCEEDED, "Too many network interfaces")
        if request.uid and self._count(request.uid) >= MAX_PER_USER:
            raise MachineError(Problem.LIMITS_EXCEEDED, "Too many machines of this user are registered")

    def _count(self, uid: int) -> int:
        return sum(1 for machine in self._registry if machine.uid == uid)

    async def check_free(self, name: str, leader: PidRef | None, *, own_unit: bool) -> None:
        """Whether a machine of this name could be registered now. Raises MachineError (MACHINE_EXISTS).

        Changes nothing but what is due anyway: who asks may not be allowed to register it.
        """
        old = self._registry.get(name)
        if old is not None and leader is not None and _is_restart(old, leader, own_unit=own_unit):
            return
        if old is not None and self.collect is not None:
            await self.collect(old)
        with self._registry.reserved(name):
            pass

    async def make_room(self, name: str, leader: PidRef, *, own_unit: bool) -> None:
        """A restarted unit registers again before anybody saw that the machine before it is over."""
        old = self._registry.get(name)
        if old is None or old.is_host():
            return
        if _is_restart(old, leader, own_unit=own_unit):
            self.finalize(old)
        elif self.collect is not None:
            await self.collect(old)

    async def _new_machine(self, request: Registration, cls: MachineClass) -> Machine:
        machine = Machine(
            name=request.name,
            cls=cls,
            id=request.id if any(request.id) else b"",
            service=request.service,
            root_directory=request.root_directory,
            ifindices=request.ifindices,
            uid=request.uid,
            ssh_address=request.ssh_address,
            ssh_private_key_path=request.ssh_private_key_path,
            control_address=request.control_address,
        )
        if request.vsock_cid is not None:
            machine.vsock_cid = request.vsock_cid
        if request.scope is None:
            unit = cgroup.unit_of(request.leader.pid)
            if unit is None:
                raise OSError(
                    errno.ENXIO,
                    f"Failed to determine unit of process {request.leader.pid} : No such device or address",
                )
            machine.unit = unit
            if self._systemd.version >= 258:
                # As it is now: nspawn moves its payload down only after the registration.
                machine.subgroup = cgroup.subgroup_from_path(cgroup.path_of(request.leader.pid), unit)
        else:
            machine.unit = f"machine-{unit_name_escape(request.name)}.scope"
            machine.scope_job = await self._start_scope(request, machine.unit, cls)
            machine.referenced = True
        machine.set_leader(request.leader)
        if request.supervisor is not None:
            machine.set_supervisor(request.supervisor)
        self._registry.add(machine)
        try:
            self.start(machine)
        except BaseException:
            self._registry.remove(machine)
            raise
        return machine

    async def _start_scope(self, request: Registration, unit: str, cls: MachineClass) -> str:
        assert request.scope is not None
        kind = "Virtual Machine" if cls is MachineClass.VM else "Container"
        own = [
            UnitProperty("Slice", "s", "machine.slice"),
            UnitProperty("Description", "s", f"{kind} {request.name}"),
            UnitProperty("PIDFDs", "ah", [len(request.scope_fds)]),
            UnitProperty("Delegate", "b", True),
            UnitProperty("CollectMode", "s", "inactive-or-failed"),
            UnitProperty("AddRef", "b", True),
            UnitProperty("TasksMax", "t", TASKS_MAX),
        ]
        if request.uid and self._systemd.version >= 258:
            own.append(UnitProperty("User", "s", str(request.uid)))
        fds = [*request.scope_fds, request.leader.fileno()]
        return await self._systemd.start_transient(unit, [*own, *request.scope], fds)

    async def _wait_for_scope(self, machine: Machine) -> None:
        job = machine.scope_job
        async with asyncio.timeout(SCOPE_TIMEOUT):
            result = await self._systemd.job_result(job)
        self._job_over(machine, job)
        if result != "done":
            # The word of it may have come before the machine was in the table: nobody else looks.
            self.on_leader_exit(machine)
            raise MachineError(
                Problem.JOB_FAILED, f"Start job for unit {machine.unit} failed with '{result}'"
            )

    def job_removed(self, job: str, unit: str) -> None:
        """PID 1 says that a job is over; call it before the collector hears of it."""
        for machine in self._registry.by_unit(unit):
            self._job_over(machine, job)

    def _job_over(self, machine: Machine, job: str) -> None:
        if machine.scope_job == job:
            machine.scope_job = ""
            if self._registry.get(machine.name) is machine:
                self.save(machine)

    def start(self, machine: Machine) -> None:
        """Announce a machine that is in the registry: watch its leader, write its record, tell everybody."""
        if not machine.realtime:
            machine.realtime, machine.monotonic = process.now_usec()
        if machine.leader is not None:
            machine.leader.watch(asyncio.get_running_loop(), lambda: self.on_leader_exit(machine))
        journal.machine_started(machine.name, machine.leader_pid)
        machine.started = True
        self.save(machine)
        self._registry.announce(machine)

    def save(self, machine: Machine) -> None:
        """Write the record; a full or read-only /run must not take the machine down."""
        if machine.is_host():
            return
        try:
            self._records.save(machine)
        except (OSError, ValueError) as error:
            log.warning("Cannot save the record of machine '%s', ignoring: %s", machine.name, error)

    # -- going ---------------------------------------------------------------------------------------------

    def finalize(self, machine: Machine) -> None:
        """Take a machine out: the record first, then the word of it. The processes stay as they are."""
        self._registry.remove(machine)
        if machine.leader is not None:
            machine.leader.unwatch(asyncio.get_running_loop())
        try:
            self._records.remove(machine)
        except OSError as error:
            log.warning("Cannot remove the record of machine '%s', ignoring: %s", machine.name, error)
        if machine.started:
            journal.machine_stopped(machine.name, machine.leader_pid)
            self._registry.announce_removed(machine)
        if machine.referenced:
            task = asyncio.ensure_future(self._unref(machine.unit))
            self._unrefs.add(task)
            task.add_done_callback(self._unrefs.discard)
        machine.close()

    async def _unref(self, unit: str) -> None:
        try:
            await self._systemd.unref_unit(unit)
        except ServiceManagerError as error:
            if not error.is_missing_unit():
                log.debug("Cannot give back unit '%s', ignoring: %s", unit, error)

    def unregister(self, machine: Machine) -> None:
        """Forget a machine whatever its state; `.host` stays where it is."""
        if not machine.is_host():
            self.finalize(machine)

    async def terminate(self, machine: Machine) -> None:
        """Stop the machine and say at once that it is closing. Raises MachineError, ServiceManagerError.

        That is to stop its unit; where a user's machine shares its unit, its supervisor is asked.
        """
        if machine.is_host():
            raise not_supported("Operation not supported")
        job = ""
        if (machine.subgroup or machine.uid) and not machine.owns_unit():
            _signal(machine.supervisor or machine.leader, signal.SIGTERM)
        else:
            try:
                job = await self._systemd.stop_unit(machine.unit, "fail")
            except ServiceManagerError as error:
                if not error.is_missing_unit():
                    raise
        machine.scope_job = job
        machine.stopping = True
        if self._registry.get(machine.name) is machine:
            self.save(machine)

    async def kill(self, machine: Machine, whom: str, signo: int) -> None:
        """Send a signal to the leader, the supervisor or everything. Raises MachineError, OSError."""
        if machine.is_host():
            raise not_supported("Operation not supported")
        if whom == "leader":
            _signal(machine.leader, signo)
        elif whom == "supervisor":
            _signal(machine.supervisor, signo)
        elif machine.subgroup:
            await self._systemd.kill_unit_subgroup(machine.unit, machine.subgroup, signo)
        elif machine.uid and not machine.owns_unit():
            # The unit holds more than this machine, and belongs to more than its user.
            _signal(machine.leader, signo)
            if machine.supervisor is not None:
                _signal(machine.supervisor, signo)
        else:
            await self._systemd.kill_unit(machine.unit, "all", signo)

    async def close(self) -> None:
        """Let go of everything; the machines and their records stay."""
        for machine in self._registry:
            if machine.leader is not None:
                machine.leader.unwatch(asyncio.get_running_loop())
            machine.close()
        journal.flush()
        await asyncio.gather(*self._unrefs, return_exceptions=True)


def _is_restart(old: Machine, leader: PidRef, *, own_unit: bool) -> bool:
    """Whether the unit of a machine that is over has brought up another one."""
    if old.is_host() or own_unit or old.leader_alive():
        return False
    unit = cgroup.unit_of(leader.pid)
    return unit is not None and unit == old.unit


def _signal(process_: PidRef | None, signo: int) -> None:
    if process_ is None:
        raise ProcessLookupError(errno.ESRCH, "The process has gone")
    process_.kill(signo)
