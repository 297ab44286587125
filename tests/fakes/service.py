# SPDX-License-Identifier: LGPL-2.1-or-later
"""The daemon's bus half on a private bus, between fakes, and clients to call it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, cast

import pytest
from dbus_fast import Message, MessageFlag, MessageType

from machined.bus.callers import Callers, Credentials
from machined.bus.connection import DBUS, DBUS_PATH, Bus
from machined.bus.logcontrol import LogControl
from machined.bus.names import ROOT, SERVICE
from machined.bus.service import BusService
from machined.bus.systemd1 import Systemd1, updated
from machined.linux.fds import FdSet
from machined.model.core import Core
from machined.model.machine import Machine, MachineClass
from machined.model.registrar import Registration
from tests.fakes.guest import FakeConnector
from tests.fakes.polkit import FakePolkit
from tests.fakes.process import FakeProcess
from tests.fakes.sandbox import Sandbox
from tests.fakes.systemd1 import FakeSystemd1

MANAGER = "org.freedesktop.machine1.Manager"
MACHINE = "org.freedesktop.machine1.Machine"
OWN_MANAGER = "org.machined1.Manager"
OWN_MACHINE = "org.machined1.Machine"
PROPERTIES = "org.freedesktop.DBus.Properties"


class Client:
    """Somebody else on the bus. `heard` has every signal and, as ("reply", …), what `pipeline` got."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.heard: asyncio.Queue[Message] = asyncio.Queue()
        bus.on_signal = self.heard.put_nowait

    async def call(
        self,
        member: str,
        signature: str = "",
        *body: Any,
        path: str = ROOT,
        interface: str | None = MANAGER,
        **more: Any,
    ) -> Any:
        """Call the service; one value for one out argument, a list for others."""
        target = cast("str", interface)  # a call without one is legal
        reply = await self.bus.request(SERVICE, path, target, member, signature, body, **more)
        return reply[0] if len(reply) == 1 else reply

    async def call_with_fds(
        self, member: str, signature: str = "", *body: Any, **more: Any
    ) -> tuple[list[Any], FdSet]:
        return await self.bus.request_with_fds(
            SERVICE, more.pop("path", ROOT), more.pop("interface", MANAGER), member, signature, body, **more
        )

    async def get(self, path: str, interface: str, name: str) -> Any:
        return (await self.call("Get", "ss", interface, name, path=path, interface=PROPERTIES)).value

    async def get_all(self, path: str, interface: str = "") -> dict[str, Any]:
        values = await self.call("GetAll", "s", interface, path=path, interface=PROPERTIES)
        return {key: variant.value for key, variant in values.items()}

    async def introspect(self, path: str) -> str:
        return str(await self.call("Introspect", path=path, interface="org.freedesktop.DBus.Introspectable"))

    def send(self, member: str, signature: str = "", body: Sequence[Any] = (), **more: Any) -> None:
        """A call whose answer nobody waits for."""
        fields = {"path": ROOT, "interface": MANAGER, "flags": MessageFlag.NO_REPLY_EXPECTED, **more}
        self.bus.send_message(
            Message(destination=SERVICE, member=member, signature=signature, body=list(body), **fields)
        )

    async def listen(self, rule: str = f"type='signal',sender='{SERVICE}'") -> None:
        await self.bus.add_match(rule)

    async def signal(self, *members: str) -> tuple[Any, ...]:
        """The next signal (of these): its name and its values."""
        async with asyncio.timeout(10):
            while True:
                message = await self.heard.get()
                if not members or message.member in members:
                    return (message.member, *message.body)

    async def until_quiet(self) -> list[Message]:
        """Everything the service had said before it answers this."""
        await self.call("Ping", interface="org.freedesktop.DBus.Peer")
        messages = []
        while not self.heard.empty():
            messages.append(self.heard.get_nowait())
        return messages


class Served:
    """The model on the private bus. Everybody is root here; `pretend` makes callers others."""

    def __init__(
        self, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, stack: AsyncExitStack, path: str
    ) -> None:
        self.sandbox = sandbox
        self._monkeypatch = monkeypatch
        self._stack = stack
        self.path = path
        self._pids = iter(range(4_100_000, 4_200_000))
        self.polkit: FakePolkit
        self.pid1: FakeSystemd1
        self.bus: Bus
        self.core: Core
        self.service: BusService
        self.client: Client
        self.connector = FakeConnector()

    async def connect(self) -> Client:
        """One more client."""
        bus = await Bus.connect_to(self.path)
        self._stack.callback(bus.close)
        return Client(bus)

    async def start(self, version: int) -> None:
        self.pid1 = FakeSystemd1(await Bus.connect_to(self.path), version)
        self._stack.push_async_callback(self.pid1.close)
        await self.pid1.own()
        self.polkit = FakePolkit(await Bus.connect_to(self.path))
        self._stack.push_async_callback(self.polkit.close)
        await self.polkit.own()
        # As machined.daemon does it.
        self.bus = await Bus.connect_to(self.path)
        systemd = Systemd1(self.bus)
        self.bus.on_signal = systemd.handle_signal
        await systemd.start()
        assert systemd.version == version
        self.core = core = Core(
            systemd, self.connector, cleanup="/lib/cleanup", state_directory=self.sandbox.records
        )
        core.images._search_path = (self.sandbox.pool,)
        core.image_ops.pool = self.sandbox.pool
        core.roots.pool = self.sandbox.pool
        systemd.on_job_removed = core.job_removed
        systemd.wants = core.states.wants
        systemd.on_unit_changed = lambda name, changed: core.unit_changed(name, changed, updated)
        systemd.on_unit_removed = core.unit_removed
        systemd.on_reloaded = core.reloaded
        control = LogControl("debug")
        self._stack.callback(control.close)
        self.service = BusService(self.bus, core, systemd, control)
        self._stack.push_async_callback(self._stop)
        core.announce(await core.load())
        await self.service.acquire_name()
        self.client = await self.connect()

    async def _stop(self) -> None:
        await self.service.dispatcher.close()
        await self.core.close()
        if not self.bus.disconnected.done():
            await self.bus.request(DBUS, DBUS_PATH, DBUS, "ReleaseName", "s", [SERVICE])
        self.bus.close()

    def pretend(self, uid: int, pid: int | None = None) -> None:
        """From now on every caller is this user (the bus of the test knows nobody but root)."""
        real = Callers.credentials

        async def credentials(callers: Callers, sender: str) -> Credentials:
            found = await real(callers, sender)
            return Credentials(uid, pid if pid is not None else found.pid)

        self._monkeypatch.setattr(Callers, "known", lambda callers, sender: None)
        self._monkeypatch.setattr(Callers, "credentials", credentials)

    def process(self, unit: str) -> FakeProcess:
        process = FakeProcess(next(self._pids))
        self.sandbox.units[process.pid] = unit
        return process

    async def machine(self, name: str, unit: str = "", **more: Any) -> tuple[Machine, FakeProcess]:
        """A registered container that runs."""
        unit = unit or f"machine-{name}.service"
        self.pid1.units.setdefault(unit, {**_ACTIVE})
        leader = self.process(unit)
        fields: dict[str, Any] = {"name": name, "cls": MachineClass.CONTAINER, "leader": leader, **more}
        return await self.core.registrar.register(Registration(**fields)), leader

    async def running(self, name: str, unit: str = "", **more: Any) -> tuple[Machine, FakeProcess]:
        """A registered container whose guest has said that it is up."""
        found = await self.machine(name, unit, **more)
        await self.core.states.wait_until(name, lambda: self.core.states.get(name).is_up())
        return found

    async def waits_for(self, name: str) -> None:
        """Return when somebody waits for a machine."""
        async with asyncio.timeout(10):
            while not self.core.states._waiters.get(name):
                await self.client.call("Ping", interface="org.freedesktop.DBus.Peer")

    async def idle(self) -> None:
        """Return when no call is under way."""
        async with asyncio.timeout(10):
            while self.service.dispatcher._tasks:
                await self.bus.request(DBUS, DBUS_PATH, DBUS, "GetId")


_ACTIVE = {
    "ActiveState": "active",
    "SubState": "running",
    "Result": "success",
    "StatusText": "Container running: Ready.",
    "ExecMainStatus": 0,
    "FragmentPath": "",
}


@asynccontextmanager
async def served(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, path: str, version: int
) -> AsyncIterator[Served]:
    # LogControl sets up the logging of the whole process.
    root = logging.getLogger()
    level = root.level
    async with AsyncExitStack() as stack:
        made = Served(sandbox, monkeypatch, stack, path)
        await made.start(version)
        yield made
    root.setLevel(level)


def error_type(message: Message) -> bool:
    return message.message_type is MessageType.ERROR
