# SPDX-License-Identifier: LGPL-2.1-or-later

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from machined.model.errors import ServiceManagerError
from machined.model.machine import Phase
from tests.fakes.process import FakeProcess
from tests.fakes.sandbox import Sandbox
from tests.fakes.systemd import NO_REPLY, raising
from tests.fakes.world import World, turns

UNIT = "machine-web.service"
JOB = "/org/freedesktop/systemd1/job/99"


@pytest.mark.parametrize("version", [257, 262], indirect=True)
@pytest.mark.parametrize("leader_alive", [True, False])
@pytest.mark.parametrize("active", ["active", "reloading", "deactivating", "inactive", "failed", None])
@pytest.mark.parametrize("job", [None, "pending", "gone"])
async def test_rules(host: World, leader_alive: bool, active: str | None, job: str | None) -> None:
    """Up to 257 unit and job decide; from 258 on a living leader keeps its machine as well."""
    machine, leader = await host.register("web")
    leader.dead = not leader_alive
    await turns()
    machine.stopping = True  # nobody else takes it out meanwhile
    host.systemd.known.pop(UNIT)
    host.core.collector.held = True
    if active is not None:
        host.systemd.emit(UNIT, ActiveState=active)
    if job is not None:
        machine.scope_job = JOB
    if job == "pending":
        host.systemd._job(JOB)
    unit_lives = active in {"active", "reloading", "deactivating"}
    kept = unit_lives or job == "pending" or (leader_alive and host.core.version >= 258)
    assert await host.core.collector.is_over(machine) is not kept
    machine.scope_job = ""


async def test_a_unit_that_is_started_again_keeps_its_machine(host: World) -> None:
    machine, _ = await host.register("web")
    host.systemd.emit(UNIT, ActiveState="activating", SubState="auto-restart")
    assert not await host.core.collector.is_over(machine)


@pytest.mark.parametrize("method", ["unit", "job_exists"])
@pytest.mark.parametrize(
    "error", [NO_REPLY, ServiceManagerError("org.freedesktop.DBus.Error.Failed", "whatever")]
)
async def test_no_answer_is_no_reason(host: World, method: str, error: ServiceManagerError) -> None:
    machine, leader = await host.register("web")
    await turns()
    machine.scope_job = JOB
    leader.dead = True
    host.systemd.known.pop(UNIT)
    host.systemd.hooks[method] = raising(error)
    assert not await host.core.collector.is_over(machine)
    machine.scope_job = ""


async def test_never_the_host(host: World) -> None:
    await host.core.load()
    assert not await host.core.collector.is_over(host.core.registry.find(".host"))


async def test_without_a_leader(host: World) -> None:
    machine, _ = await host.register("web")
    host.systemd.emit(UNIT, ActiveState="active")
    machine.leader_pid = 0
    assert await host.core.collector.is_over(machine)


async def test_nobody_is_taken_out_while_records_are_adopted(sandbox: Sandbox) -> None:
    """Half of the facts are not in yet."""
    host = World(sandbox, 257)
    host.systemd.emit(UNIT, ActiveState="active")
    machine, _ = await host.register("web")
    host.systemd.emit(UNIT, ActiveState="inactive")
    host.systemd.remove(UNIT)
    await turns(30)
    assert host.core.registry.get("web") is machine
    host.core.announce([])
    await turns(30)
    assert host.core.registry.get("web") is None
    await host.core.close()


@pytest.mark.parametrize("version", [257, 262], indirect=True)
async def test_in_a_part_of_its_unit(host: World) -> None:
    """The unit of a user goes on with what else is in it."""
    host.systemd.emit("user@1.service", ActiveState="active")
    machine, leader = await host.register("web", "user@1.service", uid=1)
    machine.subgroup = "machine.slice/x.service/payload"
    assert not await host.core.collector.is_over(machine)
    leader.dead = True
    assert await host.core.collector.is_over(machine)


@pytest.mark.parametrize("version", [262], indirect=True)
async def test_who_was_to_end_it_has_gone_as_well(host: World) -> None:
    host.systemd.emit("session-1.scope", ActiveState="inactive")
    machine, leader = await host.register("web", "session-1.scope", uid=1, supervisor=host.process())
    supervisor = machine.supervisor
    assert isinstance(supervisor, FakeProcess)
    leader.dead = supervisor.dead = True
    await host.core.collector.collect(machine)
    assert host.core.registry.get("web") is None


async def test_collects_when_the_unit_ends(host: World) -> None:
    heard: list[str] = []
    host.core.registry.on_removed.append(lambda m: heard.append(m.name))
    machine, leader = await host.register("web")
    host.systemd.emit(UNIT, ActiveState="active")
    # A unit may be over with processes left: they are told to go before the machine is given up.
    host.systemd.hooks["stop_unit"] = lambda *_: host.systemd.finish(host.systemd.last_job(), UNIT)
    host.systemd.emit(UNIT, ActiveState="inactive")
    await turns(30)
    assert heard == ["web"]
    assert host.systemd.called("stop_unit") == [(UNIT, "fail")]
    assert leader.closed
    assert machine.phase is Phase.CLOSING


async def test_waits_for_the_stop_it_asked_for(host: World) -> None:
    await host.register("web")
    host.systemd.emit(UNIT, ActiveState="inactive", Result="success")
    await turns(30)
    assert host.core.registry.get("web") is not None
    host.systemd.finish(host.systemd.last_job(), UNIT)
    await turns(30)
    assert host.core.registry.get("web") is None


@pytest.mark.parametrize(
    "event",
    ["unit_removed", "job_removed", "reloaded", "leader"],
)
async def test_what_makes_it_look(host: World, event: str) -> None:
    _, leader = await host.register("web")
    await turns()
    host.systemd.known.pop(UNIT)
    match event:
        case "unit_removed":
            host.systemd.remove(UNIT)
        case "job_removed":
            host.systemd.finish(JOB, UNIT)
        case "reloaded":
            host.core.reloaded()
        case "leader":
            leader.die()
    await turns(40)
    assert host.core.registry.get("web") is None


@pytest.mark.parametrize("version", [257, 262], indirect=True)
async def test_a_dead_leader_alone_is_no_end(host: World) -> None:
    host.systemd.emit(UNIT, ActiveState="active")
    _, leader = await host.register("web")
    leader.die()
    await turns(30)
    assert host.core.registry.get("web") is not None


async def test_other_units_do_not_matter(host: World) -> None:
    await host.register("web")
    await turns()
    before = len(host.systemd.calls)
    host.systemd.emit("cron.service", ActiveState="inactive")
    host.systemd.remove("cron.service")
    await turns()
    assert len(host.systemd.calls) == before


async def test_gone_while_pid_1_was_asked(host: World) -> None:
    """Somebody else takes the machine out during the question, and the name is used again."""
    machine, _ = await host.register("web")
    answer = asyncio.Event()
    asked = asyncio.Event()

    async def slowly(*_: Any) -> None:
        asked.set()
        await answer.wait()

    host.systemd.hooks["unit"] = slowly
    host.core.collector.enqueue(machine)
    await asked.wait()
    host.core.registrar.unregister(machine)
    again, _ = await host.register("web")
    del host.systemd.hooks["unit"]
    answer.set()
    await turns(30)
    assert host.core.registry.get("web") is again


async def test_the_unit_goes_while_it_is_looked_at(host: World) -> None:
    """The answer says that it is up, and the word that it has gone is processed before the answer."""
    asked, answer = asyncio.Event(), asyncio.Event()
    looks = 0

    async def slowly(name: str) -> None:
        nonlocal looks
        looks += 1
        if looks == 1:
            asked.set()
            await answer.wait()
        else:
            host.systemd.known.pop(UNIT, None)

    host.systemd.hooks["unit"] = slowly
    await host.register("web")
    await asked.wait()
    host.core.unit_removed(UNIT)
    answer.set()
    await turns(30)
    assert looks > 1
    assert host.core.registry.get("web") is None
