# SPDX-License-Identifier: LGPL-2.1-or-later

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest

from machined.linux import cgroup
from machined.linux.fds import OwnedFd
from machined.model import registrar
from machined.model.errors import MachineError, Problem, ServiceManagerError
from machined.model.machine import Machine, MachineClass, Phase
from machined.model.ports import UnitProperty
from machined.model.registrar import Registration
from machined.model.statefile import render
from tests.fakes.systemd import NO_SUCH_UNIT, UNIT_EXISTS, raising
from tests.fakes.world import World, turns

UNIT = "machine-web.service"


def record(host: World, name: str = "web") -> str | None:
    path = host.sandbox.records / name
    return path.read_text(encoding="utf-8") if path.exists() else None


class TestRegister:
    async def test_on_disk_then_announced_then_replied(self, host: World) -> None:
        order: list[str] = []

        def announced(machine: Machine) -> None:
            order.append(f"announced, {'on disk' if record(host) else 'not on disk'}")

        host.core.registry.on_new.append(announced)
        machine, leader = await host.register("web", service="systemd-nspawn", root_directory="/x")
        order.append("replied")
        assert order == ["announced, on disk", "replied"]
        assert record(host) == render(machine, 257)
        assert machine.unit == UNIT
        assert machine.started
        assert machine.phase is Phase.RUNNING
        assert machine.leader_pid == leader.pid
        assert leader.watched
        assert machine.realtime
        assert machine.monotonic

    async def test_a_full_disk_does_not_matter(self, host: World, monkeypatch: pytest.MonkeyPatch) -> None:
        def save(machine: Machine) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(host.core.records, "save", save)
        await host.register("web")
        assert host.core.registry.get("web") is not None

    async def test_an_id_of_zeros_is_none(self, host: World) -> None:
        machine, _ = await host.register("web", id=bytes(16))
        assert machine.id == b""

    async def test_twice(self, host: World) -> None:
        host.systemd.emit(UNIT, ActiveState="active")
        first, _ = await host.register("web")
        leader = host.process(UNIT)
        with pytest.raises(MachineError, match="Machine 'web' already exists") as raised:
            await host.core.registrar.register(Registration("web", MachineClass.CONTAINER, leader))
        assert raised.value.problem is Problem.MACHINE_EXISTS
        assert leader.closed
        assert host.core.registry.get("web") is first

    async def test_no_class(self, host: World) -> None:
        leader, supervisor = host.process(UNIT), host.process()
        with pytest.raises(MachineError) as raised:
            await host.core.registrar.register(Registration("web", None, leader, supervisor=supervisor))
        assert raised.value.problem is Problem.NOT_SUPPORTED
        assert leader.closed
        assert supervisor.closed
        assert record(host) is None
        await host.register("web")  # the name is free

    async def test_existing_is_said_before_a_missing_class(self, host: World) -> None:
        host.systemd.emit(UNIT, ActiveState="active")
        await host.register("web")
        with pytest.raises(MachineError, match="already exists"):
            await host.core.registrar.register(Registration("web", None, host.process(UNIT)))

    async def test_a_leader_in_no_unit(self, host: World) -> None:
        leader = host.process()
        with pytest.raises(OSError, match=f"Failed to determine unit of process {leader.pid} :"):
            await host.core.registrar.register(Registration("web", MachineClass.CONTAINER, leader))
        assert leader.closed


class TestRestartedUnit:
    """A unit that is started again registers before anybody saw that the machine before is over."""

    async def test_a_dead_leader_of_the_same_unit(self, host: World) -> None:
        heard: list[tuple[str, int]] = []
        host.core.registry.on_new.append(lambda m: heard.append(("new", m.leader_pid)))
        host.core.registry.on_removed.append(lambda m: heard.append(("removed", m.leader_pid)))
        host.systemd.emit(UNIT, ActiveState="active")
        _, old = await host.register("web")
        old.dead = True
        _, new = await host.register("web")
        assert heard == [("new", old.pid), ("removed", old.pid), ("new", new.pid)]
        assert f"LEADER={new.pid}" in (record(host) or "")
        assert old.closed

    async def test_a_living_leader(self, host: World) -> None:
        host.systemd.emit(UNIT, ActiveState="active")
        await host.register("web")
        with pytest.raises(MachineError, match="already exists"):
            await host.register("web")

    async def test_a_dead_leader_of_another_unit_that_is_over(self, host: World) -> None:
        _, old = await host.register("web", "old.scope")
        await turns()
        host.systemd.known.pop("old.scope")
        old.dead = True
        machine, _ = await host.register("web", "new.scope")
        assert machine.unit == "new.scope"

    @pytest.mark.parametrize("scope", [None, []])
    async def test_a_dead_leader_of_another_unit_that_is_not(
        self, host: World, scope: list[UnitProperty] | None
    ) -> None:
        """Its unit still holds processes: it is the machine still."""
        host.systemd.emit("old.scope", ActiveState="active")
        old, leader = await host.register("web", "old.scope")
        leader.dead = True
        with pytest.raises(MachineError, match="already exists"):
            await host.register("web", "new.scope", scope=scope)
        assert host.core.registry.get("web") is old


class TestScope:
    async def create(self, host: World, **more: Any) -> asyncio.Task[Machine]:
        fields: dict[str, Any] = {"name": "a-b", "cls": MachineClass.CONTAINER, "scope": [], **more}
        if "leader" not in fields:
            fields["leader"] = host.process()
        task = asyncio.ensure_future(host.core.registrar.register(Registration(**fields)))
        await turns()
        return task

    async def test_properties(self, host: World) -> None:
        own = [UnitProperty("TasksMax", "t", 7), UnitProperty("PIDFDs", "ah", [0])]
        leader = host.process()
        task = await self.create(host, leader=leader, scope=own, scope_fds=[77])
        [(unit, properties, fds)] = host.systemd.called("start_transient")
        assert unit == r"machine-a\x2db.scope"
        assert [(row.name, row.type, row.value) for row in properties] == [
            ("Slice", "s", "machine.slice"),
            ("Description", "s", "Container a-b"),
            ("PIDFDs", "ah", [1]),
            ("Delegate", "b", True),
            ("CollectMode", "s", "inactive-or-failed"),
            ("AddRef", "b", True),
            ("TasksMax", "t", 16384),
            # The caller's follow: the last of two counts.
            ("TasksMax", "t", 7),
            ("PIDFDs", "ah", [0]),
        ]
        assert fds == (77, leader.fileno())
        host.systemd.finish(host.systemd.last_job(), unit)
        await task

    @pytest.mark.parametrize("version", [257, 258], indirect=True)
    async def test_of_a_user(self, host: World) -> None:
        task = await self.create(host, uid=1000, cls=MachineClass.VM)
        unit = r"machine-a\x2db.scope"
        assert host.systemd.transient[unit].get("User") == (None if host.core.version < 258 else "1000")
        assert host.systemd.transient[unit]["Description"] == "Virtual Machine a-b"
        host.systemd.finish(host.systemd.last_job(), unit)
        await task

    async def test_announced_while_it_is_opening_and_replied_when_it_is_open(self, host: World) -> None:
        phases: list[Phase] = []
        host.core.registry.on_new.append(lambda machine: phases.append(machine.phase))
        task = await self.create(host)
        assert not task.done()
        assert phases == [Phase.OPENING]
        job = host.systemd.last_job()
        assert f"SCOPE_JOB={job}\n" in (record(host, "a-b") or "")
        host.systemd.emit(r"machine-a\x2db.scope", ActiveState="active")
        host.systemd.finish(job, r"machine-a\x2db.scope")
        machine = await task
        assert machine.phase is Phase.RUNNING
        assert "SCOPE_JOB" not in (record(host, "a-b") or "")

    async def test_the_word_that_the_job_is_over_overtakes_its_name(self, host: World) -> None:
        def at_once(unit: str, *_: Any) -> None:
            host.systemd.emit(unit, ActiveState="active")
            host.systemd.finish(host.systemd.last_job(), unit)

        host.systemd.hooks["start_transient"] = at_once
        task = await self.create(host)
        machine = await task
        assert machine.phase is Phase.RUNNING
        assert "SCOPE_JOB" not in (record(host, "a-b") or "")

    async def test_job_failed(self, host: World) -> None:
        task = await self.create(host)
        host.systemd.finish(host.systemd.last_job(), r"machine-a\x2db.scope", "canceled")
        with pytest.raises(MachineError) as raised:
            await task
        assert raised.value.problem is Problem.JOB_FAILED
        assert raised.value.text == r"Start job for unit machine-a\x2db.scope failed with 'canceled'"
        await turns(30)
        assert host.core.registry.get("a-b") is None, "the collector takes what never came up"
        assert record(host, "a-b") is None

    async def test_job_failed_before_its_name_was_known(self, host: World) -> None:
        def at_once(unit: str, *_: Any) -> None:
            host.systemd.finish(host.systemd.last_job(), unit, "failed")

        host.systemd.hooks["start_transient"] = at_once
        with pytest.raises(MachineError, match="failed with 'failed'"):
            await (await self.create(host))
        await turns(30)
        assert host.core.registry.get("a-b") is None

    async def test_job_without_end(self, host: World, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(registrar, "SCOPE_TIMEOUT", 0.001)
        task = await self.create(host)
        with pytest.raises(TimeoutError):
            await task

    async def test_an_error_of_pid_1_is_passed_on(self, host: World) -> None:
        host.systemd.hooks["start_transient"] = raising(UNIT_EXISTS, times=1)
        leader = host.process()
        task = await self.create(host, leader=leader)
        with pytest.raises(ServiceManagerError) as raised:
            await task
        assert raised.value.name == "org.freedesktop.systemd1.UnitExists"
        assert leader.closed
        assert host.core.registry.get("a-b") is None
        again = await self.create(host)  # the name is free
        host.systemd.finish(host.systemd.last_job(), r"machine-a\x2db.scope")
        await again

    async def test_the_name_is_taken_while_pid_1_works(self, host: World) -> None:
        go_on = asyncio.Event()
        host.systemd.hooks["start_transient"] = lambda *_: go_on.wait()
        first = await self.create(host)
        with pytest.raises(MachineError, match="already exists"):
            await host.register("a-b", "x.scope")
        second = await self.create(host)
        with pytest.raises(MachineError, match="already exists"):
            await second
        go_on.set()
        await turns()
        host.systemd.finish(host.systemd.last_job(), r"machine-a\x2db.scope")
        assert (await first).name == "a-b"
        assert len(host.systemd.called("start_transient")) == 1

    async def test_the_unit_is_given_back(self, host: World) -> None:
        task = await self.create(host)
        host.systemd.emit(r"machine-a\x2db.scope", ActiveState="active")
        host.systemd.finish(host.systemd.last_job(), r"machine-a\x2db.scope")
        host.core.registrar.unregister(await task)
        await turns()
        assert host.systemd.called("unref_unit") == [(r"machine-a\x2db.scope",)]


class TestLeaving:
    async def test_the_record_first_then_the_word(self, host: World) -> None:
        machine, leader = await host.register("web", supervisor=host.process())
        seen: list[str | None] = []
        host.core.registry.on_removed.append(lambda m: seen.append(record(host)))
        host.core.registrar.unregister(machine)
        assert seen == [None]
        assert leader.closed
        assert not leader.signals, "its processes stay as they are"
        assert list(host.sandbox.records.iterdir()) == []
        assert host.systemd.called("unref_unit") == [], "the unit was not ours"

    async def test_the_host_stays(self, host: World) -> None:
        await host.core.load()
        dot_host = host.core.registry.find(".host")
        host.core.registrar.unregister(dot_host)
        assert host.core.registry.get(".host") is dot_host
        for attempt in (
            host.core.registrar.terminate(dot_host),
            host.core.registrar.kill(dot_host, "all", 15),
        ):
            with pytest.raises(MachineError) as raised:
                await attempt
            assert raised.value.problem is Problem.NOT_SUPPORTED

    async def test_terminate(self, host: World) -> None:
        host.systemd.emit(UNIT, ActiveState="active")
        machine, _ = await host.register("web")
        await host.core.registrar.terminate(machine)
        assert host.systemd.called("stop_unit") == [(UNIT, "fail")]
        assert machine.phase is Phase.CLOSING
        assert f"SCOPE_JOB={host.systemd.last_job()}\n" in (record(host) or "")

    async def test_terminate_what_has_no_unit_any_more(self, host: World) -> None:
        machine, _ = await host.register("web")
        host.systemd.hooks["stop_unit"] = raising(NO_SUCH_UNIT)
        await host.core.registrar.terminate(machine)
        assert machine.phase is Phase.CLOSING

    async def test_terminate_refused(self, host: World) -> None:
        machine, _ = await host.register("web")
        host.systemd.hooks["stop_unit"] = raising(UNIT_EXISTS)
        with pytest.raises(ServiceManagerError):
            await host.core.registrar.terminate(machine)
        assert machine.phase is Phase.RUNNING

    @pytest.mark.parametrize("whom", ["", "all"])
    async def test_kill_all(self, host: World, whom: str) -> None:
        machine, leader = await host.register("web")
        await host.core.registrar.kill(machine, whom, 9)
        assert host.systemd.called("kill_unit") == [(UNIT, "all", 9)]
        assert leader.signals == []

    async def test_kill_one(self, host: World) -> None:
        supervisor = host.process()
        machine, leader = await host.register("web", supervisor=supervisor)
        await host.core.registrar.kill(machine, "leader", 2)
        await host.core.registrar.kill(machine, "supervisor", 3)
        assert (leader.signals, supervisor.signals) == ([2], [3])
        assert host.systemd.called("kill_unit") == []

    async def test_kill_nobody(self, host: World) -> None:
        machine, leader = await host.register("web")
        leader.dead = True
        for whom in ("leader", "supervisor"):
            with pytest.raises(ProcessLookupError):
                await host.core.registrar.kill(machine, whom, 2)


async def test_to_ask_for_a_name_takes_no_machine_out(host: World) -> None:
    """Who asks may turn out not to be allowed to register."""
    host.systemd.emit(UNIT, ActiveState="active")
    old, leader = await host.register("web")
    leader.dead = True
    with host.process(UNIT) as again:
        await host.core.registrar.check_free("web", again, own_unit=False)
        assert host.core.registry.get("web") is old
    elsewhere = host.process("other.service")
    with pytest.raises(MachineError, match="already exists"):
        await host.core.registrar.check_free("web", elsewhere, own_unit=False)


@pytest.mark.parametrize(
    ("unit", "uid", "owned"),
    [
        ("session-5.scope", 0, True),
        ("session-5.scope", 1000, False),
        ("systemd-nspawn@session-5.service", 1000, False),
        (r"machine-session\x2d5.scope", 1000, True),
    ],
)
def test_a_user_s_machine_owns_what_was_made_for_it(unit: str, uid: int, owned: bool) -> None:
    assert Machine("session-5", MachineClass.CONTAINER, unit=unit, uid=uid).owns_unit() == owned


class TestAdoption:
    async def test_a_supervisor_in_another_unit_is_none(self, host: World) -> None:
        """Its number alone does not tell that it is the same process."""
        host.sandbox.records.mkdir(exist_ok=True)
        host.sandbox.units[os.getpid()] = "old.scope"
        pid = os.getpid()
        for name, other in (("same", os.getpid()), ("other", os.getppid())):
            text = f"SCOPE=old.scope\nLEADER={pid}\nCLASS=container\nSUPERVISOR={other}\n"
            (host.sandbox.records / name).write_text(text, encoding="utf-8")
        host.systemd.emit("old.scope", ActiveState="active")
        await host.core.load()
        found = {m.name: m.supervisor is not None for m in host.core.registry if not m.is_host()}
        assert found == {"same": True, "other": False}

    async def test_taken_over(self, host: World) -> None:
        """The times stay, the record is written anew, and MachineNew comes when the daemon is ready."""
        host.sandbox.records.mkdir(exist_ok=True)
        host.sandbox.units[os.getpid()] = "old.scope"
        text = f"SCOPE=old.scope\nLEADER={os.getpid()}\nCLASS=vm\nREALTIME=5\nMONOTONIC=6\nFUTURE=1\n"
        (host.sandbox.records / "old").write_text(text, encoding="utf-8")
        (host.sandbox.records / ".#oldx").touch()
        host.systemd.emit("old.scope", ActiveState="active")
        heard: list[str] = []
        host.core.registry.on_new.append(lambda m: heard.append(m.name))
        adopted = await host.core.load()
        assert heard == []
        assert [m.name for m in adopted] == ["old"]
        host.core.announce(adopted)
        assert heard == ["old"]
        machine = host.core.registry.find("old")
        assert (machine.realtime, machine.monotonic, machine.cls) == (5, 6, MachineClass.VM)
        assert record(host, "old") == render(machine, 257)
        assert {p.name for p in host.sandbox.records.iterdir()} == {"old", "unit:old.scope"}

    async def test_ended_while_nobody_watched(self, host: World) -> None:
        (host.sandbox.records / "old").write_text("SCOPE=old.scope\nLEADER=2147483647\n", encoding="utf-8")
        heard: list[str] = []
        host.core.registry.on_removed.append(lambda m: heard.append(m.name))
        assert await host.core.load() == []
        assert host.core.registry.get("old") is None
        assert record(host, "old") is None
        assert heard == [], "nobody heard of it before"

    async def test_pid_1_does_not_tell(self, host: World) -> None:
        host.sandbox.units[os.getpid()] = "old.scope"
        text = f"SCOPE=old.scope\nLEADER={os.getpid()}\n"
        (host.sandbox.records / "old").write_text(text, encoding="utf-8")
        no_reply = ServiceManagerError("org.freedesktop.DBus.Error.NoReply", "busy")
        host.systemd.hooks["unit"] = raising(no_reply)
        host.systemd.hooks["units"] = raising(no_reply)
        assert [m.name for m in await host.core.load()] == ["old"]

    async def test_the_host_itself(self, host: World) -> None:
        await host.core.load()
        machine = host.core.registry.find(".host")
        assert (machine.leader_pid, machine.unit, machine.root_directory) == (1, "-.slice", "/")
        assert machine.phase is Phase.RUNNING
        assert record(host, ".host") is None


async def test_supervised_attachment_is_owned_once(host: World) -> None:
    """Descriptors of a request stay the caller's: registering closes none of them."""
    read_end, write_end = os.pipe()
    with OwnedFd(read_end), OwnedFd(write_end) as mine:
        task = asyncio.ensure_future(
            host.core.registrar.register(
                Registration(
                    "web", MachineClass.CONTAINER, host.process(), scope=[], scope_fds=[mine.fileno()]
                )
            )
        )
        await turns()
        host.systemd.finish(host.systemd.last_job(), "machine-web.scope")
        await task
        os.fstat(mine.fileno())


@pytest.mark.parametrize(
    ("unit", "path", "calls"),
    [
        ("web.service", "/system.slice/web.service/sub/inner", ["kill_unit_subgroup"]),
        ("web.service", "/system.slice/web.service", ["kill_unit"]),
    ],
)
@pytest.mark.parametrize("version", [262], indirect=True)
async def test_who_is_signalled(
    host: World, monkeypatch: pytest.MonkeyPatch, unit: str, path: str, calls: list[str]
) -> None:
    """A machine that has a part of its unit is that part."""
    monkeypatch.setattr(cgroup, "path_of", lambda pid: path)
    machine, _ = await host.register("web", unit)
    await host.core.registrar.kill(machine, "all", 10)
    assert [call[0] for call in host.systemd.calls if call[0].startswith("kill")] == calls
    if machine.subgroup:
        assert host.systemd.called("kill_unit_subgroup") == [(unit, "sub/inner", 10)]
