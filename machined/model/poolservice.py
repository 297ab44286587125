# SPDX-License-Identifier: LGPL-2.1-or-later
"""The pool's file, as the daemon has it made, grown and removed.

Making and removing is a unit of its own, machined-pool.service: it goes on when the daemon ends, and may do
what our own service may not. Growing is a matter of milliseconds.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from typing import Final

from machined.linux.worker import Workers
from machined.model import poolfile, rootrecord
from machined.model.errors import MachineError, Problem, ServiceManagerError
from machined.model.jobs import Jobs
from machined.model.poolfile import PoolState
from machined.model.ports import ServiceManager, UnitProperty
from machined.model.registry import Registry

log = logging.getLogger(__name__)

UNIT: Final = "machined-pool.service"


class PoolService:
    """The file of one host's pool. `program` is the installed machined.poolctl."""

    def __init__(
        self,
        registry: Registry,
        jobs: Jobs,
        systemd: ServiceManager,
        short: Workers,
        pool: Callable[[], str],
        program: str,
    ) -> None:
        self._registry = registry
        self._jobs = jobs
        self._systemd = systemd
        self._short = short
        self._pool = pool
        self._program = program
        self._turn = asyncio.Lock()
        self._recovering: asyncio.Future[None] | None = None

    def state(self) -> PoolState:
        """Raises OSError when there is no pool."""
        return poolfile.state(self._pool())

    # -- making and removing -------------------------------------------------------------------------------

    async def create(self, size: int) -> None:
        """Move the pool into a file of this size (bytes, 0: a sensible one). Raises MachineError."""
        if size > poolfile.MAXIMUM:
            raise MachineError(Problem.INVALID_ARGS, "Size of the pool out of range")
        self._check_free()
        await self._run("create", str(size))

    async def remove(self) -> None:
        """Move the pool back into a plain directory. Raises MachineError."""
        self._check_free()
        await self._run("remove")

    def begin_recovery(self) -> None:
        """Have taken away what a run that was killed has left, if there is something."""
        if poolfile.place().has_leftovers:
            self._recovering = asyncio.ensure_future(self._recover())

    async def close(self) -> None:
        """Wait for nothing any more; the unit goes on."""
        if self._recovering is not None:
            self._recovering.cancel()
            await asyncio.wait([self._recovering])

    async def _recover(self) -> None:
        try:
            poolfile.check_idle()
            await self._run("recover")
        except MachineError as error:
            if error.problem is not Problem.JOB_RUNNING:
                log.warning("Cannot take back what is left of moving the pool, ignoring: %s", error)

    def _check_free(self) -> None:
        poolfile.check_idle()
        for job in self._jobs:
            raise MachineError(
                Problem.IMAGE_BUSY,
                f"Machine '{job.machine}' is on its way up or down ({job.verb}); wait until that is over.",
            )
        # Trees that we mount for machines have their parts in the pool.
        places = f"{self._pool()}/", f"{rootrecord.RUNTIME}/"
        for machine in self._registry:
            # What an unprivileged user claims about its own machine is in nobody's way.
            inside = f"{os.path.realpath(machine.root_directory or '/')}/".startswith(places)
            if machine.uid == 0 and not machine.is_host() and inside:
                raise MachineError(
                    Problem.IMAGE_BUSY,
                    f"Machine '{machine.name}' runs from the pool; power that off first.",
                )

    async def _run(self, *words: str) -> None:
        """Have PID 1 run the program to its end. Raises MachineError with what it had to say."""
        if self._turn.locked():
            raise MachineError(Problem.JOB_RUNNING, "Another operation on the pool is under way already.")
        async with self._turn:
            try:
                result = await self._systemd.job_result(await self._start(self._properties(*words)))
                if result == "done":
                    log.info("Pool: '%s' is done", words[0])
                    return
                told = (await self._systemd.unit(UNIT)).status_text
                await self._systemd.reset_failed(UNIT)
            except ServiceManagerError as error:
                raise MachineError(Problem.FAILED, f"PID 1 does not run {UNIT}: {error}") from error
        problem, _, text = told.partition(":")
        if problem in set(Problem) and text:
            raise MachineError(Problem(problem), text)
        raise MachineError(
            Problem.FAILED,
            f"What moves the pool was ended before it was done ({result}), and the pool is as it was. "
            f"See 'journalctl -u {UNIT}'.",
        )

    async def _start(self, properties: list[UnitProperty]) -> str:
        try:
            return await self._systemd.start_transient(UNIT, properties)
        except ServiceManagerError as error:
            if error.name != "org.freedesktop.systemd1.UnitExists":
                raise
        if (await self._systemd.unit(UNIT)).is_up:
            raise MachineError(Problem.JOB_RUNNING, "Another operation on the pool is under way already.")
        # What failed while nobody waited for it is still loaded.
        await self._systemd.reset_failed(UNIT)
        return await self._systemd.start_transient(UNIT, properties)

    def _properties(self, *words: str) -> list[UnitProperty]:
        def command(name: str, *words: str) -> UnitProperty:
            return UnitProperty(name, "a(sasb)", [[self._program, [self._program, *words], False]])

        return [
            UnitProperty("Description", "s", "Pool of machines in a file (moved by machined)"),
            UnitProperty("Documentation", "as", ["man:machinectl(1)"]),
            # At shutdown it ends before the pool goes.
            UnitProperty("After", "as", ["var-lib-machines.mount", "systemd-machined.service"]),
            UnitProperty("Type", "s", "oneshot"),
            UnitProperty("NotifyAccess", "s", "main"),
            command("ExecStart", *words),
            # Whatever became of that, also by SIGKILL: what it began is taken back.
            command("ExecStopPost", "recover"),
        ]

    # -- growing -------------------------------------------------------------------------------------------

    async def grow(self, size: int) -> None:
        """Make the file this large (bytes), with whatever runs from it running on. MachineError, OSError."""
        if size > poolfile.MAXIMUM:
            raise MachineError(Problem.INVALID_ARGS, "Size of the pool out of range")
        poolfile.check_idle()
        async with self._turn:
            now = self.state()
            size = poolfile.size_to_grow(size, now)
            await self._short.run("machined.linux.loopfile:grow", now.path, size)
        log.info("Pool: grown from %s to %s", poolfile.readable(now.size), poolfile.readable(size))

    async def make_room(self, needed: int = 0) -> None:
        """Before something long begins in the pool: grow the file by a step when little is free in it.

        As far as that goes; whether it is enough will be seen. `needed` is bytes, if they are known. Raises
        MachineError (JOB_RUNNING) alone: nothing may begin while the pool is being moved.
        """
        poolfile.check_idle()
        try:
            async with self._turn:
                now = self.state()
                size = poolfile.size_on_demand(needed, now)
                if size:
                    await self._short.run("machined.linux.loopfile:grow", now.path, size)
                    log.info(
                        "Pool: little is free, grown from %s to %s",
                        poolfile.readable(now.size),
                        poolfile.readable(size),
                    )
        except OSError as error:
            log.warning("Cannot make room in the pool, ignoring: %s", error)

    async def fit(self, limit: int) -> None:
        """Make the file as large as a limit that is to be set, if there is one and it is smaller.

        Raises MachineError, OSError.
        """
        try:
            now = self.state()
        except FileNotFoundError:
            return
        if now.kind is poolfile.Kind.FILE and limit > now.size:
            await self.grow(limit)
