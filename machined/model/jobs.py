# SPDX-License-Identifier: LGPL-2.1-or-later
"""Jobs: one thing under way for a machine, with a result that everybody hears of."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from machined.model import log as journal
from machined.model.errors import MachineError, Problem, ServiceManagerError

log = logging.getLogger(__name__)

# Jobs under way at once, over all machines.
MAX_JOBS: Final = 4096


class Verb(StrEnum):
    START = "start"
    STOP = "stop"
    REBOOT = "reboot"
    CREATE = "create"


class Result(StrEnum):
    DONE = "done"
    FAILED = "failed"
    CANCELED = "canceled"
    TIMEOUT = "timeout"


class JobTimeoutError(Exception):
    """A time limit of a job is over; the text says which."""


@dataclass(slots=True, eq=False)
class Job:
    """A job; `task` does the work and returns a remark for people (often empty)."""

    id: int
    machine: str
    verb: Verb
    level: int = 0  # how hard it goes about it; a harder one replaces a softer one
    task: asyncio.Task[None] | None = field(default=None, repr=False)
    over: asyncio.Event = field(default_factory=asyncio.Event, repr=False)
    result: Result | None = None

    def cancel(self) -> None:
        if self.task is not None:
            self.task.cancel()


Work = Callable[[], Awaitable[str]]


class Jobs:
    """At most one job for each machine. Listeners: on_new(job), on_removed(job, result, message)."""

    def __init__(self) -> None:
        self._jobs: dict[int, Job] = {}
        self._by_machine: dict[str, Job] = {}
        self._ids = itertools.count(1)
        self._why_canceled = "The job was canceled."
        self.on_new: list[Callable[[Job], None]] = []
        self.on_removed: list[Callable[[Job, Result, str], None]] = []

    def __iter__(self) -> Iterator[Job]:
        return iter(list(self._jobs.values()))

    def get(self, job_id: int) -> Job | None:
        return self._jobs.get(job_id)

    def of_machine(self, name: str) -> Job | None:
        return self._by_machine.get(name)

    async def settle(self, name: str, verb: Verb, level: int = 0) -> Job | None:
        """Make way for a job: the same verb under way is returned to be joined, a start yields to a stop.

        A stop of a harder level replaces a softer one.

        Raises MachineError (JOB_RUNNING) when what is under way cannot be joined or replaced.
        """
        while (job := self._by_machine.get(name)) is not None:
            if job.verb is verb and job.level >= level:
                return job
            if verb is not Verb.STOP:
                raise MachineError(
                    Problem.JOB_RUNNING,
                    f"Machine '{name}' has a job under way already ({job.verb}, number {job.id}); "
                    f"wait for its end or stop the machine.",
                )
            job.cancel()
            await job.over.wait()
        return None

    def start(self, name: str, verb: Verb, work: Work, level: int = 0) -> Job:
        """Begin a job; call settle() first, without waiting for anything in between."""
        if len(self._jobs) >= MAX_JOBS:
            raise MachineError(Problem.LIMITS_EXCEEDED, f"Too many jobs are under way already ({MAX_JOBS}).")
        assert name not in self._by_machine
        job = Job(next(self._ids), name, verb, level)
        self._jobs[job.id] = self._by_machine[name] = job
        for listener in self.on_new:
            listener(job)
        job.task = asyncio.get_running_loop().create_task(self._run(job, work), name=f"{verb} {name}")
        # A task that is cancelled before its first step never enters its coroutine.
        job.task.add_done_callback(lambda _: self._end(job, Result.CANCELED, self._why_canceled))
        return job

    async def _run(self, job: Job, work: Work) -> None:
        try:
            self._end(job, Result.DONE, await work())
        except asyncio.CancelledError:
            self._end(job, Result.CANCELED, self._why_canceled)
        except JobTimeoutError as error:
            self._end(job, Result.TIMEOUT, str(error))
        except (MachineError, ServiceManagerError) as error:
            self._end(job, Result.FAILED, error.text)
        except OSError as error:
            self._end(job, Result.FAILED, error.strerror or str(error))
        except Exception:
            log.exception("Job '%s' of machine '%s' broke", job.verb, job.machine)
            message = "An internal error occurred, the journal of systemd-machined.service has it."
            self._end(job, Result.FAILED, message)

    def _end(self, job: Job, result: Result, message: str) -> None:
        """Tell everybody how a job ended. Idempotent."""
        if job.result is not None:
            return
        job.result = result
        del self._jobs[job.id], self._by_machine[job.machine]
        job.over.set()
        journal.job_ended(job.machine, job.verb, result, message)
        for listener in self.on_removed:
            listener(job, result, message)

    async def close(self) -> None:
        """Stop working on everything; what was begun with PID 1 goes on without us."""
        self._why_canceled = "machined is going down; what PID 1 was asked for goes on."
        tasks = [job.task for job in self._jobs.values() if job.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
