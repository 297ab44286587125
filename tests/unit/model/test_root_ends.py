# SPDX-License-Identifier: LGPL-2.1-or-later
"""When what a machine runs on is taken away: at each of its ends, and never before."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest

from machined.model import core, rootrecord, unit, userranges
from machined.model.errors import MachineError, Problem, ServiceManagerError
from machined.model.jobs import Result
from machined.model.state import State
from tests.fakes.roots import Operations, found, locked, scratch
from tests.fakes.systemd import NO_REPLY, raising
from tests.fakes.world import World, turns


def nothing_is_held(host: World) -> bool:
    image = found(host, "web")
    return (
        host.core.roots.get("one") is None
        and not locked(image, by_readers=True)
        and not list(rootrecord.recorded())
        and os.listdir(userranges.LOCKS) == []
    )


@pytest.mark.parametrize("result", ["dependency", "canceled", "timeout", "failed"])
async def test_a_unit_that_never_was_up(host: World, operations: Operations, result: str) -> None:
    """No event tells of its end, so the end of the job does."""
    host.sandbox.image("web")
    host.systemd.hooks["start_transient"] = lambda unit, *_: host.systemd.finish(
        host.systemd.last_job(), unit, result
    )
    job = await host.core.lifecycle.start("one", "web", ephemeral=True)
    await job.over.wait()
    assert job.result is Result.FAILED
    assert nothing_is_held(host)
    await turns()
    assert not scratch(host)


async def test_a_start_that_was_cancelled_and_fails(host: World, operations: Operations) -> None:
    host.sandbox.image("web")
    asked = asyncio.Event()
    host.systemd.hooks["job_result"] = lambda job: asked.set()
    job = await host.core.lifecycle.start("one", "web", ephemeral=True)
    async with asyncio.timeout(5):
        await asked.wait()
    job.cancel()
    await job.over.wait()
    assert host.core.roots.get("one") is not None, "PID 1 has not said yet what became of it"
    host.systemd.finish(host.systemd.last_job(), "machine-one.service", "canceled")
    await turns()
    assert nothing_is_held(host)


async def test_a_start_that_nobody_could_write_down(
    host: World, operations: Operations, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.sandbox.image("web")
    monkeypatch.setattr(unit, "properties", raising(MachineError(Problem.FAILED, "no")))
    job = await host.core.lifecycle.start("one", "web", ephemeral=True)
    await job.over.wait()
    assert job.result is Result.FAILED
    assert nothing_is_held(host)


async def test_a_start_that_pid_1_does_not_answer_to(
    host: World, operations: Operations, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have begun: nothing is taken away before that is known."""
    monkeypatch.setattr(core, "ASK_AGAIN", (0,))
    host.sandbox.image("web")
    for call in ("start_transient", "unit", "has_job"):
        host.systemd.hooks[call] = raising(NO_REPLY)
    job = await host.core.lifecycle.start("one", "web", ephemeral=True)
    await job.over.wait()
    await turns(100)
    assert host.core.roots.get("one") is not None
    del host.systemd.hooks["unit"], host.systemd.hooks["has_job"]
    await turns(100)
    assert nothing_is_held(host)


@pytest.mark.parametrize("asked", ["unit", "has_job"])
async def test_pid_1_does_not_tell_of_an_end(
    host: World, operations: Operations, monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    """However long: what a machine may still run on is not taken away."""
    monkeypatch.setattr(core, "ASK_AGAIN", (0, 0))
    host.sandbox.image("web")
    host.boots()
    job = await host.core.lifecycle.start("one", "web")
    await job.over.wait()
    host.systemd.hooks[asked] = raising(NO_REPLY)
    host.ends(host.core.registry.find("one"))
    await turns(100)
    assert host.core.roots.get("one") is not None
    del host.systemd.hooks[asked]
    await turns(100)
    assert nothing_is_held(host)


async def test_an_image_that_is_just_being_given_back(host: World, operations: Operations) -> None:
    """Whoever starts it right after a machine on it has crashed is not told that it runs."""
    host.sandbox.image("web")
    host.boots()
    await (await host.core.lifecycle.start("one", "web")).over.wait()
    answer = asyncio.Event()
    host.systemd.hooks["has_job"] = lambda unit: answer.wait()
    host.ends(host.core.registry.find("one"), failed=True)
    asking = asyncio.ensure_future(host.core.lifecycle.start("web"))
    await turns()
    assert not asking.done()
    answer.set()
    async with asyncio.timeout(3):
        job = await asking
        await job.over.wait()
    assert job.result is Result.DONE


async def test_a_start_that_pid_1_refuses(host: World, operations: Operations) -> None:
    host.sandbox.image("web")
    host.systemd.hooks["start_transient"] = raising(ServiceManagerError("org.example.No", "no"))
    job = await host.core.lifecycle.start("one", "web", ephemeral=True)
    await job.over.wait()
    assert job.result is Result.FAILED
    await turns()
    assert host.core.roots.get("one") is None
    assert not scratch(host)


async def test_the_end_of_the_unit_is_the_end_of_its_root(host: World, operations: Operations) -> None:
    host.sandbox.image("web")
    host.boots()
    job = await host.core.lifecycle.start("one", "web")
    await job.over.wait()
    assert job.result is Result.DONE
    command = host.systemd.transient["machine-one.service"]["ExecStart"][0][1]
    assert f"--directory={host.sandbox.roots / 'one'}" in command
    assert "--link-journal=no" in command
    assert host.core.states.get("one") is State.RUNNING
    host.systemd.queued.add("machine-one.service")
    host.ends(host.core.registry.find("one"))
    await turns(50)
    assert host.core.roots.get("one") is not None, "it is about to start again"
    host.systemd.queued.clear()
    async with asyncio.timeout(5):
        await host.core.states.wait_until("one", lambda: host.core.roots.get("one") is None)
    await turns()
    assert not scratch(host)


async def test_the_end_of_one_run_takes_nothing_from_the_next(host: World, operations: Operations) -> None:
    """What is told late of the run before comes while the next one is being prepared."""
    host.sandbox.image("web")
    seen = []
    plan = host.core.belongings.devices.prepare

    async def late(*args: Any) -> Any:
        host.core.release("one")
        await turns()
        return await plan(*args)

    host.core.belongings.devices.prepare = late  # type: ignore[method-assign, assignment]

    def started(unit: str, *_: object) -> None:
        seen.append(host.core.roots.get("one"))
        host.systemd.finish(host.systemd.last_job(), unit, "failed")

    host.systemd.hooks["start_transient"] = started
    job = await host.core.lifecycle.start("one", "web", ephemeral=True)
    await job.over.wait()
    assert len(seen) == 1
    assert seen[0] is not None
    await turns()
    assert nothing_is_held(host)
