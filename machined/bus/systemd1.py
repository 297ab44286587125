# SPDX-License-Identifier: LGPL-2.1-or-later
"""PID 1 over the system bus: the model's ServiceManager, and the source of unit and job events."""

from __future__ import annotations

import asyncio
import logging
import re
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Final

from dbus_fast import Message, Variant

from machined.bus.connection import DBUS, DBUS_PATH, TIMEOUT, Bus, RemoteError
from machined.linux.escape import bus_label_escape, bus_label_unescape
from machined.model.errors import ServiceManagerError
from machined.model.ports import Unit, UnitChange, UnitProperty

log = logging.getLogger(__name__)

NAME: Final = "org.freedesktop.systemd1"
PATH: Final = "/org/freedesktop/systemd1"
UNITS: Final = PATH + "/unit/"
MANAGER: Final = NAME + ".Manager"
UNIT: Final = NAME + ".Unit"
SERVICE: Final = NAME + ".Service"
PROPERTIES: Final = "org.freedesktop.DBus.Properties"
# What `updated` takes.
UNIT_KEYS: Final = ("ActiveState", "SubState")
SERVICE_KEYS: Final = ("Result", "StatusText", "ExecMainStatus")

# Seconds for a daemon-reload, as systemctl gives it.
RELOAD_TIMEOUT: Final = 180.0
# Results of jobs that ended before anybody asked: the signal may overtake the reply that names the job.
KEPT_RESULTS: Final = 1024

MATCHES: Final = (
    f"type='signal',sender='{NAME}',path='{PATH}',interface='{MANAGER}',member='JobRemoved'",
    f"type='signal',sender='{NAME}',path='{PATH}',interface='{MANAGER}',member='UnitRemoved'",
    f"type='signal',sender='{NAME}',path='{PATH}',interface='{MANAGER}',member='Reloading'",
    # Of these interfaces alone: those of slices, scopes and devices come often and tell us nothing.
    *(
        f"type='signal',sender='{NAME}',interface='{PROPERTIES}',member='PropertiesChanged',"
        f"path_namespace='{PATH}/unit',arg0='{interface}'"
        for interface in (UNIT, SERVICE)
    ),
    "type='signal',sender='org.freedesktop.DBus',interface='org.freedesktop.DBus',member='NameOwnerChanged',"
    f"arg0='{NAME}'",
)


class Systemd1:
    """PID 1. Events go to the on_… callbacks; methods raise ServiceManagerError."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self.version = 0
        self.version_text = ""
        # PID 1's own name: anybody may send us signals in its form, which no match rule keeps out.
        self._owner = ""
        self._waiting: dict[str, asyncio.Future[str]] = {}
        self._results: OrderedDict[str, str] = OrderedDict()
        self._tasks: set[asyncio.Task[Any]] = set()
        self.on_job_removed: Callable[[str, str, str], None] = lambda job, unit, result: None
        # Whether changes of a unit are wanted: a start brings dozens, of units that are no business of ours.
        self.wants: Callable[[str], bool] = lambda unit: True
        self.on_unit_changed: Callable[[str, dict[str, Any]], None] = lambda unit, changed: None
        self.on_unit_removed: Callable[[str], None] = lambda unit: None
        self.on_reloaded: Callable[[], None] = lambda: None

    async def start(self) -> None:
        """Subscribe to events and learn the version."""
        self._bus.ignores = self._ignores
        for rule in MATCHES:
            await self._bus.add_match(rule)
        try:
            self._owner = (await self._bus.request(DBUS, DBUS_PATH, DBUS, "GetNameOwner", "s", [NAME]))[0]
        except RemoteError as error:
            raise ServiceManagerError(error.name, error.text) from error
        await self._call("Subscribe")
        body = await self._request(PATH, PROPERTIES, "Get", "ss", [MANAGER, "Version"])
        self.version_text = str(body[0].value)
        found = re.match(r"\d+", self.version_text)
        self.version = int(found.group()) if found else 0

    # -- events --------------------------------------------------------------------------------------------

    def _ignores(self, path: str) -> bool:
        return path.startswith(UNITS) and not self.wants(bus_label_unescape(path.removeprefix(UNITS)))

    def handle_signal(self, message: Message) -> None:
        """Feed every signal of the connection here; only PID 1's are looked at."""
        if message.sender == DBUS:
            if message.member == "NameOwnerChanged" and message.body[:1] == [NAME]:
                self._owner_changed(message.body[2])
            return
        if message.sender != self._owner:
            return
        match message.member:
            case "PropertiesChanged" if (message.path or "").startswith(
                UNITS
            ) and message.signature == "sa{sv}as":
                interface, changed, _ = message.body
                if interface in {UNIT, SERVICE}:
                    unit = bus_label_unescape((message.path or "").removeprefix(UNITS))
                    self.on_unit_changed(unit, {key: value.value for key, value in changed.items()})
            case "JobRemoved" if message.interface == MANAGER and message.signature == "uoss":
                _, job, unit, result = message.body
                self._job_over(job, unit, result)
            case "UnitRemoved" if message.interface == MANAGER and message.signature == "so":
                self.on_unit_removed(message.body[0])
            case "Reloading" if message.interface == MANAGER and message.body == [False]:
                self.on_reloaded()

    def _owner_changed(self, owner: str) -> None:
        self._owner = owner
        if owner:
            # PID 1 executed itself anew and knows nothing of our subscription.
            task = asyncio.ensure_future(self._resubscribe())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _resubscribe(self) -> None:
        try:
            await self._call("Subscribe")
        except ServiceManagerError as error:
            if error.name != "org.freedesktop.systemd1.AlreadySubscribed":
                log.warning("Cannot subscribe to PID 1 again, ignoring: %s", error)
        self.on_reloaded()

    def _job_over(self, job: str, unit: str, result: str) -> None:
        self._results[job] = result
        if len(self._results) > KEPT_RESULTS:
            self._results.popitem(last=False)
        future = self._waiting.pop(job, None)
        if future is not None and not future.done():
            future.set_result(result)
        self.on_job_removed(job, unit, result)

    async def job_result(self, path: str) -> str:
        """Wait for the end of a job of ours: done, failed, canceled, timeout, dependency, skipped."""
        if path in self._results:
            return self._results[path]
        future = self._waiting.setdefault(path, asyncio.get_running_loop().create_future())
        return await asyncio.shield(future)

    # -- calls ---------------------------------------------------------------------------------------------

    async def _request(
        self,
        path: str,
        interface: str,
        member: str,
        signature: str,
        body: Sequence[Any],
        fds: Sequence[int] = (),
        timeout: float = TIMEOUT,
    ) -> list[Any]:
        try:
            return await self._bus.request(
                NAME, path, interface, member, signature, body, fds=fds, timeout=timeout
            )
        except RemoteError as error:
            raise ServiceManagerError(error.name, error.text) from error
        except TimeoutError as error:
            raise ServiceManagerError(
                "org.freedesktop.DBus.Error.NoReply", "PID 1 did not answer in time."
            ) from error

    async def _call(
        self, member: str, signature: str = "", *body: Any, fds: Sequence[int] = ()
    ) -> list[Any]:
        return await self._request(PATH, MANAGER, member, signature, body, fds)

    async def start_unit(self, name: str, mode: str) -> str:
        return str((await self._call("StartUnit", "ss", name, mode))[0])

    async def stop_unit(self, name: str, mode: str) -> str:
        return str((await self._call("StopUnit", "ss", name, mode))[0])

    async def restart_unit(self, name: str, mode: str) -> str:
        return str((await self._call("RestartUnit", "ss", name, mode))[0])

    async def kill_unit(self, name: str, whom: str, signo: int) -> None:
        await self._call("KillUnit", "ssi", name, whom, signo)

    async def kill_unit_subgroup(self, name: str, subgroup: str, signo: int) -> None:
        # 258 and later.
        await self._call("KillUnitSubgroup", "sssi", name, "cgroup", f"/{subgroup.strip('/')}", signo)

    async def start_transient(
        self,
        name: str,
        properties: Sequence[UnitProperty],
        fds: Sequence[int] = (),
        aux: Sequence[tuple[str, Sequence[UnitProperty]]] = (),
    ) -> str:
        more = [[unit, _rows(its)] for unit, its in aux]
        body = name, "fail", _rows(properties), more
        return str((await self._call("StartTransientUnit", "ssa(sv)a(sa(sv))", *body, fds=fds))[0])

    async def set_unit_properties(
        self, name: str, properties: Sequence[UnitProperty], *, runtime: bool
    ) -> None:
        rows = [[p.name, Variant(p.type, p.value)] for p in properties]
        await self._call("SetUnitProperties", "sba(sv)", name, runtime, rows)

    async def unref_unit(self, name: str) -> None:
        await self._call("UnrefUnit", "s", name)

    async def reset_failed(self, name: str) -> None:
        await self._call("ResetFailedUnit", "s", name)

    async def cancel_job(self, path: str) -> None:
        await self._request(path, NAME + ".Job", "Cancel", "", [])

    async def job_exists(self, path: str) -> bool:
        try:
            await self._request(path, PROPERTIES, "Get", "ss", [NAME + ".Job", "State"])
        except ServiceManagerError as error:
            if error.name == "org.freedesktop.DBus.Error.UnknownObject":
                return False
            raise
        return True

    async def has_job(self, unit: str) -> bool:
        path = UNITS + bus_label_escape(unit)
        try:
            body = await self._request(path, PROPERTIES, "Get", "ss", [UNIT, "Job"])
        except ServiceManagerError as error:
            if error.is_missing_unit() or error.name == "org.freedesktop.DBus.Error.UnknownObject":
                return False
            raise
        return bool(body[0].value[0])

    async def unit(self, name: str) -> Unit:
        """A unit as it is now; an inactive one where there is none."""
        path = UNITS + bus_label_escape(name)
        # One by one: GetAll of a service has hundreds, and takes both of us longer than these.
        wanted = [(UNIT, key) for key in UNIT_KEYS]
        if name.endswith(".service"):
            wanted += [(SERVICE, key) for key in SERVICE_KEYS]
        try:
            found = await asyncio.gather(
                *(
                    self._request(path, PROPERTIES, "Get", "ss", [interface, key])
                    for interface, key in wanted
                )
            )
        except ServiceManagerError as error:
            if error.is_missing_unit() or error.name == "org.freedesktop.DBus.Error.UnknownObject":
                return Unit(name)
            raise
        return updated(
            Unit(name), {key: body[0].value for (_, key), body in zip(wanted, found, strict=True)}
        )

    async def units(self, patterns: Sequence[str]) -> list[Unit]:
        body = await self._call("ListUnitsByPatterns", "asas", [], list(patterns))
        return [await self.unit(row[0]) for row in body[0]]

    async def enable_units(self, files: Sequence[str]) -> list[UnitChange]:
        body = await self._call("EnableUnitFiles", "asbb", list(files), False, False)
        return [(kind, file, source) for kind, file, source in body[1]]

    async def disable_units(self, files: Sequence[str]) -> list[UnitChange]:
        body = await self._call("DisableUnitFiles", "asb", list(files), False)
        return [(kind, file, source) for kind, file, source in body[0]]

    async def reload(self) -> None:
        """daemon-reload; takes as long as PID 1 needs to read all units."""
        await self._request(PATH, MANAGER, "Reload", "", [], timeout=RELOAD_TIMEOUT)


def updated(unit: Unit, changed: dict[str, Any]) -> Unit:
    """A unit with the values of a PropertiesChanged signal or of GetAll put in."""
    return Unit(
        unit.name,
        active=changed.get("ActiveState", unit.active),
        sub=changed.get("SubState", unit.sub),
        result=changed.get("Result", unit.result),
        status_text=changed.get("StatusText", unit.status_text),
        exit_status=changed.get("ExecMainStatus", unit.exit_status),
    )


def _rows(properties: Sequence[UnitProperty]) -> list[list[Any]]:
    return [[p.name, Variant(p.type, p.value)] for p in properties]
