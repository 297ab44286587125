# SPDX-License-Identifier: LGPL-2.1-or-later
"""PID 1 without a wire: implements machined.model.ports.ServiceManager."""

from __future__ import annotations

import asyncio
import fnmatch
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

from machined.bus.systemd1 import updated
from machined.model.core import Core
from machined.model.errors import ServiceManagerError
from machined.model.ports import Unit, UnitChange, UnitProperty

Hook = Callable[..., Awaitable[Any] | None]

NO_SUCH_UNIT = ServiceManagerError("org.freedesktop.systemd1.NoSuchUnit", "Unit not loaded.")
NO_REPLY = ServiceManagerError("org.freedesktop.DBus.Error.NoReply", "PID 1 did not answer in time.")
UNIT_EXISTS = ServiceManagerError("org.freedesktop.systemd1.UnitExists", "Unit was already loaded.")


class FakeServiceManager:
    """Records every call and answers at once; `hooks` run in between and may wait, raise, or emit events.

    Jobs stay until `finish` says how they ended. Events go where the daemon sends those of the real one.
    """

    def __init__(self, version: int = 257) -> None:
        self.version = version
        self.version_text = f"{version}.4-1~test"
        self.calls: list[tuple[Any, ...]] = []
        self.known: dict[str, Unit] = {}
        self.transient: dict[str, dict[str, Any]] = {}
        self.hooks: dict[str, Hook] = {}
        self.jobs: dict[str, asyncio.Future[str]] = {}
        self.queued: set[str] = set()  # units with a job
        self.changes: list[UnitChange] = []
        self._count = 0
        self._core: Core | None = None

    def attach(self, core: Core) -> None:
        self._core = core

    def called(self, method: str) -> list[tuple[Any, ...]]:
        """The arguments of every call of a method so far."""
        return [call[1:] for call in self.calls if call[0] == method]

    # -- events --------------------------------------------------------------------------------------------

    def emit(self, name: str, **changed: Any) -> None:
        """PropertiesChanged of a unit, in PID 1's names: ActiveState="active"."""
        unit = self.known.get(name) or Unit(name)
        self.known[name] = updated(unit, changed)
        if self._core is not None:
            self._core.unit_changed(name, changed, updated)

    def remove(self, name: str) -> None:
        """UnitRemoved."""
        self.known.pop(name, None)
        if self._core is not None:
            self._core.unit_removed(name)

    def finish(self, job: str, unit: str, result: str = "done") -> None:
        """JobRemoved."""
        future = self._job(job)
        if not future.done():
            future.set_result(result)
        if self._core is not None:
            self._core.job_removed(job, unit, result)

    def _job(self, path: str) -> asyncio.Future[str]:
        return self.jobs.setdefault(path, asyncio.get_running_loop().create_future())

    def last_job(self) -> str:
        return f"/org/freedesktop/systemd1/job/{self._count}"

    # -- the port ------------------------------------------------------------------------------------------

    async def _called(self, method: str, *args: Any) -> None:
        self.calls.append((method, *args))
        hook = self.hooks.get(method)
        if hook is not None:
            outcome = hook(*args)
            if outcome is not None:
                await outcome

    async def _new_job(self, method: str, *args: Any) -> str:
        self._count += 1
        job = self.last_job()
        self._job(job)
        await self._called(method, *args)
        return job

    async def unit(self, name: str) -> Unit:
        await self._called("unit", name)
        return self.known.get(name) or Unit(name)

    async def units(self, patterns: Sequence[str]) -> list[Unit]:
        await self._called("units", tuple(patterns))
        return [u for u in self.known.values() if any(fnmatch.fnmatch(u.name, p) for p in patterns)]

    async def start_unit(self, name: str, mode: str) -> str:
        return await self._new_job("start_unit", name, mode)

    async def stop_unit(self, name: str, mode: str) -> str:
        job = await self._new_job("stop_unit", name, mode)
        if name not in self.known:
            raise NO_SUCH_UNIT
        return job

    async def restart_unit(self, name: str, mode: str) -> str:
        return await self._new_job("restart_unit", name, mode)

    async def kill_unit(self, name: str, whom: str, signo: int) -> None:
        await self._called("kill_unit", name, whom, signo)

    async def kill_unit_subgroup(self, name: str, subgroup: str, signo: int) -> None:
        await self._called("kill_unit_subgroup", name, subgroup, signo)

    async def start_transient(
        self,
        name: str,
        properties: Sequence[UnitProperty],
        fds: Sequence[int] = (),
        aux: Sequence[tuple[str, Sequence[UnitProperty]]] = (),
    ) -> str:
        for unit, its in aux:
            self.transient[unit] = {row.name: row.value for row in its}
        self.transient[name] = {row.name: row.value for row in properties}
        return await self._new_job("start_transient", name, tuple(properties), tuple(fds))

    async def set_unit_properties(
        self, name: str, properties: Sequence[UnitProperty], *, runtime: bool
    ) -> None:
        await self._called("set_unit_properties", name, tuple(properties), runtime)

    async def unref_unit(self, name: str) -> None:
        await self._called("unref_unit", name)

    async def reset_failed(self, name: str) -> None:
        await self._called("reset_failed", name)

    async def has_job(self, unit: str) -> bool:
        await self._called("has_job", unit)
        return unit in self.queued

    async def job_exists(self, path: str) -> bool:
        await self._called("job_exists", path)
        return path in self.jobs and not self.jobs[path].done()

    async def job_result(self, path: str) -> str:
        await self._called("job_result", path)
        return await asyncio.shield(self._job(path))

    async def cancel_job(self, path: str) -> None:
        await self._called("cancel_job", path)

    async def enable_units(self, files: Sequence[str]) -> list[UnitChange]:
        await self._called("enable_units", tuple(files))
        return list(self.changes)

    async def disable_units(self, files: Sequence[str]) -> list[UnitChange]:
        await self._called("disable_units", tuple(files))
        return list(self.changes)

    async def reload(self) -> None:
        await self._called("reload")


def raising(error: Exception, *, times: int = 1_000_000) -> Hook:
    """A hook that fails the first calls."""
    left = [times]

    def hook(*args: Any) -> None:
        if left[0]:
            left[0] -= 1
            raise error

    return hook


def failed(unit: Unit, result: str = "exit-code") -> Unit:
    return replace(unit, active="failed", sub="failed", result=result)
