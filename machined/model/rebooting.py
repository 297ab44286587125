# SPDX-License-Identifier: LGPL-2.1-or-later
"""How a machine is rebooted: its init is asked, and the machine has to register anew."""

from __future__ import annotations

import asyncio
import logging
import signal
from typing import Final

from machined.linux import process
from machined.linux.process import PidRef
from machined.model.errors import MachineError, Problem, ServiceManagerError
from machined.model.jobs import JobTimeoutError
from machined.model.machine import Machine
from machined.model.ports import ServiceManager
from machined.model.registry import Registry
from machined.model.state import States
from machined.model.stopping import Stopping, own_unit

log = logging.getLogger(__name__)

# Ctrl-alt-del to an init (init(1), systemd(1)).
REBOOT_SIGNAL: Final = signal.SIGINT
# Seconds for one way down and up again.
REBOOT_TIMEOUT: Final = 120.0


class Rebooting:
    """Reboots machines."""

    def __init__(
        self, registry: Registry, states: States, systemd: ServiceManager, stopping: Stopping
    ) -> None:
        self._registry = registry
        self._states = states
        self._systemd = systemd
        self._stopping = stopping

    async def reboot(self, name: str, limit: float) -> str:
        """The work of a job: returns a remark when the unit had to be restarted. Raises JobTimeoutError."""
        machine = self._registry.get(name)
        unit_name = own_unit(name, machine)
        supervisor: PidRef | None = None
        try:
            async with asyncio.timeout(limit):
                machine = await self._stopping.registered(name, unit_name)
                if machine is None:
                    raise MachineError(
                        Problem.NOT_RUNNING, f"Machine '{name}' ended before it could be rebooted."
                    )
                await self._forgive_starts(unit_name)
                supervisor = _supervisor(machine)
                async with self._stopping.signalled(machine, REBOOT_SIGNAL):
                    await self._back_or_gone(machine, unit_name, supervisor)
                return self._after_reboot(name, unit_name)
        except TimeoutError:
            log.warning("Machine '%s' did not reboot within %g s, starting its unit again", name, limit)
        finally:
            if supervisor is not None:
                supervisor.close()
        too_late = JobTimeoutError(f"Machine '{name}' did not come back within {limit:g} s.")
        if machine is None or self._registry.get(name) is not machine or not unit_name.endswith(".service"):
            raise too_late
        await self._systemd.restart_unit(unit_name, "replace")
        try:
            async with asyncio.timeout(limit):
                await self._back_or_gone(machine, unit_name, None)
        except TimeoutError:
            raise too_late from None
        return self._after_reboot(name, unit_name) or "It did not reboot in time and its unit was restarted."

    async def _forgive_starts(self, unit_name: str) -> None:
        """Every reboot is a start of the unit: one that was asked for must not use up its start limit."""
        if unit_name.endswith(".service"):
            try:
                await self._systemd.reset_failed(unit_name)
            except ServiceManagerError as error:
                log.debug("Cannot reset the start limit of '%s', ignoring: %s", unit_name, error)

    async def _back_or_gone(self, old: Machine, unit_name: str, supervisor: PidRef | None) -> None:
        """Wait until a machine has registered anew, or has ended for good.

        A service is started again by PID 1; a scope ends and the nspawn that lives outside makes a new one.
        """
        name, loop = old.name, asyncio.get_running_loop()

        def over() -> bool:
            now = self._registry.get(name)
            if now is not None:
                return now is not old
            return self._stopping.is_gone(name, unit_name) and (supervisor is None or not supervisor.alive())

        if supervisor is not None:
            supervisor.watch(loop, lambda: self._states.refresh(name))
        try:
            await self._states.wait_until(name, over)
        finally:
            if supervisor is not None:
                supervisor.unwatch(loop)

    def _after_reboot(self, name: str, unit_name: str) -> str:
        if self._registry.get(name) is None:
            raise MachineError(
                Problem.FAILED,
                f"Machine '{name}' went down and did not come back."
                + (f" See 'journalctl -u {unit_name}'." if unit_name else ""),
            )
        return ""


def _supervisor(machine: Machine) -> PidRef | None:
    """The nspawn that runs a machine, pinned; None when somebody else does."""
    try:
        parent = PidRef.open(process.parent(machine.leader_pid))
        if process.comm(parent.pid) == "systemd-nspawn":
            return parent
        parent.close()
    except ProcessLookupError:
        log.debug("The leader of machine '%s' has no parent any more", machine.name)
    return None
