# SPDX-License-Identifier: LGPL-2.1-or-later

from __future__ import annotations

import asyncio
import itertools

import pytest

from machined.model.machine import Machine, MachineClass
from machined.model.ports import Unit
from machined.model.registry import Registry
from machined.model.state import State, States, machine_of_unit, unit_of_machine
from tests.fakes.world import turns

UNIT = "machine-web.service"
STARTING, RUNNING, DEGRADED = State.STARTING, State.RUNNING, State.DEGRADED
STOPPING, FAILED, STOPPED = State.STOPPING, State.FAILED, State.STOPPED

Change = tuple[str, State, State]


class Watched:
    """States with everything its listeners heard."""

    def __init__(self) -> None:
        self.registry = Registry()
        self.states = States(self.registry)
        self.heard: list[Change] = []
        self.states.changed.append(lambda *change: self.heard.append(change))

    def unit(self, active: str, sub: str = "", *, result: str = "success", status: str = "") -> None:
        self.states.unit_changed(Unit(UNIT, active, sub, result, status))

    def register(self, **more: object) -> Machine:
        machine = Machine("web", **{"cls": MachineClass.CONTAINER, "unit": UNIT, **more})  # type: ignore[arg-type]
        self.registry.add(machine)
        self.registry.announce(machine)
        return machine

    def unregister(self) -> None:
        machine = self.registry.find("web")
        self.registry.remove(machine)
        self.registry.announce_removed(machine)

    @property
    def now(self) -> State:
        return self.states.get("web")

    def path(self) -> list[State]:
        """The states since the last call; each begins where the one before ended."""
        for (_, new, _), (_, _, old) in itertools.pairwise(self.heard):
            assert new is old
        assert all(new is not old for _, new, old in self.heard)
        path = [new for _, new, _ in self.heard]
        self.heard.clear()
        return path


@pytest.fixture
def web() -> Watched:
    return Watched()


def test_units_of_machines() -> None:
    assert unit_of_machine("a-b.c") == "machine-a-b.c.service"
    assert machine_of_unit("machine-a-b.c.service") == "a-b.c"
    assert machine_of_unit("machine-a.scope") is None
    assert machine_of_unit("systemd-nspawn@a.service") is None


@pytest.mark.parametrize(
    ("active", "guest", "result", "expected"),
    [
        (None, None, "", STOPPED),
        (None, None, "exit-code", FAILED),
        ("inactive", None, "", STOPPED),
        ("failed", None, "", FAILED),
        ("activating", None, "", STARTING),
        ("activating", RUNNING, "", STARTING),  # auto-restart
        ("active", None, "", STARTING),  # between nspawn's start and its registration
        ("active", RUNNING, "", STOPPING),  # between its unregistration and its end
        ("reloading", RUNNING, "", STOPPING),
        ("deactivating", None, "", STOPPING),
        ("deactivating", RUNNING, "", STOPPING),
    ],
)
def test_without_a_registration(
    web: Watched, active: str | None, guest: State | None, result: str, expected: State
) -> None:
    record = web.states._ensure("web")
    record.guest, record.result = guest, result
    if active is not None:
        web.unit(active)
    assert web.now is expected


@pytest.mark.parametrize("cls", [MachineClass.CONTAINER, MachineClass.VM])
@pytest.mark.parametrize("active", [None, "activating", "active", "deactivating", "inactive", "failed"])
@pytest.mark.parametrize("guest", [None, RUNNING, DEGRADED])
@pytest.mark.parametrize("closing", ["", "machine", "record"])
@pytest.mark.parametrize("scope_job", ["", "/job/1"])
def test_with_a_registration(
    web: Watched, cls: MachineClass, active: str | None, guest: State | None, closing: str, scope_job: str
) -> None:
    machine = web.register(cls=cls, scope_job=scope_job)
    record = web.states._ensure("web")
    record.guest = guest
    machine.stopping = closing == "machine"
    record.stopping = closing == "record"
    if active is not None:
        web.unit(active)
    if closing or active == "deactivating":
        expected = STOPPING
    elif scope_job or active == "activating":
        expected = STARTING
    elif cls is MachineClass.VM:
        expected = RUNNING
    else:
        expected = guest or STARTING
    assert web.now is expected


def test_the_host_runs(web: Watched) -> None:
    web.registry.add(Machine(".host", MachineClass.HOST))
    assert web.states.get(".host") is RUNNING


def test_a_whole_life(web: Watched) -> None:
    web.unit("activating", "start")
    web.unit("activating", "start", status="Container running.")
    machine = web.register()
    web.unit("active", "running", status="Container running: Ready.")
    assert web.path() == [STARTING], "the guest's word decides between running and degraded"
    web.states.guest_says(machine, RUNNING)
    assert web.path() == [RUNNING]
    web.states.guest_says(machine, DEGRADED)
    web.states.guest_says(machine, DEGRADED)
    assert web.path() == [DEGRADED]
    web.states.stop_under_way("web", True)
    web.unit("deactivating", "stop-sigterm")
    web.unregister()
    web.unit("inactive", "dead")
    assert web.path() == [STOPPING, STOPPED]
    web.states.stop_under_way("web", False)
    assert web.path() == []
    assert web.states.known() == []


def test_reboot_by_the_guest(web: Watched) -> None:
    """The unit ends with 133 and is started again: the name is never free in between."""
    web.unit("activating", "start")
    web.states.guest_says(web.register(), RUNNING)
    web.unit("active", "running")
    web.path()
    web.unregister()
    assert web.path() == [STOPPING]
    web.unit("activating", "auto-restart")
    web.unit("activating", "start")
    assert web.path() == [STARTING]
    machine = web.register()
    web.unit("active", "running")
    assert web.now is STARTING, "what the run before said counts no more"
    web.states.guest_says(machine, RUNNING)
    assert web.path() == [RUNNING]


def test_a_run_that_fails(web: Watched) -> None:
    web.unit("activating")
    web.unit("failed", "failed", result="exit-code")
    assert web.path() == [STARTING, FAILED]
    assert web.states.record("web").result == "exit-code"
    assert web.states.known() == ["web"]
    web.unit("activating")
    assert web.states.record("web").result == ""
    assert web.path() == [STARTING]


def test_a_start_that_no_unit_tells_of(web: Watched) -> None:
    web.states.run_failed("web", "dependency")
    assert web.path() == [FAILED]
    assert web.states.record("web").result == "dependency"


def test_registration_forgives(web: Watched) -> None:
    web.states.run_failed("web", "exit-code")
    web.register()
    assert web.states.record("web").result == ""
    assert web.path() == [FAILED, STARTING]


def test_the_unit_of_the_registration_counts(web: Watched) -> None:
    web.unit("failed")
    web.register(unit="user.scope")
    web.states.unit_changed(Unit("user.scope", "active"))
    assert web.now is STARTING
    assert web.states.unit("web") == Unit("user.scope", "active")
    web.states.unit_changed(Unit("user.scope", "deactivating"))
    assert web.now is STOPPING


def test_a_unit_is_followed_after_the_machine_has_unregistered(web: Watched) -> None:
    """The stock template's machine says good-bye before its unit ends."""
    machine = web.register(unit="systemd-nspawn@web.service")
    web.states.unit_changed(Unit("systemd-nspawn@web.service", "active"))
    web.states.guest_says(machine, RUNNING)
    web.unregister()
    assert web.now is STOPPING
    assert web.states.wants("systemd-nspawn@web.service")
    web.states.unit_changed(Unit("systemd-nspawn@web.service", "inactive", result="success"))
    assert web.now is STOPPED
    assert not web.states.wants("systemd-nspawn@web.service")


def test_starting_is_a_fact_of_its_own(web: Watched) -> None:
    """PID 1 is asked and has not told of the unit."""
    web.states.start_under_way("web", True)
    web.states.start_under_way("web", True)
    assert web.path() == [STARTING]
    assert web.states.known() == ["web"]
    web.states.start_under_way("web", False)
    assert web.path() == [STOPPED]
    assert web.states.known() == []


def test_wants(web: Watched) -> None:
    web.register(unit="user.scope")
    assert web.states.wants("user.scope")
    assert web.states.wants("machine-other.service")
    assert not web.states.wants("cron.service")


def test_a_guest_of_the_run_before_says_nothing(web: Watched) -> None:
    old = web.register()
    web.unregister()
    web.register()
    web.states.guest_says(old, RUNNING)
    assert web.now is STARTING


def test_since(web: Watched) -> None:
    web.unit("activating")
    first = web.states.record("web").since
    assert first
    web.unit("activating", "start")
    assert web.states.record("web").since == first


async def test_wait_until(web: Watched) -> None:
    waiting = [asyncio.ensure_future(web.states.wait_until("web", lambda: web.now is RUNNING)) for _ in "ab"]
    await turns()
    web.unit("activating")
    machine = web.register()
    await turns()
    assert not any(task.done() for task in waiting)
    web.unit("active", "running")
    web.states.guest_says(machine, RUNNING)
    await asyncio.gather(*waiting)
    assert web.states._waiters == {}


async def test_waiting_for_what_holds(web: Watched) -> None:
    await web.states.wait_until("web", lambda: True)


async def test_a_waiter_that_gives_up(web: Watched) -> None:
    task = asyncio.ensure_future(web.states.wait_change("web"))
    await turns()
    task.cancel()
    await turns()
    assert task.cancelled()
    assert web.states._waiters == {}
