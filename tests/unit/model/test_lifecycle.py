# SPDX-License-Identifier: LGPL-2.1-or-later

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

from machined.linux import mounts, process
from machined.linux.locks import FileLock
from machined.model import lifecycle as module
from machined.model.errors import MachineError, Problem, ServiceManagerError
from machined.model.jobs import Job, Result, Verb
from machined.model.machine import Machine
from machined.model.rebooting import REBOOT_SIGNAL
from machined.model.state import GUEST_READY, State
from machined.model.stopping import POWEROFF_SIGNAL, StopLimits, StopMode
from tests.fakes.process import FakeProcess
from tests.fakes.systemd import UNIT_EXISTS, raising
from tests.fakes.world import World, turns

UNIT = "machine-web.service"
TINY = StopLimits(poweroff=0.02, terminate=0.02, kill=0.02)
WIDE = StopLimits()

Handles = Callable[[int, int], bool]


@pytest.fixture(autouse=True)
def handles(monkeypatch: pytest.MonkeyPatch) -> dict[int, int]:
    """Signals that guests handle: pid → how many questions it still says no to (all others: at once)."""
    patience: dict[int, int] = {}

    def handles_signal(pid: int, signo: int) -> bool:
        if patience.get(pid, 0) > 0:
            patience[pid] -= 1
            return False
        return True

    monkeypatch.setattr(process, "handles_signal", handles_signal)
    return patience


async def ended(host: World, job: Job) -> tuple[Result | None, str]:
    """How a job ends: its result and the message that goes with it."""
    messages: list[str] = []
    host.core.jobs.on_removed.append(lambda j, result, text: messages.append(text) if j is job else None)
    async with asyncio.timeout(5):
        await job.over.wait()
    host.core.jobs.on_removed.pop()
    return job.result, messages[0] if messages else ""


def powers_off(host: World, machine: Machine, leader: FakeProcess, on: int = POWEROFF_SIGNAL) -> None:
    """The guest obeys this signal."""
    leader.on_kill = lambda signo: host.ends(machine) if signo == on else None


class TestStart:
    async def test_up(self, host: World) -> None:
        host.sandbox.image("web")
        host.boots()
        job = await host.core.lifecycle.start("web")
        assert job.verb is Verb.START
        assert await ended(host, job) == (Result.DONE, "")
        assert host.core.states.get("web") is State.RUNNING
        assert host.systemd.transient[UNIT]["Type"] == "notify"

    async def test_no_lock_is_held_while_pid_1_works(self, host: World) -> None:
        """systemd-nspawn registers before its unit is up: MachineNew comes before the job is over."""
        order: list[str] = []
        host.core.registry.on_new.append(lambda m: order.append("registered"))
        host.core.jobs.on_removed.append(lambda *_: order.append("job over"))
        host.sandbox.image("web")
        host.boots()
        await ended(host, await host.core.lifecycle.start("web"))
        assert order == ["registered", "job over"]

    async def test_of_a_running_one_is_no_error(self, host: World) -> None:
        host.sandbox.image("web")
        await host.run("web")
        assert await ended(host, await host.core.lifecycle.start("web")) == (Result.DONE, "")
        assert host.systemd.called("start_transient") == []

    async def test_twice_at_once_is_one_job(self, host: World) -> None:
        host.sandbox.image("web")
        host.boots()
        first, second = await asyncio.gather(*(host.core.lifecycle.start("web") for _ in "ab"))
        assert first is second
        await ended(host, first)
        assert len(host.systemd.called("start_transient")) == 1

    @pytest.mark.parametrize(
        ("name", "problem", "text"),
        [
            ("my_box", Problem.INVALID_ARGS, "try 'my-box'"),
            (".host", Problem.INVALID_ARGS, "start --ephemeral .host"),
            ("gone", Problem.NO_SUCH_IMAGE, "No image 'gone' known.*list-images"),
        ],
    )
    async def test_refused(self, host: World, name: str, problem: Problem, text: str) -> None:
        with pytest.raises(MachineError, match=text) as raised:
            await host.core.lifecycle.start(name)
        assert raised.value.problem is problem
        assert list(host.core.jobs) == []

    async def test_no_init(self, host: World) -> None:
        host.sandbox.image("web", init=False)
        with pytest.raises(
            MachineError, match="has no init to boot: none of /usr/lib/systemd/systemd"
        ) as raised:
            await host.core.lifecycle.start("web")
        assert raised.value.problem is Problem.NOT_BOOTABLE

    async def test_an_init_that_is_no_program(self, host: World) -> None:
        (host.sandbox.image("web") / "usr/lib/systemd/systemd").chmod(0o644)
        with pytest.raises(MachineError, match="is a program"):
            await host.core.lifecycle.start("web")

    async def test_links_are_the_guests_own(self, host: World) -> None:
        """An absolute link leads into the tree, as it does for the guest, and not to the host's files."""
        tree = host.sandbox.image("web", init=False)
        (tree / "opt").mkdir()
        (tree / "opt/init").touch(0o755)
        (tree / "sbin/init").symlink_to("/opt/init")
        host.boots()
        assert (await ended(host, await host.core.lifecycle.start("web")))[0] is Result.DONE
        (host.sandbox.image("db", init=False) / "sbin/init").symlink_to("/usr/bin/env")
        with pytest.raises(MachineError, match="no init"):
            await host.core.lifecycle.start("db")

    async def test_no_os_release(self, host: World) -> None:
        host.sandbox.image("web", os_release=False)
        with pytest.raises(MachineError, match="holds no operating system") as raised:
            await host.core.lifecycle.start("web")
        assert raised.value.problem is Problem.NOT_BOOTABLE

    async def test_noexec(self, host: World, monkeypatch: pytest.MonkeyPatch) -> None:
        host.sandbox.image("web")
        monkeypatch.setattr(mounts, "flags_of", lambda path: frozenset({"noexec", "nodev"}))
        with pytest.raises(MachineError, match=r"'noexec' \(/.*mount -o remount,exec /") as raised:
            await host.core.lifecycle.start("web")
        assert raised.value.problem is Problem.NO_EXEC_MOUNT

    async def test_the_image_runs_as_another_machine(self, host: World) -> None:
        tree = host.sandbox.image("web")
        await host.register("other", "systemd-nspawn@web.service", root_directory=str(tree))
        with pytest.raises(
            MachineError, match=r"running already, as machine 'other' \(unit systemd-nspawn@"
        ) as e:
            await host.core.lifecycle.start("web")
        assert e.value.problem is Problem.IMAGE_BUSY

    @pytest.mark.parametrize("which", [0, 1])
    async def test_the_image_is_locked(self, host: World, which: int) -> None:
        host.sandbox.image("web")
        image = host.core.lifecycle.image_to_start("web")
        lock = image.lock_paths()[which]
        with (
            FileLock.acquire(os.fspath(lock)),
            pytest.raises(MachineError, match="in use by another program") as e,
        ):
            await host.core.lifecycle.start("web")
        assert e.value.problem is Problem.IMAGE_BUSY
        assert str(lock) in e.value.text

    async def test_a_failed_unit_of_before_is_forgotten(self, host: World) -> None:
        host.sandbox.image("web")
        host.boots()
        boot = host.systemd.hooks["start_transient"]
        attempts = iter([raising(UNIT_EXISTS), boot])
        host.systemd.hooks["start_transient"] = lambda *args: next(attempts)(*args)
        assert await ended(host, await host.core.lifecycle.start("web")) == (Result.DONE, "")
        assert host.systemd.called("reset_failed") == [(UNIT,)]

    async def test_pid_1_refuses(self, host: World) -> None:
        host.sandbox.image("web")
        host.systemd.hooks["start_transient"] = raising(ServiceManagerError("org.x.Y", "Not today."))
        assert await ended(host, await host.core.lifecycle.start("web")) == (Result.FAILED, "Not today.")
        assert host.core.states.get("web") is State.STOPPED
        assert host.core.states.tracked(UNIT) is None

    @pytest.mark.parametrize("words", ["", "Directory tree is busy"])
    async def test_nspawn_fails(self, host: World, words: str) -> None:
        host.sandbox.image("web")
        host.sandbox.last_words = words

        def fail(unit: str, *_: Any) -> None:
            job = host.systemd.last_job()
            host.systemd.emit(unit, ActiveState="activating", SubState="start")
            host.systemd.emit(unit, ActiveState="failed", SubState="failed", Result="exit-code")
            host.systemd.finish(job, unit, "failed")
            host.systemd.remove(unit)

        host.systemd.hooks["start_transient"] = fail
        reason = f": {words}" if words else ""
        text = f"Machine 'web' did not start (unit {UNIT}, 'failed'){reason}. See 'journalctl -u {UNIT}'."
        assert await ended(host, await host.core.lifecycle.start("web")) == (Result.FAILED, text)
        assert host.core.states.get("web") is State.FAILED
        host.boots()
        assert await ended(host, await host.core.lifecycle.start("web")) == (Result.DONE, "")
        assert host.core.states.get("web") is State.RUNNING

    async def test_after_the_run_before_has_gone(self, host: World) -> None:
        """Unregistered, but its unit has not ended: PID 1 would refuse the name."""
        host.sandbox.image("web")
        machine, _ = await host.run("web")
        host.core.registrar.unregister(machine)
        host.boots()
        job = await host.core.lifecycle.start("web")
        await turns()
        assert host.systemd.called("start_transient") == []
        host.ends(machine)
        assert await ended(host, job) == (Result.DONE, "")

    async def test_of_one_that_somebody_terminates(self, host: World) -> None:
        host.sandbox.image("web")
        machine, _ = await host.run("web")
        await host.core.registrar.terminate(machine)
        host.boots()
        job = await host.core.lifecycle.start("web")
        await turns()
        assert not job.over.is_set()
        host.ends(machine)
        assert await ended(host, job) == (Result.DONE, "")
        assert host.core.registry.find("web") is not machine

    @pytest.mark.parametrize("sub", ["start", "auto-restart"])
    async def test_of_one_that_is_on_its_way_up(self, host: World, sub: str) -> None:
        """Begun by a daemon before us, or by the guest that reboots."""
        host.sandbox.image("web")
        host.systemd.emit(UNIT, ActiveState="activating", SubState=sub)
        job = await host.core.lifecycle.start("web")
        await turns()
        assert not job.over.is_set()
        await host.register("web")
        host.systemd.emit(UNIT, ActiveState="active", SubState="running", StatusText=GUEST_READY)
        assert await ended(host, job) == (Result.DONE, "")
        assert host.systemd.called("start_transient") == []

    async def test_of_one_that_does_not_move(self, host: World, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "POWEROFF_TIMEOUT", 0.01)
        host.sandbox.image("web")
        host.systemd.emit(UNIT, ActiveState="deactivating", SubState="stop-sigterm")
        text = "Machine 'web' was still on its way up or down after 0.01 s."
        assert await ended(host, await host.core.lifecycle.start("web")) == (Result.TIMEOUT, text)

    async def test_cancel(self, host: World) -> None:
        host.sandbox.image("web")
        job = await host.core.lifecycle.start("web")
        await turns()
        job.cancel()
        assert (await ended(host, job))[0] is Result.CANCELED
        assert host.core.states.get("web") is State.STARTING, "PID 1 goes on with it"

    async def test_after_a_cancelled_one(self, host: World) -> None:
        """PID 1 is at it still: the next one waits for that."""
        host.sandbox.image("web")
        first = await host.core.lifecycle.start("web")
        await turns()
        first.cancel()
        await first.over.wait()
        second = await host.core.lifecycle.start("web")
        await turns()
        assert not second.over.is_set()
        await host.run("web")
        host.systemd.finish(host.systemd.last_job(), UNIT)
        assert await ended(host, second) == (Result.DONE, "")
        assert len(host.systemd.called("start_transient")) == 1


class TestStop:
    @pytest.mark.parametrize("known", [True, False])
    async def test_of_nothing(self, host: World, known: bool) -> None:
        if known:
            host.sandbox.image("web")
        with pytest.raises(
            MachineError, match="not running" if known else "No machine 'web' known"
        ) as raised:
            await host.core.lifecycle.stop("web", StopMode.POWEROFF, WIDE)
        assert raised.value.problem is (Problem.NOT_RUNNING if known else Problem.NO_SUCH_MACHINE)

    async def test_power_off(self, host: World) -> None:
        machine, leader = await host.run("web")
        powers_off(host, machine, leader)
        job = await host.core.lifecycle.stop("web", StopMode.POWEROFF, WIDE)
        assert await ended(host, job) == (Result.DONE, "")
        assert leader.signals == [POWEROFF_SIGNAL] == [signal.SIGRTMIN + 4]
        assert host.systemd.called("stop_unit") == []
        assert host.core.states.get("web") is State.STOPPED

    async def test_is_over_only_when_the_unit_has_ended(self, host: World) -> None:
        """The image is locked until then."""
        machine, leader = await host.run("web")
        leader.on_kill = lambda signo: host.core.registrar.unregister(machine)
        job = await host.core.lifecycle.stop("web", StopMode.POWEROFF, WIDE)
        await turns()
        assert host.core.registry.get("web") is None
        assert not job.over.is_set()
        assert host.core.states.get("web") is State.STOPPING
        host.ends(machine)
        assert await ended(host, job) == (Result.DONE, "")

    async def test_the_signal_waits_for_its_handler(self, host: World, handles: dict[int, int]) -> None:
        machine, leader = await host.run("web")
        handles[leader.pid] = 3
        powers_off(host, machine, leader)
        job = await host.core.lifecycle.stop("web", StopMode.POWEROFF, WIDE)
        await turns()
        assert leader.signals == [], "the kernel would drop it"
        assert await ended(host, job) == (Result.DONE, "")
        assert handles[leader.pid] == 0
        assert leader.signals == [POWEROFF_SIGNAL]

    async def test_a_leader_that_dies_by_itself(self, host: World, handles: dict[int, int]) -> None:
        machine, leader = await host.run("web")
        handles[leader.pid] = 10**6
        job = await host.core.lifecycle.stop("web", StopMode.POWEROFF, WIDE)
        await turns()
        leader.die()
        host.ends(machine)
        assert await ended(host, job) == (Result.DONE, "")

    async def test_escalation(self, host: World) -> None:
        machine, leader = await host.run("web")
        host.systemd.hooks["kill_unit"] = lambda *_: host.ends(machine, failed=True)
        job = await host.core.lifecycle.stop("web", StopMode.POWEROFF, TINY)
        result, text = await ended(host, job)
        assert result is Result.DONE
        assert text == "Machine 'web' did not end when terminated within 0.02 s. It was killed."
        assert leader.signals == [POWEROFF_SIGNAL]
        assert host.systemd.called("stop_unit") == [(UNIT, "replace")]
        assert host.systemd.called("kill_unit") == [(UNIT, "all", signal.SIGKILL)]

    async def test_terminated(self, host: World) -> None:
        machine, _ = await host.run("web")
        host.systemd.hooks["stop_unit"] = lambda *_: host.ends(machine)
        limits = StopLimits(poweroff=0.02, terminate=60, kill=60)
        job = await host.core.lifecycle.stop("web", StopMode.POWEROFF, limits)
        text = "Machine 'web' did not power off within 0.02 s. It was terminated."
        assert await ended(host, job) == (Result.DONE, text)
        assert host.systemd.called("kill_unit") == []

    async def test_not_even_by_force(self, host: World) -> None:
        await host.run("web")
        job = await host.core.lifecycle.stop("web", StopMode.POWEROFF, TINY)
        text = "Machine 'web' did not end when killed within 0.02 s."
        assert await ended(host, job) == (Result.TIMEOUT, text)
        assert host.core.states.get("web") is State.RUNNING, "no stop is under way any more"

    @pytest.mark.parametrize(
        ("mode", "stopped", "killed"), [(StopMode.TERMINATE, 1, 0), (StopMode.KILL, 0, 1)]
    )
    async def test_harder_from_the_start(
        self, host: World, mode: StopMode, stopped: int, killed: int
    ) -> None:
        machine, leader = await host.run("web")
        host.systemd.hooks["stop_unit"] = lambda *_: host.ends(machine)
        host.systemd.hooks["kill_unit"] = lambda *_: host.ends(machine)
        job = await host.core.lifecycle.stop("web", mode, WIDE)
        assert await ended(host, job) == (Result.DONE, "")
        assert leader.signals == []
        assert len(host.systemd.called("stop_unit")) == stopped
        assert len(host.systemd.called("kill_unit")) == killed

    async def test_each_stage_has_its_own_limit(self, host: World) -> None:
        """A generous first stage takes nothing from the second, nor the other way round."""
        times: list[float] = []
        loop = asyncio.get_running_loop()
        machine, leader = await host.run("web")
        leader.on_kill = lambda signo: times.append(loop.time())
        host.systemd.hooks["stop_unit"] = lambda *_: times.append(loop.time())

        def kill(*_: Any) -> None:
            times.append(loop.time())
            host.ends(machine)

        host.systemd.hooks["kill_unit"] = kill
        limits = StopLimits(poweroff=0.12, terminate=0.02, kill=60)
        began = loop.time()
        _, text = await ended(host, await host.core.lifecycle.stop("web", StopMode.POWEROFF, limits))
        assert "within 0.02 s" in text
        assert times[1] - began >= 0.119
        assert times[2] - times[1] >= 0.019

    async def test_a_machine_in_a_unit_of_its_own(self, host: World) -> None:
        """Started by the stock tools: its unit is what is waited for."""
        host.systemd.emit("systemd-nspawn@web.service", ActiveState="active")
        machine, leader = await host.register("web", "systemd-nspawn@web.service")
        powers_off(host, machine, leader)
        job = await host.core.lifecycle.stop("web", StopMode.POWEROFF, WIDE)
        assert await ended(host, job) == (Result.DONE, "")

    async def test_twice_at_once_is_one_job(self, host: World) -> None:
        machine, _ = await host.run("web")
        first = await host.core.lifecycle.stop("web", StopMode.TERMINATE, WIDE)
        second = await host.core.lifecycle.stop("web", StopMode.POWEROFF, WIDE)
        assert first is second
        host.ends(machine)
        await ended(host, first)

    async def test_a_harder_one_replaces_it(self, host: World) -> None:
        machine, _ = await host.run("web")
        host.systemd.hooks["kill_unit"] = lambda *_: host.ends(machine)
        gentle = await host.core.lifecycle.stop("web", StopMode.POWEROFF, WIDE)
        await turns()
        hard = await host.core.lifecycle.stop("web", StopMode.KILL, WIDE)
        assert gentle.result is Result.CANCELED
        assert await ended(host, hard) == (Result.DONE, "")

    async def test_the_first_limit_is_for_a_start_too(self, host: World) -> None:
        """A guest that is on its way up and never registers is terminated in the end."""
        host.systemd.emit(UNIT, ActiveState="activating", SubState="start")
        host.systemd.hooks["stop_unit"] = lambda *_: host.systemd.remove(UNIT)
        limits = StopLimits(poweroff=0.02, terminate=60, kill=60)
        result, text = await ended(host, await host.core.lifecycle.stop("web", StopMode.POWEROFF, limits))
        assert (result, "did not power off within 0.02 s" in text) == (Result.DONE, True)


class TestStopDuringStart:
    async def test_powers_off_what_registers(self, host: World) -> None:
        host.sandbox.image("web")
        start = await host.core.lifecycle.start("web")
        await turns()
        host.systemd.emit(UNIT, ActiveState="activating", SubState="start")
        stop = await host.core.lifecycle.stop("web", StopMode.POWEROFF, WIDE)
        assert start.result is Result.CANCELED
        await turns()
        assert host.core.states.get("web") is State.STARTING, "it is not registered, there is nobody to tell"
        machine, leader = await host.register("web")
        powers_off(host, machine, leader)
        host.systemd.finish(host.systemd.last_job(), UNIT)
        assert await ended(host, stop) == (Result.DONE, "")
        assert leader.signals == [POWEROFF_SIGNAL]

    @pytest.mark.parametrize("waits", [True, False])
    async def test_before_pid_1_has_told_of_the_unit(self, host: World, waits: bool) -> None:
        """The request is with PID 1 and no word has come back: it must not come up after the stop."""
        host.sandbox.image("web")
        answer = asyncio.Event()
        if waits:
            host.systemd.hooks["start_transient"] = lambda *_: answer.wait()
        await host.core.lifecycle.start("web")
        await turns()
        stopping = asyncio.ensure_future(host.core.lifecycle.stop("web", StopMode.POWEROFF, WIDE))
        await turns()
        answer.set()
        stop = await stopping
        await turns()
        assert not stop.over.is_set()
        machine, leader = await host.register("web")
        powers_off(host, machine, leader)
        host.systemd.emit(UNIT, ActiveState="active", SubState="running")
        host.systemd.finish(host.systemd.last_job(), UNIT)
        assert (await ended(host, stop))[0] is Result.DONE
        assert leader.signals == [POWEROFF_SIGNAL]

    async def test_in_one_turn(self, host: World) -> None:
        """The start was never begun: nothing runs, and nothing is started later."""
        host.sandbox.image("web")
        start = await host.core.lifecycle.start("web")
        stop = await host.core.lifecycle.stop("web", StopMode.POWEROFF, WIDE)
        assert start.result is Result.CANCELED
        assert await ended(host, stop) == (Result.DONE, "")
        assert host.systemd.called("start_transient") == []
        assert host.core.states.get("web") is State.STOPPED
        assert host.core.states.known() == []

    async def test_a_start_that_ends_before_it_registers(self, host: World) -> None:
        host.sandbox.image("web")
        await host.core.lifecycle.start("web")
        await turns()
        host.systemd.emit(UNIT, ActiveState="activating", SubState="start")
        stop = await host.core.lifecycle.stop("web", StopMode.POWEROFF, WIDE)
        await turns()
        host.systemd.emit(UNIT, ActiveState="failed", SubState="failed", Result="exit-code")
        host.systemd.finish(host.systemd.last_job(), UNIT, "failed")
        host.systemd.remove(UNIT)
        assert await ended(host, stop) == (Result.DONE, "")


class TestReboot:
    async def test_comes_back(self, host: World) -> None:
        machine, leader = await host.run("web")
        job = await host.core.lifecycle.reboot("web", 60)
        await turns()
        assert leader.signals == [REBOOT_SIGNAL] == [signal.SIGINT]
        host.core.registrar.unregister(machine)
        host.systemd.emit(UNIT, ActiveState="activating", SubState="auto-restart")
        await turns()
        assert not job.over.is_set()
        await host.register("web")
        assert await ended(host, job) == (Result.DONE, "")

    async def test_goes_down_for_good(self, host: World) -> None:
        machine, leader = await host.run("web")
        powers_off(host, machine, leader, REBOOT_SIGNAL)
        result, text = await ended(host, await host.core.lifecycle.reboot("web", 60))
        assert (result, "went down and did not come back" in text) == (Result.FAILED, True)

    async def test_by_force(self, host: World) -> None:
        machine, _ = await host.run("web")

        async def restart(*_: Any) -> None:
            host.core.registrar.unregister(machine)
            host.systemd.emit(UNIT, ActiveState="activating", SubState="start")
            await host.register("web")

        host.systemd.hooks["restart_unit"] = restart
        result, text = await ended(host, await host.core.lifecycle.reboot("web", 0.02))
        assert (result, text) == (Result.DONE, "It did not reboot in time and its unit was restarted.")
        assert host.systemd.called("restart_unit") == [(UNIT, "replace")]

    async def test_not_even_by_force(self, host: World) -> None:
        await host.run("web")
        job = await host.core.lifecycle.reboot("web", 0.01)
        text = "Machine 'web' did not come back within 0.01 s."
        assert await ended(host, job) == (Result.TIMEOUT, text)

    async def test_of_nothing(self, host: World) -> None:
        with pytest.raises(MachineError) as raised:
            await host.core.lifecycle.reboot("web", 1)
        assert raised.value.problem is Problem.NO_SUCH_MACHINE

    async def test_not_while_it_stops(self, host: World) -> None:
        machine, _ = await host.run("web")
        stop = await host.core.lifecycle.stop("web", StopMode.POWEROFF, WIDE)
        with pytest.raises(MachineError) as raised:
            await host.core.lifecycle.reboot("web", 1)
        assert raised.value.problem is Problem.JOB_RUNNING
        host.ends(machine)
        await ended(host, stop)


class TestWait:
    async def test_running(self, host: World) -> None:
        host.sandbox.image("web")
        task = asyncio.ensure_future(host.core.lifecycle.wait("web", "running", None))
        await turns()
        assert not task.done()
        machine, _ = await host.run("web")
        assert await task is State.RUNNING
        host.core.states.guest_says(machine, State.DEGRADED)
        assert await host.core.lifecycle.wait("web", "running", None) is State.DEGRADED
        assert await host.core.lifecycle.wait("web", "degraded", None) is State.DEGRADED

    async def test_stopped(self, host: World) -> None:
        host.sandbox.image("web")
        assert await host.core.lifecycle.wait("web", "stopped", None) is State.STOPPED
        host.core.states.run_failed("web", "exit-code")
        assert await host.core.lifecycle.wait("web", "stopped", None) is State.FAILED

    async def test_limit(self, host: World) -> None:
        host.sandbox.image("web")
        with pytest.raises(
            MachineError, match=r"'web' is stopped, and was not running within 0.01 s"
        ) as raised:
            await host.core.lifecycle.wait("web", "running", 0.01)
        assert raised.value.problem is Problem.TIMEOUT

    @pytest.mark.parametrize(
        ("name", "condition", "problem"),
        [
            ("gone", "running", Problem.NO_SUCH_MACHINE),
            ("web", "walking", Problem.INVALID_ARGS),
            ("my_box", "running", Problem.INVALID_ARGS),
        ],
    )
    async def test_refused(self, host: World, name: str, condition: str, problem: Problem) -> None:
        host.sandbox.image("web")
        with pytest.raises(MachineError) as raised:
            await host.core.lifecycle.wait(name, condition, None)
        assert raised.value.problem is problem

    async def test_the_host(self, host: World) -> None:
        await host.core.load()
        assert await host.core.lifecycle.wait(".host", "running", None) is State.RUNNING


async def test_closing_lets_machines_run(host: World) -> None:
    host.sandbox.image("web")
    job = await host.core.lifecycle.start("web")
    await turns()
    await host.core.jobs.close()
    await host.core.lifecycle.close()
    assert job.result is Result.CANCELED
    assert host.systemd.called("stop_unit") == []
    assert host.systemd.called("kill_unit") == []
