# SPDX-License-Identifier: LGPL-2.1-or-later

from __future__ import annotations

import pytest

from machined.model import readiness
from machined.model.errors import ServiceManagerError
from machined.model.machine import MachineClass
from machined.model.state import GUEST_READY, State
from tests.fakes.guest import FakeGuest
from tests.fakes.world import World, turns

UNIT = "machine-web.service"


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "PAUSES", (0, 0, 0))
    monkeypatch.setattr(readiness, "LATER", 0)


@pytest.mark.parametrize(
    ("says", "expected"), [("running", State.RUNNING), ("degraded", State.DEGRADED), ("", State.RUNNING)]
)
async def test_nspawn_says_when_it_is_up(
    host: World, monkeypatch: pytest.MonkeyPatch, says: str, expected: State
) -> None:
    monkeypatch.setattr(readiness, "PAUSES", (1000,))
    host.connector.guest = FakeGuest([says])
    host.systemd.emit(UNIT, ActiveState="activating", SubState="start")
    _, leader = await host.register("web")
    host.systemd.emit(UNIT, ActiveState="active", StatusText="Container running.")
    await turns()
    assert host.core.states.get("web") is State.STARTING
    assert host.connector.leaders == [], "nobody asks a guest that will be told of"
    host.systemd.emit(UNIT, StatusText=GUEST_READY)
    await turns()
    assert host.core.states.get("web") is expected
    assert [ref.pid for ref in host.connector.leaders if ref is not None] == [leader.pid]
    assert host.connector.guest.closed
    assert leader.signals == []


async def test_a_guest_without_a_bus_runs(host: World) -> None:
    host.connector.error = FileNotFoundError(2, "No such file or directory")
    await host.run("web")
    assert host.core.states.get("web") is State.RUNNING


async def test_in_a_scope_the_guest_is_asked(host: World) -> None:
    host.systemd.emit("web.scope", ActiveState="active")
    host.connector.guest = FakeGuest(["initializing", "starting", "degraded"])
    await host.register("web", "web.scope")
    await host.core.states.wait_until("web", lambda: host.core.states.get("web") is not State.STARTING)
    assert host.core.states.get("web") is State.DEGRADED
    assert len(host.connector.leaders) == 3


@pytest.mark.parametrize(
    "error",
    [ConnectionRefusedError(111, "refused"), TimeoutError(), ServiceManagerError("org.x.Y", "no")],
)
async def test_a_guest_that_never_answers_is_taken_for_running(host: World, error: Exception) -> None:
    host.systemd.emit("web.scope", ActiveState="active")
    host.connector.error = error
    await host.register("web", "web.scope")
    await host.core.states.wait_until("web", lambda: host.core.states.get("web") is not State.STARTING)
    assert host.core.states.get("web") is State.RUNNING


async def test_virtual_machines_are_not_asked(host: World) -> None:
    host.systemd.emit("web.scope", ActiveState="active")
    await host.register("web", "web.scope", cls=MachineClass.VM)
    await turns()
    assert host.core.states.get("web") is State.RUNNING
    assert host.connector.leaders == []


async def test_a_machine_that_ends_first(host: World) -> None:
    host.systemd.emit(UNIT, ActiveState="activating")
    machine, _ = await host.register("web")
    await turns()
    host.core.registrar.unregister(machine)
    await turns()
    assert host.core.readiness._tasks == {}
