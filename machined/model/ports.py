# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the model needs of others, as protocols: the wires implement them and the tests fake them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from machined.linux.process import PidRef


@dataclass(frozen=True, slots=True)
class UnitProperty:
    """A property of a transient unit: its name, D-Bus type, and value (org.freedesktop.systemd1(5))."""

    name: str
    type: str
    value: Any


@dataclass(frozen=True, slots=True)
class Unit:
    """What PID 1 says of a unit. `active` is ActiveState; "inactive" too when there is no such unit."""

    name: str
    active: str = "inactive"
    sub: str = "dead"
    result: str = ""  # of a service: success, exit-code, signal, timeout, …
    status_text: str = ""  # what the service last said with sd_notify(STATUS=)
    exit_status: int = 0

    @property
    def is_up(self) -> bool:
        """Whether something of it may still run, or runs again in a moment."""
        return self.active not in {"inactive", "failed"} or "auto-restart" in self.sub


UnitChange = tuple[str, str, str]  # type (symlink, unlink), file, source


class ServiceManager(Protocol):
    """PID 1. Every method may raise ServiceManagerError. Jobs are object paths."""

    version: int
    version_text: str  # in full, with what the distribution adds

    async def unit(self, name: str) -> Unit: ...
    async def units(self, patterns: Sequence[str]) -> list[Unit]: ...
    async def start_unit(self, name: str, mode: str) -> str: ...
    async def stop_unit(self, name: str, mode: str) -> str: ...
    async def restart_unit(self, name: str, mode: str) -> str: ...
    async def kill_unit(self, name: str, whom: str, signo: int) -> None: ...
    async def kill_unit_subgroup(self, name: str, subgroup: str, signo: int) -> None: ...
    async def start_transient(
        self,
        name: str,
        properties: Sequence[UnitProperty],
        fds: Sequence[int] = (),
        aux: Sequence[tuple[str, Sequence[UnitProperty]]] = (),
    ) -> str: ...
    async def set_unit_properties(
        self, name: str, properties: Sequence[UnitProperty], *, runtime: bool
    ) -> None: ...
    async def unref_unit(self, name: str) -> None: ...
    async def reset_failed(self, name: str) -> None: ...
    async def has_job(self, unit: str) -> bool: ...
    async def job_exists(self, path: str) -> bool: ...
    async def job_result(self, path: str) -> str: ...
    async def cancel_job(self, path: str) -> None: ...
    async def enable_units(self, files: Sequence[str]) -> list[UnitChange]: ...
    async def disable_units(self, files: Sequence[str]) -> list[UnitChange]: ...
    async def reload(self) -> None: ...


class GuestManager(Protocol):
    """The service manager inside a machine, reached through its system bus. Close after use."""

    async def system_state(self) -> str: ...
    async def start_unit(self, name: str) -> None: ...
    async def start_transient(
        self, name: str, properties: Sequence[UnitProperty], fds: Sequence[int]
    ) -> None: ...
    def close(self) -> None: ...


class GuestConnector(Protocol):
    """Opens the bus of a machine, or the host's.

    Raises FileNotFoundError when the guest has none, OSError, TimeoutError.
    """

    async def host(self) -> GuestManager: ...
    async def connect(self, leader: PidRef) -> GuestManager: ...
