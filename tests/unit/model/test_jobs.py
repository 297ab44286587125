# SPDX-License-Identifier: LGPL-2.1-or-later

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

import pytest

from machined.model import jobs as module
from machined.model.errors import MachineError, Problem, ServiceManagerError
from machined.model.jobs import Job, Jobs, JobTimeoutError, Result, Verb
from tests.fakes.world import turns

START, STOP, REBOOT = Verb.START, Verb.STOP, Verb.REBOOT


class Heard(Jobs):
    """Jobs with everything its listeners heard."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[tuple[object, ...]] = []
        self.on_new.append(lambda job: self.heard.append(("new", job.id, job.machine, job.verb)))
        self.on_removed.append(
            lambda job, result, text: self.heard.append(("removed", job.id, result, text))
        )


@pytest.fixture
def jobs() -> Heard:
    return Heard()


def ends(outcome: str | Exception) -> Callable[[], Awaitable[str]]:
    async def work() -> str:
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    return work


class Endless:
    """Work that goes on until it is cancelled or told to end."""

    def __init__(self) -> None:
        self.begun = False
        self.end = asyncio.Event()

    async def __call__(self) -> str:
        self.begun = True
        await self.end.wait()
        return ""


async def test_a_job(jobs: Heard) -> None:
    job = jobs.start("web", START, ends("a remark"))
    assert jobs.get(job.id) is job
    assert jobs.of_machine("web") is job
    assert list(jobs) == [job]
    await job.over.wait()
    assert job.result is Result.DONE
    assert (jobs.get(job.id), jobs.of_machine("web"), list(jobs)) == (None, None, [])
    assert jobs.heard == [("new", 1, "web", START), ("removed", 1, Result.DONE, "a remark")]


async def test_numbers_are_used_once(jobs: Heard) -> None:
    first = jobs.start("web", START, ends(""))
    await first.over.wait()
    second = jobs.start("web", STOP, ends(""))
    await second.over.wait()
    assert (first.id, second.id) == (1, 2)


@pytest.mark.parametrize(
    ("error", "result", "text"),
    [
        (MachineError(Problem.FAILED, "It is broken."), Result.FAILED, "It is broken."),
        (ServiceManagerError("org.x.Y", "PID 1 says no."), Result.FAILED, "PID 1 says no."),
        (OSError(13, "Permission denied"), Result.FAILED, "Permission denied"),
        (ConnectionResetError("the bus was lost"), Result.FAILED, "the bus was lost"),
        (JobTimeoutError("Too slow."), Result.TIMEOUT, "Too slow."),
    ],
)
async def test_how_jobs_fail(jobs: Heard, error: Exception, result: Result, text: str) -> None:
    job = jobs.start("web", START, ends(error))
    await job.over.wait()
    assert jobs.heard[-1] == ("removed", 1, result, text)


async def test_a_bug_is_logged_and_not_told(jobs: Heard, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        job = jobs.start("web", START, ends(RuntimeError("secret")))
        await job.over.wait()
    assert job.result is Result.FAILED
    assert "secret" not in str(jobs.heard[-1])
    assert "RuntimeError: secret" in caplog.text


async def test_cancel(jobs: Heard) -> None:
    job = jobs.start("web", START, Endless())
    await turns()
    job.cancel()
    await job.over.wait()
    assert jobs.heard[-1] == ("removed", 1, Result.CANCELED, "The job was canceled.")


async def test_cancel_before_it_began(jobs: Heard) -> None:
    """Two calls in one turn of the loop: the work was never entered, and the job still ends once."""
    work = Endless()
    job = jobs.start("web", START, work)
    job.cancel()
    job.cancel()
    async with asyncio.timeout(5):
        await job.over.wait()
    assert not work.begun
    assert job.result is Result.CANCELED
    assert list(jobs) == []
    assert jobs.of_machine("web") is None
    assert jobs.heard == [("new", 1, "web", START), ("removed", 1, Result.CANCELED, "The job was canceled.")]


async def test_join(jobs: Heard) -> None:
    work = Endless()
    job = jobs.start("web", START, work)
    assert await jobs.settle("web", START) is job
    assert await jobs.settle("db", START) is None
    work.end.set()
    await job.over.wait()


@pytest.mark.parametrize("under_way", [START, REBOOT])
async def test_everything_yields_to_a_stop(jobs: Heard, under_way: Verb) -> None:
    job = jobs.start("web", under_way, Endless())
    assert await jobs.settle("web", STOP) is None
    assert job.result is Result.CANCELED
    assert jobs.of_machine("web") is None


@pytest.mark.parametrize(
    ("under_way", "asked"), [(STOP, START), (STOP, REBOOT), (START, REBOOT), (REBOOT, START)]
)
async def test_what_cannot_be_joined(jobs: Heard, under_way: Verb, asked: Verb) -> None:
    work = Endless()
    job = jobs.start("web", under_way, work)
    with pytest.raises(
        MachineError, match=rf"'web' has a job under way already \({under_way}, number 1\)"
    ) as e:
        await jobs.settle("web", asked)
    assert e.value.problem is Problem.JOB_RUNNING
    work.end.set()
    await job.over.wait()


async def test_two_stops_at_once(jobs: Heard) -> None:
    """Both wait for the start to give way; one begins, the other joins."""

    async def stop() -> Job:
        return await jobs.settle("web", STOP) or jobs.start("web", STOP, ends(""))

    jobs.start("web", START, Endless())
    first, second = await asyncio.gather(stop(), stop())
    assert first is second
    await first.over.wait()


async def test_limit(jobs: Heard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_JOBS", 2)
    begun = [jobs.start(name, START, Endless()) for name in ("a", "b")]
    with pytest.raises(MachineError) as raised:
        jobs.start("c", START, Endless())
    assert raised.value.problem is Problem.LIMITS_EXCEEDED
    await jobs.close()
    assert [job.result for job in begun] == [Result.CANCELED] * 2
    assert list(jobs) == []


async def test_a_listener_may_begin_the_next(jobs: Heard) -> None:
    async def after(first: Job) -> Job:
        await first.over.wait()
        return jobs.start("web", STOP, ends(""))

    second = await after(jobs.start("web", START, ends("")))
    await second.over.wait()
    assert [row[0] for row in jobs.heard] == ["new", "removed", "new", "removed"]
