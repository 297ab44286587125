# SPDX-License-Identifier: LGPL-2.1-or-later
"""How a machine is brought down: power-off, then termination, then a kill, each with its own time limit."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from machined.linux import process
from machined.model.belongings import Belongings
from machined.model.errors import ServiceManagerError
from machined.model.jobs import JobTimeoutError
from machined.model.machine import Machine
from machined.model.ports import ServiceManager
from machined.model.registrar import Registrar
from machined.model.registry import Registry
from machined.model.state import States, unit_of_machine

log = logging.getLogger(__name__)

# How systemd as PID 1 is told to power off (systemd(1), "Signals").
POWEROFF_SIGNAL: Final = signal.SIGRTMIN + 4

# Seconds. The graceful one is what systemd gives a service by default (TimeoutStopSec=).
POWEROFF_TIMEOUT: Final = 90.0
TERMINATE_TIMEOUT: Final = 30.0
KILL_TIMEOUT: Final = 15.0
# Between looks at an init that does not listen yet, and between signals to one that goes on.
FIRST_LOOK: Final = 0.01
LAST_LOOK: Final = 0.25
SIGNAL_AGAIN: Final = 5.0


class StopMode(StrEnum):
    """The first stage of a stop; the ones after it follow when its time is over."""

    POWEROFF = "poweroff"
    TERMINATE = "terminate"
    KILL = "kill"


@dataclass(frozen=True, slots=True)
class StopLimits:
    """Time limits of the stages of a stop, in seconds."""

    poweroff: float = POWEROFF_TIMEOUT
    terminate: float = TERMINATE_TIMEOUT
    kill: float = KILL_TIMEOUT


def own_unit(name: str, machine: Machine | None) -> str:
    """The unit that is a machine's alone; empty for a machine in a unit with something else."""
    if machine is None:
        return unit_of_machine(name)
    return machine.unit if machine.owns_unit() else ""


class Stopping:
    """Brings machines down, and knows when one is gone."""

    def __init__(
        self,
        registry: Registry,
        states: States,
        systemd: ServiceManager,
        registrar: Registrar,
        belongings: Belongings,
    ) -> None:
        self._registry = registry
        self._registrar = registrar
        self._states = states
        self._systemd = systemd
        self._belongings = belongings

    async def stop(self, name: str, mode: StopMode, limits: StopLimits) -> str:
        """The work of a job: returns a remark when a later stage was needed. Raises JobTimeoutError."""
        machine = self._registry.get(name)
        unit_name = own_unit(name, machine)
        self._states.stop_under_way(name, True)
        try:
            remark = ""
            if mode is StopMode.POWEROFF:
                try:
                    await self._power_off(name, unit_name, limits.poweroff)
                    return remark
                except JobTimeoutError as error:
                    remark = f"{error} It was terminated."
                    log.warning("%s Terminating it", error)
            if mode is not StopMode.KILL:
                try:
                    await self._terminate(name, unit_name)
                    await self.wait_gone(name, unit_name, limits.terminate, "end when terminated")
                    return remark
                except JobTimeoutError as error:
                    remark = f"{error} It was killed."
                    log.warning("%s Killing it", error)
            await self._kill(name, unit_name)
            await self.wait_gone(name, unit_name, limits.kill, "end when killed")
            return remark
        finally:
            self._states.stop_under_way(name, False)

    async def _power_off(self, name: str, unit_name: str, limit: float) -> None:
        try:
            async with asyncio.timeout(limit):
                machine = await self.registered(name, unit_name)
                if machine is not None:
                    async with self.signalled(machine, POWEROFF_SIGNAL):
                        await self._states.wait_until(name, lambda: self.is_gone(name, unit_name))
        except TimeoutError:
            raise JobTimeoutError(f"Machine '{name}' did not power off within {limit:g} s.") from None

    async def registered(self, name: str, unit_name: str) -> Machine | None:
        """The machine as soon as it is registered; None when its unit ends before that."""
        await self._states.wait_until(
            name, lambda: self._registry.get(name) is not None or self.is_gone(name, unit_name)
        )
        return self._registry.get(name)

    @asynccontextmanager
    async def signalled(self, machine: Machine, signo: int) -> AsyncIterator[None]:
        """A block during which the leader is told, until it is gone, what to do."""
        telling = asyncio.ensure_future(self._tell(machine, signo))
        try:
            yield
        finally:
            telling.cancel()
            await asyncio.gather(telling, return_exceptions=True)

    async def _tell(self, machine: Machine, signo: int) -> None:
        """Signal the leader once it listens, and again from time to time.

        The kernel drops what a namespace's init does not handle yet, and nothing tells when an init installs
        its handlers: so this looks, from 10 ms to 250 ms apart. An init may also take a signal in the middle
        of its start and make nothing of it.
        """
        pause = FIRST_LOOK
        while machine.leader is not None and machine.leader.alive():
            try:
                if process.handles_signal(machine.leader_pid, signo):
                    machine.leader.kill(signo)
                    pause = SIGNAL_AGAIN
            except ProcessLookupError:
                return
            await asyncio.sleep(pause)
            if pause < SIGNAL_AGAIN:
                pause = min(pause * 1.5, LAST_LOOK)

    async def _terminate(self, name: str, unit_name: str) -> None:
        """Stop the machine's own unit; of a unit that holds more, only while the machine is in it."""
        machine = self._registry.get(name)
        if not unit_name and machine is not None:
            await self._registrar.terminate(machine)
            return
        if unit_name:
            try:
                await self._systemd.stop_unit(unit_name, "replace")
            except ServiceManagerError as error:
                if not error.is_missing_unit():
                    raise

    async def _kill(self, name: str, unit_name: str) -> None:
        machine = self._registry.get(name)
        try:
            if unit_name:
                await self._systemd.kill_unit(unit_name, "all", signal.SIGKILL)
            elif machine is not None:
                await self._registrar.kill(machine, "leader", signal.SIGKILL)
        except (OSError, ServiceManagerError) as error:
            log.debug("Cannot kill machine '%s', ignoring: %s", name, error)

    def is_up(self, unit_name: str) -> bool:
        """Whether a unit may still run something."""
        tracked = self._states.tracked(unit_name)
        return tracked is not None and tracked.is_up

    def is_gone(self, name: str, unit_name: str) -> bool:
        """Whether nothing of a machine runs any more.

        The image is free only when the machine's own unit has ended, which is after the unregistration, and
        when what was mounted for it is, and what it had of the network.
        """
        if self._registry.get(name) is not None or self._states.record(name).starting:
            return False
        if self._belongings.holds(name):
            return False
        return not unit_name or not self.is_up(unit_name)

    async def wait_gone(self, name: str, unit_name: str, limit: float, what: str) -> None:
        try:
            async with asyncio.timeout(limit):
                await self._states.wait_until(name, lambda: self.is_gone(name, unit_name))
        except TimeoutError:
            raise JobTimeoutError(f"Machine '{name}' did not {what} within {limit:g} s.") from None
