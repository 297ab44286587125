# SPDX-License-Identifier: LGPL-2.1-or-later
"""PID 1 as the private bus sees it: org.freedesktop.systemd1 with units, jobs and events."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Any

from dbus_fast import Variant

from machined.bus.call import Call
from machined.bus.connection import DBUS, DBUS_PATH, Bus
from machined.bus.dispatch import Dispatcher
from machined.bus.systemd1 import MANAGER, NAME, PATH, PROPERTIES, SERVICE, UNIT, UNITS
from machined.bus.vtable import Emits, Fallback, Fixed, Interface, method, prop, signal
from machined.linux.escape import bus_label_escape
from machined.model.errors import ServiceManagerError
from tests.fakes.polkit import Everybody

JOBS = PATH + "/job"
DEFAULTS = {
    "ActiveState": "inactive",
    "SubState": "dead",
    "Result": "success",
    "StatusText": "",
    "ExecMainStatus": 0,
    "FragmentPath": "",
}


class FakeSystemd1:
    """Serves one bus. `calls` records methods; `hooks` run before their answers and may wait or raise."""

    def __init__(self, bus: Bus, version: int) -> None:
        self.bus = bus
        self.version = version
        self.calls: list[tuple[Any, ...]] = []
        self.hooks: dict[str, Callable[..., Awaitable[Any] | None]] = {}
        self.units: dict[str, dict[str, Any]] = {}
        self.jobs: set[str] = set()
        self.fd_targets: list[str] = []
        self.changes: list[list[str]] = []
        self._count = 0
        self.dispatcher = Dispatcher(bus, Everybody())
        self.manager = Interface(
            MANAGER,
            (
                prop("Version", "s", lambda call, me: f"{version}.3-1", Emits.CONST),
                method("Subscribe", "", "", self._recording("Subscribe")),
                method("StartUnit", "s name, s mode", "o job", self._job("StartUnit")),
                method("StopUnit", "s name, s mode", "o job", self._job("StopUnit")),
                method("RestartUnit", "s name, s mode", "o job", self._job("RestartUnit")),
                method("KillUnit", "s name, s whom, i signal", "", self._recording("KillUnit")),
                method("ResetFailedUnit", "s name", "", self._recording("ResetFailedUnit")),
                method("UnrefUnit", "s name", "", self._recording("UnrefUnit")),
                method(
                    "SetUnitProperties",
                    "s name, b runtime, a(sv) properties",
                    "",
                    self._recording("SetUnitProperties"),
                ),
                method("Reload", "", "", self._recording("Reload")),
                method(
                    "StartTransientUnit",
                    "s name, s mode, a(sv) properties, a(sa(sv)) aux",
                    "o job",
                    self._start_transient,
                ),
                method(
                    "ListUnitsByPatterns",
                    "as states, as patterns",
                    "a(ssssssouso) units",
                    lambda call, me, states, patterns: [
                        [name, "", "loaded", "", "", "", "/", 0, "", "/"] for name in self.units
                    ],
                ),
                method(
                    "EnableUnitFiles", "as files, b runtime, b force", "b info, a(sss) changes", self._enable
                ),
                method("DisableUnitFiles", "as files, b runtime", "a(sss) changes", self._disable),
                signal("JobRemoved", "u id, o job, s unit, s result"),
                signal("UnitRemoved", "s id, o unit"),
                signal("Reloading", "b active"),
            ),
        )
        unit_rows = tuple(self._unit_property(name) for name in ("ActiveState", "SubState", "FragmentPath"))
        service_rows = tuple(self._unit_property(n) for n in ("Result", "StatusText", "ExecMainStatus"))
        self.dispatcher.add(Fixed(PATH, self, (self.manager,)))
        for interface in (Interface(UNIT, unit_rows), Interface(SERVICE, service_rows)):
            # Any unit has an object, loaded or not.
            self.dispatcher.add(Fallback(UNITS.rstrip("/"), interface, lambda call, label: label, list))
        job = Interface(NAME + ".Job", (prop("State", "s", lambda call, path: "running", Emits.FALSE),))
        self.dispatcher.add(
            Fallback(JOBS, job, lambda call, label: label if f"{JOBS}/{label}" in self.jobs else None, list)
        )
        self.dispatcher.start()

    async def own(self) -> None:
        await self.bus.request(DBUS, DBUS_PATH, DBUS, "RequestName", "su", [NAME, 0])

    async def close(self) -> None:
        await self.dispatcher.close()
        await self.bus.request(DBUS, DBUS_PATH, DBUS, "ReleaseName", "s", [NAME])
        self.bus.close()

    def called(self, member: str) -> list[tuple[Any, ...]]:
        return [call[1:] for call in self.calls if call[0] == member]

    # -- events --------------------------------------------------------------------------------------------

    def emit(self, unit: str, **changed: Any) -> None:
        """PropertiesChanged of a unit."""
        self.units.setdefault(unit, dict(DEFAULTS)).update(changed)
        common = {key: value for key, value in changed.items() if key in {"ActiveState", "SubState"}}
        for interface, part in (
            (UNIT, common),
            (SERVICE, {k: changed[k] for k in changed if k not in common}),
        ):
            if part:
                variants = {key: Variant("s" if isinstance(v, str) else "i", v) for key, v in part.items()}
                self.bus.emit(
                    UNITS + bus_label_escape(unit),
                    PROPERTIES,
                    "PropertiesChanged",
                    "sa{sv}as",
                    [interface, variants, []],
                )

    def remove(self, unit: str) -> None:
        self.units.pop(unit, None)
        self.dispatcher.emit(PATH, self.manager, "UnitRemoved", unit, UNITS + bus_label_escape(unit))

    def finish(self, unit: str, result: str = "done", job: str = "") -> None:
        """JobRemoved, of the last job unless another one is named."""
        path = job or self.last_job()
        self.jobs.discard(path)
        number = int(path.rpartition("/")[2])
        self.dispatcher.emit(PATH, self.manager, "JobRemoved", number, path, unit, result)

    def last_job(self) -> str:
        return f"{JOBS}/{self._count}"

    # -- the tables' handlers ------------------------------------------------------------------------------

    async def _record(self, member: str, *args: Any) -> None:
        self.calls.append((member, *args))
        hook = self.hooks.get(member)
        outcome = hook(*args) if hook is not None else None
        if outcome is not None:
            await outcome

    def _recording(self, member: str) -> Callable[..., Any]:
        def handler(call: Call, me: Any, *args: Any) -> Awaitable[None]:
            return self._record(member, *args)

        return handler

    async def _new_job(self, member: str, *args: Any) -> str:
        self._count += 1
        path = self.last_job()
        self.jobs.add(path)
        await self._record(member, *args)
        return path

    def _job(self, member: str) -> Callable[..., Any]:
        async def handler(call: Call, me: Any, name: str, mode: str) -> str:
            if member == "StopUnit" and name not in self.units:
                await self._record(member, name, mode)
                raise ServiceManagerError("org.freedesktop.systemd1.NoSuchUnit", f"Unit {name} not loaded.")
            return await self._new_job(member, name, mode)

        return handler

    async def _start_transient(
        self, call: Call, me: Any, name: str, mode: str, properties: list[Any], aux: list[Any]
    ) -> str:
        self.fd_targets = [
            os.readlink(f"/proc/self/fd/{call.fds.peek(index)}") for index in range(len(call.fds))
        ]
        return await self._new_job(
            "StartTransientUnit", name, mode, [(k, v.signature, v.value) for k, v in properties]
        )

    async def _enable(
        self, call: Call, me: Any, files: list[str], runtime: bool, force: bool
    ) -> tuple[bool, list[list[str]]]:
        await self._record("EnableUnitFiles", files, runtime, force)
        return True, self.changes

    async def _disable(self, call: Call, me: Any, files: list[str], runtime: bool) -> list[list[str]]:
        await self._record("DisableUnitFiles", files, runtime)
        return self.changes

    def _unit_property(self, name: str) -> Any:
        kind = "s" if isinstance(DEFAULTS[name], str) else "i"

        def value(call: Call, unit: str) -> Any:
            return self.units.get(unit, DEFAULTS)[name]

        return prop(name, kind, value, Emits.TRUE)


async def settled_calls(bus: Bus) -> None:
    """Return when everything sent on this connection before has been seen by the bus."""
    await bus.request(DBUS, DBUS_PATH, DBUS, "GetId")
    await asyncio.sleep(0)
