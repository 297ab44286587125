# SPDX-License-Identifier: LGPL-2.1-or-later
"""Starting, stopping and rebooting machines, as jobs.

No lock is held while PID 1 works: systemd-nspawn calls back into us to register before its unit is up.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from machined.linux import process
from machined.model import configured, leftovers, preflight
from machined.model.belongings import Belongings
from machined.model.errors import MachineError, Problem, ServiceManagerError
from machined.model.failure import last_words
from machined.model.images import Image, Images
from machined.model.jobs import Job, Jobs, JobTimeoutError, Verb
from machined.model.names import HOST, check_machine_name
from machined.model.placed import Placed
from machined.model.ports import ServiceManager, UnitProperty
from machined.model.rebooting import REBOOT_TIMEOUT, Rebooting
from machined.model.registrar import Registrar
from machined.model.registry import Registry
from machined.model.roots import layers_over
from machined.model.settings.merge import Effective
from machined.model.state import State, States, unit_of_machine
from machined.model.stopping import POWEROFF_TIMEOUT, StopLimits, StopMode, Stopping

log = logging.getLogger(__name__)


class Lifecycle:
    """Makes jobs out of wishes. `release` takes back what a machine has of us, once that is over."""

    def __init__(
        self,
        registry: Registry,
        images: Images,
        placed: Placed,
        states: States,
        jobs: Jobs,
        systemd: ServiceManager,
        registrar: Registrar,
        belongings: Belongings,
        release: Callable[[str], None],
    ) -> None:
        self._registry = registry
        self._images = images
        self._placed = placed
        self._states = states
        self._jobs = jobs
        self._systemd = systemd
        self._belongings = belongings
        self._release = release
        self._stopping = Stopping(registry, states, systemd, registrar, belongings)
        self._rebooting = Rebooting(registry, states, systemd, self._stopping)
        self._tasks: set[asyncio.Future[str]] = set()

    # -- start ---------------------------------------------------------------------------------------------

    def check_known(self, name: str, origin: str = "", words: Sequence[str] = ()) -> bool:
        """As Placed.check()."""
        return self._placed.check(name, origin, words)

    def image_to_start(self, name: str, origin: str = "", words: Sequence[str] = ()) -> Image:
        """The image of a machine that may be started now: that of its settings, its name, or `origin`.

        Raises MachineError with the reason why not.
        """
        return self._placed.look(name, origin, words)[0]

    async def start(
        self, name: str, origin: str = "", *, ephemeral: bool = False, words: Sequence[str] = ()
    ) -> Job:
        """A job that ends when the machine's unit is up.

        Starting a machine that runs as ours is no error. What an `ephemeral` one writes goes with it, and so
        it is with every machine that is made of an image with another name, `origin`. `words` are settings,
        Key=value, that hold until its end.
        """
        image, settings = self._placed.look(name, origin, words)
        configured.settle(name, settings)
        ephemeral = ephemeral or image.name != name or settings.yes("Exec", "Ephemeral")
        configured.check_bundle(name, settings, ephemeral=ephemeral)
        running = self._registry.get(name)
        if (
            running is not None
            and not ephemeral
            and running.unit == unit_of_machine(name)
            and self._states.get(name) is not State.STOPPING
        ):
            return await self._job(name, Verb.START, self._already_up)
        if self._jobs.of_machine(name) is None and not self._unit_is_up(name):
            boot = settings.yes("Exec", "Boot")
            await preflight.let_go(image, self._belongings.roots, self._states)
            preflight.check_image(
                name, image, self._registry, self._belongings.roots, ephemeral=ephemeral, boot=boot
            )
            self._check_base(image, ephemeral)
            await self._belongings.lending.release(name)  # of a run that has just ended
            configured.check_host(name, settings)
            configured.check(name, self._belongings.roots.users.conflicts(name, settings))
            await self._belongings.networks.check(name, settings)
        elif ephemeral:
            raise MachineError(
                Problem.MACHINE_EXISTS, f"A machine '{name}' is running already; choose another name."
            )
        return await self._job(name, Verb.START, lambda: self._start(name, image, ephemeral, settings))

    def _check_base(self, image: Image, ephemeral: bool) -> None:
        """An image that others are layers over is not to be written to."""
        layers = [] if ephemeral else layers_over(self._images, image)
        if layers:
            names = ", ".join(f"'{layer.name}'" for layer in layers[:5])
            raise MachineError(
                Problem.IMAGE_BUSY,
                f"Image '{image.name}' is what {names} are layers over, so nothing may be written to it. "
                f"Start it with --ephemeral, or make the layers plain trees with 'machinectl flatten'.",
            )

    async def _already_up(self) -> str:
        return ""

    def _unit_is_up(self, name: str) -> bool:
        return self._states.record(name).starting or self._stopping.is_up(unit_of_machine(name))

    async def _start(self, name: str, image: Image, ephemeral: bool, settings: Effective) -> str:
        unit_name = unit_of_machine(name)
        if await self._settled(name):
            return ""
        for path in leftovers.remove(name, self._images.find(name)):
            log.info("Removed '%s', left by a run of machine '%s' that was killed", path, name)
        began = process.now_usec()[0]
        # From now on: or what is only now told of the run before would take away what this one is given.
        self._states.start_under_way(name, True)
        try:
            properties = await self._belongings.prepare(name, image, ephemeral, settings)
        except BaseException:
            self._states.start_under_way(name, False)
            raise
        result = await self._start_unit(name, properties)
        if result == "done":
            return ""
        self._states.run_failed(name, result)
        why = await last_words(unit_name, began)
        reason = f": {why}" if why else ""
        raise MachineError(
            Problem.FAILED,
            f"Machine '{name}' did not start (unit {unit_name}, '{result}'){reason}. "
            f"See 'journalctl -u {unit_name}'.",
        )

    async def plan(
        self, name: str, image: Image, settings: Effective, *, ephemeral: bool = False
    ) -> list[UnitProperty]:
        """What a start would tell PID 1 now. Raises MachineError."""
        ephemeral = ephemeral or image.name != name or settings.yes("Exec", "Ephemeral")
        return await self._belongings.plan(name, image, ephemeral, settings)

    async def _settled(self, name: str) -> bool:
        """Wait while an earlier run is on its way up, down, or through a reboot; whether it is up then.

        PID 1 refuses the name of the unit until it is gone.
        """

        def moves() -> bool:
            if self._states.record(name).starting:
                return True
            tracked = self._states.tracked(unit_of_machine(name))
            if tracked is None or not tracked.is_up:
                return False
            return tracked.active == "activating" or self._states.get(name) is State.STOPPING

        try:
            async with asyncio.timeout(POWEROFF_TIMEOUT):
                await self._states.wait_until(name, lambda: not moves())
        except TimeoutError:
            raise JobTimeoutError(
                f"Machine '{name}' was still on its way up or down after {POWEROFF_TIMEOUT:g} s."
            ) from None
        return self._unit_is_up(name)

    async def _start_unit(self, name: str, properties: Sequence[UnitProperty]) -> str:
        """Have PID 1 start the unit; returns the result of its job.

        A stop may cancel us on the way, but not PID 1's job: until that has ended the machine counts as
        starting, or the stop would find nothing to stop.
        """
        self._states.start_under_way(name, True)
        work = asyncio.ensure_future(self._run_job(name, properties))
        self._tasks.add(work)
        work.add_done_callback(self._tasks.discard)
        return await asyncio.shield(work)

    async def _run_job(self, name: str, properties: Sequence[UnitProperty]) -> str:
        try:
            job = await self._start_transient(unit_of_machine(name), properties)
            result = await self._systemd.job_result(job)
        except ServiceManagerError:
            self._release(name)  # once that is sure: it may have begun nevertheless
            raise
        finally:
            self._states.start_under_way(name, False)
        if result != "done" and not self._unit_is_up(name):
            await self._belongings.undo(name)  # no event tells of the end of what was never up
        return result

    async def _start_transient(self, unit_name: str, properties: Sequence[UnitProperty]) -> str:
        try:
            return await self._systemd.start_transient(unit_name, properties)
        except ServiceManagerError as error:
            if error.name != "org.freedesktop.systemd1.UnitExists":
                raise
        # A failed unit of an earlier daemon may still be loaded.
        await self._systemd.reset_failed(unit_name)
        return await self._systemd.start_transient(unit_name, properties)

    # -- stop ----------------------------------------------------------------------------------------------

    async def stop(self, name: str, mode: StopMode, limits: StopLimits) -> Job:
        """A job that ends when nothing of the machine runs any more.

        Raises MachineError (NO_SUCH_MACHINE).
        """
        self._check_runs(name)
        level = list(StopMode).index(mode)
        return await self._job(name, Verb.STOP, lambda: self._stopping.stop(name, mode, limits), level)

    def _check_runs(self, name: str) -> None:
        check_machine_name(name)
        job = self._jobs.of_machine(name)
        starting = job is not None and job.verb is Verb.START
        if self._registry.get(name) is None and not self._unit_is_up(name) and not starting:
            known = self._placed.is_known(name)
            raise MachineError(
                Problem.NOT_RUNNING if known else Problem.NO_SUCH_MACHINE,
                f"Machine '{name}' is not running." if known else f"No machine '{name}' known",
            )

    # -- reboot --------------------------------------------------------------------------------------------

    async def reboot(self, name: str, limit: float = REBOOT_TIMEOUT) -> Job:
        """A job that ends when the machine has registered anew. Raises MachineError."""
        self._check_runs(name)
        return await self._job(name, Verb.REBOOT, lambda: self._rebooting.reboot(name, limit))

    async def close(self) -> None:
        """Stop following PID 1's jobs."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # -- all -----------------------------------------------------------------------------------------------

    async def _job(self, name: str, verb: Verb, work: Callable[[], Awaitable[str]], level: int = 0) -> Job:
        joined = await self._jobs.settle(name, verb, level)
        return joined or self._jobs.start(name, verb, work, level)

    async def wait(self, name: str, condition: str, limit: float | None) -> State:
        """Wait for a state: running (or degraded), stopped (or failed), or another one by its name.

        Raises MachineError (INVALID_ARGS for a bad condition, NO_SUCH_MACHINE), TimeoutError.
        """
        if name != HOST:
            check_machine_name(name)
        if condition not in {state.value for state in State}:
            known = ", ".join(State)
            raise MachineError(
                Problem.INVALID_ARGS, f"Unknown condition '{condition}', expected one of {known}."
            )
        if self._states.get(name) is State.STOPPED and not self._placed.is_known(name):
            raise MachineError(Problem.NO_SUCH_MACHINE, f"No machine '{name}' known")

        def holds() -> bool:
            state = self._states.get(name)
            if condition == State.RUNNING and state is State.FAILED and self._jobs.of_machine(name) is None:
                raise MachineError(
                    Problem.NOT_RUNNING,
                    f"Machine '{name}' has failed ('{self._states.record(name).result}') and does not "
                    f"come up. See 'journalctl -u {unit_of_machine(name)}'.",
                )
            if condition == State.RUNNING:
                return state.is_up()
            return state.is_down() if condition == State.STOPPED else state == condition

        try:
            async with asyncio.timeout(limit):
                await self._states.wait_until(name, holds)
        except TimeoutError:
            raise MachineError(
                Problem.TIMEOUT,
                f"Machine '{name}' is {self._states.get(name)}, and was not {condition} within {limit:g} s.",
            ) from None
        return self._states.get(name)
