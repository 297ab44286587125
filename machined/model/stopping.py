# SPDX-License-Identifier: LGPL-2.1-or-later
"""How a machine is brought down: power-off, then termination, then a kill, each with its own time limit."""

from __future__ import annotations

import asyncio
import logging
import signal
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from machined.linux import process
from machined.model.errors import ServiceManagerError
from machined.model.jobs import JobTimeoutError
from machined.model.machine import Machine
from machined.model.ports import ServiceManager
from machined.model.registry import Registry
from machined.model.state import States, unit_of_machine

log = logging.getLogger(__name__)

# How systemd as PID 1 is told to power off (systemd(1), "Signals").
POWEROFF_SIGNAL: Final = signal.SIGRTMIN + 4

# Seconds. The graceful one is what systemd gives a service by default (TimeoutStopSec=).
POWEROFF_TIMEOUT: Final = 90.0
TERMINATE_TIMEOUT: Final = 30.0
KILL_TIMEOUT: Final = 15.0


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


class Stopping:
    """Brings machines down, and knows when one is gone."""

    def __init__(self, registry: Registry, states: States, systemd: ServiceManager) -> None:
        self._registry = registry
        self._states = states
        self._systemd = systemd

    async def stop(self, name: str, mode: StopMode, limits: StopLimits) -> str:
        """The work of a job: returns a remark when a later stage was needed. Raises JobTimeoutError."""
        machine = self._registry.get(name)
        unit_name = machine.unit if machine is not None else unit_of_machine(name)
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
                    await self._stop_unit(unit_name)
                    await self.wait_gone(name, unit_name, limits.terminate, "end when terminated")
                    return remark
                except JobTimeoutError as error:
                    remark = f"{error} It was killed."
                    log.warning("%s Killing it", error)
            await self._kill_unit(unit_name)
            await self.wait_gone(name, unit_name, limits.kill, "end when killed")
            return remark
        finally:
            self._states.stop_under_way(name, False)

    async def _power_off(self, name: str, unit_name: str, limit: float) -> None:
        try:
            async with asyncio.timeout(limit):
                machine = await self.registered(name, unit_name)
                if machine is not None:
                    await self.signal_init(machine, POWEROFF_SIGNAL)
                    await self._states.wait_until(name, lambda: self.is_gone(name, unit_name))
        except TimeoutError:
            raise JobTimeoutError(f"Machine '{name}' did not power off within {limit:g} s.") from None

    async def registered(self, name: str, unit_name: str) -> Machine | None:
        """The machine as soon as it is registered; None when its unit ends before that."""
        await self._states.wait_until(
            name, lambda: self._registry.get(name) is not None or self.is_gone(name, unit_name)
        )
        return self._registry.get(name)

    async def signal_init(self, machine: Machine, signo: int) -> None:
        """Signal the leader once it listens: the kernel drops what a namespace's init does not handle yet.

        Nothing tells when an init installs its handlers, so this looks, from 10 ms to 250 ms apart.
        """
        pause = 0.01
        while machine.leader is not None and machine.leader.alive():
            try:
                if process.handles_signal(machine.leader_pid, signo):
                    machine.leader.kill(signo)
                    return
            except ProcessLookupError:
                return
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, 0.25)

    async def _stop_unit(self, unit_name: str) -> None:
        try:
            await self._systemd.stop_unit(unit_name, "replace")
        except ServiceManagerError as error:
            if not error.is_missing_unit():
                raise

    async def _kill_unit(self, unit_name: str) -> None:
        try:
            await self._systemd.kill_unit(unit_name, "all", signal.SIGKILL)
        except ServiceManagerError as error:
            log.debug("Cannot kill unit '%s', ignoring: %s", unit_name, error)

    def is_up(self, unit_name: str) -> bool:
        """Whether a unit may still run something."""
        tracked = self._states.tracked(unit_name)
        return tracked is not None and tracked.is_up

    def is_gone(self, name: str, unit_name: str) -> bool:
        """The image is free again only when the unit has ended, which is after the unregistration."""
        if self._registry.get(name) is not None or self._states.record(name).starting:
            return False
        return not self.is_up(unit_name)

    async def wait_gone(self, name: str, unit_name: str, limit: float, what: str) -> None:
        try:
            async with asyncio.timeout(limit):
                await self._states.wait_until(name, lambda: self.is_gone(name, unit_name))
        except TimeoutError:
            raise JobTimeoutError(f"Machine '{name}' did not {what} within {limit:g} s.") from None
