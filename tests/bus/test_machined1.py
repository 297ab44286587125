# SPDX-License-Identifier: LGPL-2.1-or-later
"""org.machined1: jobs, states and autostart on the bus."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from dbus_fast import Variant

from machined import __version__
from machined.bus.connection import RemoteError
from machined.bus.names import ROOT
from machined.linux import process
from machined.model.rebooting import REBOOT_SIGNAL
from machined.model.stopping import POWEROFF_SIGNAL
from tests.fakes.service import OWN_MACHINE, OWN_MANAGER, PROPERTIES, Client, Served

UNIT = "machine-web.service"
WEB = ROOT + "/machine/web"
JOB = "/org/machined1/job/1"
ERROR = "org.machined1.Error."


class Own(Client):
    """A client of org.machined1.Manager."""

    async def do(self, member: str, signature: str, *body: Any) -> Any:
        return await self.call(member, signature, *body, interface=OWN_MANAGER)

    async def refused(self, member: str, signature: str, *body: Any) -> tuple[str, str]:
        with pytest.raises(RemoteError) as raised:
            await self.do(member, signature, *body)
        return raised.value.name, raised.value.text


@pytest.fixture(autouse=True)
def inits_listen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "handles_signal", lambda pid, signo: True)


@pytest.fixture
async def own(service: Served) -> Own:
    await service.client.listen()
    return Own(service.client.bus)


def boots(service: Served) -> None:
    """Units that are started behave as systemd-nspawn with a good image."""

    async def start(unit: str, *_: Any) -> None:
        name = unit.removeprefix("machine-").removesuffix(".service")
        job = service.pid1.last_job()

        async def nspawn() -> None:
            service.pid1.emit(unit, ActiveState="activating", SubState="start")
            await service.machine(name)
            service.pid1.emit(
                unit, ActiveState="active", SubState="running", StatusText="Container running: Ready."
            )
            service.pid1.finish(unit, job=job)

        running.append(asyncio.ensure_future(nspawn()))

    running: list[asyncio.Future[None]] = []
    service.pid1.hooks["StartTransientUnit"] = start


def ends(service: Served) -> None:
    """nspawn says good-bye, and its unit is gone."""
    machine = service.core.registry.find("web")
    service.core.registrar.unregister(machine)
    service.pid1.emit(UNIT, ActiveState="inactive", SubState="dead", Result="success")
    service.pid1.remove(UNIT)


class TestStart:
    async def test_signals(self, service: Served, own: Own) -> None:
        service.sandbox.image("web")
        boots(service)
        assert await own.do("StartMachine", "sa{sv}", "web", {}) == JOB
        heard: list[tuple[Any, ...]] = []
        while not heard or heard[-1][0] != "JobRemoved":
            heard.append(await own.signal("JobNew", "JobRemoved", "MachineNew", "MachineStateChanged"))
        while ("MachineStateChanged", "web", WEB, "running", "starting") not in heard:
            heard.append(await own.signal("MachineStateChanged"))
        assert heard[0] == ("JobNew", 1, JOB, "web", "start")
        assert ("JobRemoved", 1, JOB, "web", "start", "done", "") in heard
        assert [row for row in heard if row[0] == "MachineStateChanged"] == [
            ("MachineStateChanged", "web", WEB, "starting", "stopped"),
            ("MachineStateChanged", "web", WEB, "running", "starting"),
        ]
        new, removed = heard.index(("MachineNew", "web", WEB)), [row[0] for row in heard].index("JobRemoved")
        assert new < removed

    async def test_the_unit(self, service: Served, own: Own) -> None:
        service.sandbox.image("web")
        boots(service)
        await own.do("StartMachine", "sa{sv}", "web", {})
        await own.signal("JobRemoved")
        [(name, mode, properties)] = service.pid1.called("StartTransientUnit")
        assert (name, mode) == (UNIT, "fail")
        assert ("Type", "s", "notify") in properties
        assert ("RestartForceExitStatus", "(aiai)", [[133], []]) in [
            (key, kind, list(value) if kind == "(aiai)" else value) for key, kind, value in properties
        ]

    @pytest.mark.parametrize(
        ("name", "given", "error", "text"),
        [
            ("gone", {}, "org.freedesktop.machine1.NoSuchImage", "No image 'gone' known"),
            ("my_box", {}, "org.freedesktop.DBus.Error.InvalidArgs", "try 'my-box'"),
            ("empty", {}, ERROR + "NotBootable", "holds no operating system"),
            (
                "web",
                {"frob": Variant("b", True)},
                "org.freedesktop.DBus.Error.InvalidArgs",
                "Unknown option 'frob'",
            ),
        ],
    )
    async def test_refused(
        self, service: Served, own: Own, name: str, given: dict[str, Variant], error: str, text: str
    ) -> None:
        service.sandbox.image("web")
        service.sandbox.image("empty", os_release=False)
        answer = await own.refused("StartMachine", "sa{sv}", name, given)
        assert answer[0] == error
        assert text in answer[1]
        assert [m.member for m in await own.until_quiet()] == []

    async def test_failed(self, service: Served, own: Own) -> None:
        service.sandbox.image("web")
        service.sandbox.last_words = "Directory tree is busy"

        def fail(unit: str, *_: Any) -> None:
            service.pid1.emit(unit, ActiveState="failed", SubState="failed", Result="exit-code")
            service.pid1.finish(unit, "failed")

        service.pid1.hooks["StartTransientUnit"] = fail
        await own.do("StartMachine", "sa{sv}", "web", {})
        *_, result, message = await own.signal("JobRemoved")
        assert result == "failed"
        assert "Directory tree is busy" in message
        assert await own.get(WEB, OWN_MACHINE, "State") == "failed"
        assert await own.get(WEB, OWN_MACHINE, "Result")


class TestStop:
    async def test_power_off(self, service: Served, own: Own) -> None:
        _, leader = await service.running("web")
        leader.on_kill = lambda signo: ends(service)
        await own.do("StopMachine", "sa{sv}", "web", {"timeout-usec": Variant("t", 60_000_000)})
        assert await own.signal("JobRemoved") == ("JobRemoved", 1, JOB, "web", "stop", "done", "")
        assert leader.signals == [POWEROFF_SIGNAL]

    async def test_limits(self, service: Served, own: Own) -> None:
        await service.running("web")
        service.pid1.hooks["KillUnit"] = lambda *_: ends(service)
        given = {"timeout-usec": Variant("t", 10_000), "terminate-timeout-usec": Variant("t", 20_000)}
        await own.do("StopMachine", "sa{sv}", "web", given)
        *_, result, message = await own.signal("JobRemoved")
        assert (result, message) == (
            "done",
            "Machine 'web' did not end when terminated within 0.02 s. It was killed.",
        )

    @pytest.mark.parametrize(
        ("key", "value", "text"),
        [
            (
                "mode",
                Variant("s", "gently"),
                "Unknown mode 'gently', expected one of poweroff, terminate, kill.",
            ),
            ("mode", Variant("u", 1), "Option 'mode' has type 'u', expected 's'."),
            ("timeout-usec", Variant("t", 0), "Option 'timeout-usec' must be between 1 µs and a week."),
            (
                "timeout-usec",
                Variant("t", 2**64 - 1),
                "Option 'timeout-usec' must be between 1 µs and a week.",
            ),
            (
                "Mode",
                Variant("s", ""),
                "Unknown option 'Mode', known are: mode, terminate-timeout-usec, timeout-usec.",
            ),
        ],
    )
    async def test_options(self, service: Served, own: Own, key: str, value: Variant, text: str) -> None:
        await service.running("web")
        answer = await own.refused("StopMachine", "sa{sv}", "web", {key: value})
        assert answer == ("org.freedesktop.DBus.Error.InvalidArgs", text)

    async def test_kill(self, service: Served, own: Own) -> None:
        _, leader = await service.running("web")
        service.pid1.hooks["KillUnit"] = lambda *_: ends(service)
        await own.do("StopMachine", "sa{sv}", "web", {"mode": Variant("s", "kill")})
        assert (await own.signal("JobRemoved"))[5] == "done"
        assert leader.signals == []

    async def test_of_nothing(self, service: Served, own: Own) -> None:
        service.sandbox.image("web")
        assert (await own.refused("StopMachine", "sa{sv}", "web", {}))[0] == ERROR + "NotRunning"
        assert (await own.refused("StopMachine", "sa{sv}", "gone", {}))[0].endswith("NoSuchMachine")


class TestJobs:
    async def test_object(self, service: Served, own: Own) -> None:
        _, leader = await service.running("web")
        path = await own.do("RebootMachine", "sa{sv}", "web", {})
        assert [list(row) for row in await own.do("ListJobs", "")] == [[1, path, "web", "reboot", "running"]]
        expected = {"Id": 1, "Machine": "web", "Verb": "reboot", "State": "running"}
        assert await own.get_all(path) == expected
        assert await own.get(WEB, OWN_MACHINE, "Job") == path
        assert leader.signals == [REBOOT_SIGNAL]
        assert 'name="1"' in await own.introspect("/org/machined1/job")
        await own.call("Cancel", path=path, interface="org.machined1.Job")
        assert await own.signal("JobRemoved") == (
            "JobRemoved",
            1,
            path,
            "web",
            "reboot",
            "canceled",
            "The job was canceled.",
        )
        with pytest.raises(RemoteError) as raised:
            await own.get_all(path)
        assert raised.value.name == "org.freedesktop.DBus.Error.UnknownObject"
        assert await own.get(WEB, OWN_MACHINE, "Job") == "/"

    @pytest.mark.parametrize("label", ["0", "2", "01", "x", "_31", "-1", "9" * 30])
    async def test_no_such_job(self, service: Served, own: Own, label: str) -> None:
        with pytest.raises(RemoteError):
            await own.get_all(f"/org/machined1/job/{label.replace('-', '_')}")

    async def test_cancelling_asks_as_the_verb_does(self, service: Served, own: Own) -> None:
        await service.running("web")
        path = await own.do("RebootMachine", "sa{sv}", "web", {})
        service.pretend(1000)
        await own.call("Cancel", path=path, interface="org.machined1.Job")
        assert service.polkit.questions.get_nowait().action == "org.machined1.reboot-machine"
        await own.signal("JobRemoved")

    async def test_joined(self, service: Served, own: Own) -> None:
        await service.running("web")
        first = await own.do("RebootMachine", "sa{sv}", "web", {})
        assert await own.do("RebootMachine", "sa{sv}", "web", {}) == first
        service.sandbox.image("web")
        await own.do("StopMachine", "sa{sv}", "web", {})
        assert (await own.signal("JobRemoved"))[5] == "canceled"
        assert (await own.refused("RebootMachine", "sa{sv}", "web", {}))[0] == ERROR + "JobRunning"


class TestStates:
    async def test_properties_changed(self, service: Served, own: Own) -> None:
        await service.running("web")
        changes: list[dict[str, Any]] = []
        while not changes or changes[-1].get("State") != "running":
            _, interface, values, invalidated = await own.signal("PropertiesChanged")
            assert (interface, invalidated) == (OWN_MACHINE, [])
            changes.append({key: variant.value for key, variant in values.items()})
        assert [change["State"] for change in changes] == ["starting", "running"]
        assert changes[-1].keys() == {"State", "StateTimestamp", "Result"}
        assert changes[-1]["StateTimestamp"] == await own.get(WEB, OWN_MACHINE, "StateTimestamp")

    async def test_a_stopped_image_has_an_object(self, service: Served, own: Own) -> None:
        tree = service.sandbox.image("web")
        assert await own.get_all(WEB) == {}
        values = await own.get_all(WEB, OWN_MACHINE)
        assert values == {
            "State": "stopped",
            "StateTimestamp": 0,
            "Job": "/",
            "Result": "",
            "Enabled": False,
            "Unit": UNIT,
            "Image": str(tree),
        }

    async def test_wait(self, service: Served, own: Own) -> None:
        service.sandbox.image("web")
        waiting = asyncio.ensure_future(own.do("WaitMachine", "sst", "web", "running", 0))
        assert await own.do("GetMachineState", "s", "web") == "stopped"
        await service.running("web")
        assert await waiting == "running"
        answer = await own.refused("WaitMachine", "sst", "web", "stopped", 1000)
        assert answer[0] == "org.freedesktop.DBus.Error.Timeout"
        assert await own.call("Wait", "st", "running", 0, path=WEB, interface=OWN_MACHINE) == "running"

    async def test_state_of_nothing(self, service: Served, own: Own) -> None:
        assert (await own.refused("GetMachineState", "s", "gone"))[0].endswith("NoSuchMachine")

    async def test_list(self, service: Served, own: Own, monkeypatch: pytest.MonkeyPatch) -> None:
        async def tell(machines: Sequence[Any]) -> list[tuple[dict[str, str], list[str]]]:
            return [({"ID": "debian", "VERSION_ID": "13"}, ["192.0.2.1", "fe80::1"]) for _ in machines]

        monkeypatch.setattr(service.core.guests, "for_listing", tell)
        service.sandbox.image("off")
        service.sandbox.image("not_a_name")
        (service.sandbox.wants[0] / "machined@off.service").symlink_to("/x")
        await service.running("web", service="systemd-nspawn")
        service.core.states.run_failed("broken", "exit-code")
        rows = {row[0]: tuple(row[1:]) for row in await own.do("ListAll", "a{sv}", {})}
        told = ("debian", "13", ["192.0.2.1", "fe80::1"], False)
        assert rows == {
            ".host": ("host", "", "running", *told, "-.slice"),
            "web": ("container", "systemd-nspawn", "running", *told, UNIT),
            "broken": ("container", "", "failed", "", "", [], False, ""),
            "off": ("container", "", "stopped", "", "", [], True, ""),
        }

    async def test_version(self, own: Own) -> None:
        assert await own.get(ROOT, OWN_MANAGER, "Version") == __version__


class TestAutostart:
    async def test_enable(self, service: Served, own: Own) -> None:
        service.sandbox.image("web")
        service.pid1.changes = [["symlink", "/etc/x", "/y"]]
        changes = await own.do("EnableMachine", "sa{sv}", "web", {})
        assert [tuple(row) for row in changes] == [("symlink", "/etc/x", "/y")]
        files = ["machines.target", "machined@web.service"]
        assert service.pid1.called("EnableUnitFiles") == [(files, False, False)]
        assert service.pid1.called("Reload") == [()]

    async def test_disable(self, service: Served, own: Own) -> None:
        service.sandbox.image("web")
        await own.call("Disable", "a{sv}", {}, path=WEB, interface=OWN_MACHINE)
        assert service.pid1.called("DisableUnitFiles") == [(["machined@web.service"], False)]

    async def test_without_an_image(self, service: Served, own: Own) -> None:
        """What is enabled can be disabled when its image has gone."""
        assert (await own.refused("DisableMachine", "sa{sv}", "web", {}))[0].endswith("NoSuchMachine")
        (service.sandbox.wants[0] / "machined@web.service").symlink_to("/x")
        await own.do("DisableMachine", "sa{sv}", "web", {})
        assert (await own.refused("EnableMachine", "sa{sv}", "web", {}))[0].endswith("NoSuchImage")

    async def test_property(self, service: Served, own: Own) -> None:
        service.sandbox.image("web")
        (service.sandbox.wants[0] / "machined@web.service").symlink_to("/x")
        assert (await own.get_all(WEB, OWN_MACHINE))["Enabled"] is True


async def test_who_only_waits_and_leaves(service: Served) -> None:
    """Nothing is kept for a caller that has left."""
    service.sandbox.image("web")
    other = await service.connect()
    waiting = asyncio.ensure_future(
        other.call("WaitMachine", "sst", "web", "running", 0, interface=OWN_MANAGER)
    )
    await service.waits_for("web")
    other.bus.close()
    with pytest.raises(ConnectionResetError):
        await waiting
    await service.idle()
    assert service.core.states._waiters == {}


async def test_login_with_a_type_of_terminal(service: Served, own: Own) -> None:
    given = {"term": Variant("s", "xterm"), "rows": Variant("u", 50), "columns": Variant("u", 132)}
    body, fds = await own.call_with_fds("OpenLogin", "sa{sv}", ".host", given, interface=OWN_MANAGER)
    with fds:
        assert len(fds) == 1
    assert body[1].startswith("/dev/pts/")
    [(_, _, properties, _)] = service.connector.guest.calls
    assert properties["Environment"] == ["TERM=xterm"]
    answer = await own.refused("OpenLogin", "sa{sv}", ".host", {"rows": Variant("u", 70_000)})
    assert answer[1] == "A terminal has at most 65535 rows and columns."


async def test_the_own_object_of_the_caller(service: Served, own: Own) -> None:
    with pytest.raises(RemoteError):
        await own.call("Get", "ss", OWN_MACHINE, "State", path=ROOT + "/machine/self", interface=PROPERTIES)
