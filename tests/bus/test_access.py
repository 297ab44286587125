# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who may do what: the privilege of a row, polkit, owners."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest
from dbus_fast import Message, MessageType, Variant

from machined.bus import polkit as module
from machined.bus import systemd1
from machined.bus.connection import RemoteError
from machined.bus.names import LOG_CONTROL, ROOT
from tests.fakes.polkit import CHALLENGE, FAILED, NO, YES, Question
from tests.fakes.service import MACHINE, OWN_MANAGER, PROPERTIES, Client, Served
from tests.fakes.world import turns

DENIED = "org.freedesktop.DBus.Error.AccessDenied"
WEB = ROOT + "/machine/web"
ACTION = "org.freedesktop.machine1."
USER = 1000


async def refused(
    client: Client, member: str, signature: str = "", *body: Any, **more: Any
) -> tuple[str, str]:
    with pytest.raises(RemoteError) as raised:
        await client.call(member, signature, *body, **more)
    return raised.value.name, raised.value.text


class TestPrivilege:
    @pytest.fixture(autouse=True)
    def user(self, service: Served) -> None:
        service.pretend(USER)

    @pytest.mark.parametrize(
        "member",
        [
            "CreateMachine",
            "CreateMachineWithNetwork",
            "RegisterMachine",
            "RegisterMachineWithNetwork",
            "OpenMachinePTY",
        ],
    )
    async def test_refused_before_the_arguments_are_looked_at(self, service: Served, member: str) -> None:
        text = f"Access to org.freedesktop.machine1.Manager.{member}() not permitted."
        assert await refused(service.client, member) == (DENIED, text)
        assert await refused(service.client, member, "u", 7) == (DENIED, text)

    async def test_on_the_machine(self, service: Served) -> None:
        """Unlike OpenMachinePTY of the Manager, in 257 too: polkit is asked."""
        service.polkit.answer = NO
        await service.machine("web")
        answer = await refused(service.client, "OpenPTY", path=WEB, interface=MACHINE)
        assert answer == (DENIED, "Access denied")
        assert (await service.polkit.questions.get()).action == "org.freedesktop.machine1.open-pty"

    async def test_setting_properties(self, service: Served) -> None:
        arguments = ("org.freedesktop.LogControl1", "LogLevel", Variant("s", "debug"))
        name, _ = await refused(
            service.client, "Set", "ssv", *arguments, path=LOG_CONTROL, interface=PROPERTIES
        )
        assert name == DENIED

    @pytest.mark.parametrize("version", [258], indirect=True)
    async def test_from_258_on_polkit_decides(self, service: Served) -> None:
        service.polkit.answer = NO
        assert await refused(service.client, "OpenMachinePTY") == (
            "org.freedesktop.DBus.Error.InvalidArgs",
            "Invalid arguments '' to call org.freedesktop.machine1.Manager.OpenMachinePTY(), expecting 's'.",
        )
        body = ["web", b"", "x", "container", 0, ""]
        assert await refused(service.client, "RegisterMachine", "sayssus", *body) == (
            DENIED,
            "Access denied",
        )
        question = service.polkit.questions.get_nowait()
        assert question.action == ACTION + "register-machine"
        assert question.details == {"name": "web", "class": "container"}


class TestRoot:
    async def test_polkit_is_not_asked(self, service: Served) -> None:
        service.polkit.answer = NO
        await service.machine("web")
        await service.client.call("KillMachine", "ssi", "web", "leader", 10)
        assert service.polkit.questions.empty()

    async def test_nor_for_the_user_we_run_as(
        self, service: Served, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(os, "geteuid", lambda: USER)
        service.pretend(USER)
        service.polkit.answer = NO
        await service.machine("web")
        await service.client.call("KillMachine", "ssi", "web", "leader", 10)
        assert service.polkit.questions.empty()


class TestPolkit:
    @pytest.fixture(autouse=True)
    async def user(self, service: Served) -> None:
        service.pretend(USER)
        await service.running("web")

    @pytest.mark.parametrize(
        ("member", "signature", "body", "action", "details"),
        [
            ("UnregisterMachine", "s", ["web"], "manage-machines", {"machine": "web", "verb": "unregister"}),
            ("TerminateMachine", "s", ["web"], "manage-machines", {"machine": "web", "verb": "terminate"}),
            (
                "KillMachine",
                "ssi",
                ["web", "all", 9],
                "manage-machines",
                {"machine": "web", "verb": "kill"},
            ),
            (
                "OpenMachineRootDirectory",
                "s",
                ["web"],
                "manage-machines",
                {"machine": "web", "verb": "open_root_directory"},
            ),
            ("OpenMachineLogin", "s", ["web"], "login", {"machine": "web", "verb": "login"}),
            ("OpenMachineLogin", "s", [".host"], "host-login", {"machine": ".host", "verb": "login"}),
            (
                "OpenMachineShell",
                "sssasas",
                ["web", "joe", "/bin/ls", ["ls", "-l"], []],
                "shell",
                {"machine": "web", "user": "joe", "program": "/bin/ls", "command_line": "ls -l"},
            ),
            (
                "OpenMachineShell",
                "sssasas",
                [".host", "", "/bin/ls", [], []],
                "host-shell",
                {"machine": ".host", "user": "root", "program": "/bin/ls", "command_line": "/bin/ls"},
            ),
        ],
    )
    async def test_details(
        self,
        service: Served,
        member: str,
        signature: str,
        body: list[Any],
        action: str,
        details: dict[str, str],
    ) -> None:
        service.polkit.answer = NO
        assert await refused(service.client, member, signature, *body) == (DENIED, "Access denied")
        question = service.polkit.questions.get_nowait()
        assert question.kind == "system-bus-name"
        assert question.subject == {"name": service.client.bus.unique_name}
        assert question.action == ACTION + action
        assert question.details == details
        assert question.flags == 0
        assert service.core.registry.get("web") is not None
        assert service.pid1.called("KillUnit") == service.pid1.called("StopUnit") == []

    @pytest.mark.parametrize(
        ("member", "signature", "body", "verb"),
        [
            ("StartMachine", "sa{sv}", ["new", {}], "start"),
            ("StopMachine", "sa{sv}", ["web", {}], "stop"),
            ("RebootMachine", "sa{sv}", ["web", {}], "reboot"),
            ("EnableMachine", "sa{sv}", ["new", {}], "enable"),
            ("DisableMachine", "sa{sv}", ["new", {}], "disable"),
            ("WaitMachine", "sst", ["web", "running", 0], "wait"),
        ],
    )
    async def test_our_own(
        self, service: Served, member: str, signature: str, body: list[Any], verb: str
    ) -> None:
        service.sandbox.image("new")
        service.polkit.answer = NO
        name, _ = await refused(service.client, member, signature, *body, interface=OWN_MANAGER)
        assert name == DENIED
        question = service.polkit.questions.get_nowait()
        assert question.action == f"org.machined1.{verb}-machine"
        assert question.details == {"machine": body[0], "verb": verb}
        assert list(service.core.jobs) == []

    async def test_allowed(self, service: Served) -> None:
        service.polkit.answer = YES
        await service.client.call("UnregisterMachine", "s", "web")
        assert service.core.registry.get("web") is None

    @pytest.mark.parametrize("interactive", [True, False])
    async def test_challenge(self, service: Served, interactive: bool) -> None:
        service.polkit.answer = CHALLENGE
        answer = await refused(service.client, "UnregisterMachine", "s", "web", interactive=interactive)
        assert answer == (
            "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired",
            "Interactive authentication required.",
        )
        assert service.polkit.questions.get_nowait().flags == int(interactive)

    async def test_no_polkit(self, service: Served) -> None:
        await service.polkit.leave()
        name, _ = await refused(service.client, "UnregisterMachine", "s", "web")
        assert name == DENIED
        assert service.core.registry.get("web") is not None

    async def test_polkit_out_of_order(self, service: Served) -> None:
        service.polkit.error = FAILED
        name, _ = await refused(service.client, "UnregisterMachine", "s", "web")
        assert name == DENIED

    async def ask(self, service: Served, client: Client) -> tuple[asyncio.Task[Any], Question]:
        """A call that polkit is asked about, and the question."""
        service.polkit.go_on.clear()
        task = asyncio.ensure_future(client.call("UnregisterMachine", "s", "web"))
        return task, await service.polkit.questions.get()

    async def test_others_are_served_while_a_person_types(self, service: Served) -> None:
        task, _ = await self.ask(service, service.client)
        assert len(await service.client.call("ListMachines")) == 2
        service.polkit.go_on.set()
        await task

    async def test_the_machine_is_looked_at_again(self, service: Served) -> None:
        """Minutes have gone by: another machine of this name is not the one that was meant."""
        task, _ = await self.ask(service, service.client)
        service.core.registrar.unregister(service.core.registry.find("web"))
        await service.machine("web")
        service.polkit.go_on.set()
        with pytest.raises(RemoteError, match="No machine 'web' known"):
            await task
        assert service.core.registry.get("web") is not None

    async def test_a_caller_that_leaves(self, service: Served) -> None:
        other = await service.connect()
        task, question = await self.ask(service, other)
        other.bus.close()
        with pytest.raises(ConnectionResetError):
            await task
        assert await service.polkit.cancelled.get() == question.cancellation
        service.polkit.go_on.set()
        await service.client.call("ListMachines")
        assert service.core.registry.get("web") is not None

    async def test_our_own_end(self, service: Served) -> None:
        task, question = await self.ask(service, service.client)
        await service.service.dispatcher.close()
        with pytest.raises(RemoteError, match="The manager is going down"):
            await task
        assert await service.polkit.cancelled.get() == question.cancellation
        service.polkit.go_on.set()

    async def test_match_rules_do_not_pile_up(self, service: Served) -> None:
        """The bus allows a connection so many."""
        rules: list[str] = []
        add, send = service.bus.add_match, service.bus.send_message

        async def add_match(rule: str) -> None:
            rules.append(rule)
            await add(rule)

        def send_message(message: Any, fds: Any = None) -> None:
            if message.member == "RemoveMatch":
                rules.remove(message.body[0])
            send(message, fds)

        service.bus.add_match = add_match  # type: ignore[method-assign]
        service.bus.send_message = send_message  # type: ignore[method-assign]
        service.polkit.answer = NO
        await asyncio.gather(*(refused(service.client, "UnregisterMachine", "s", "web") for _ in range(5)))
        assert rules == []
        assert service.service.polkit._waiting == {}

    async def test_limit(self, service: Served, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "MAX_QUESTIONS", 1)
        task, _ = await self.ask(service, service.client)
        name, _ = await refused(service.client, "UnregisterMachine", "s", "web")
        assert name == "org.freedesktop.DBus.Error.LimitsExceeded"
        service.polkit.go_on.set()
        await task


@pytest.mark.parametrize("version", [257, 258], indirect=True)
class TestOwner:
    """From 258 on, who has registered a machine may manage it."""

    async def test_of_the_machine(self, service: Served) -> None:
        await service.machine("web", uid=USER)
        service.pretend(USER)
        service.polkit.answer = NO
        if service.core.version >= 258:
            await service.client.call("UnregisterMachine", "s", "web")
            assert service.polkit.questions.empty()
        else:
            assert await refused(service.client, "UnregisterMachine", "s", "web") == (
                DENIED,
                "Access denied",
            )

    async def test_but_not_its_root_directory(self, service: Served) -> None:
        await service.machine("web", uid=USER)
        service.pretend(USER)
        service.polkit.answer = NO
        assert (await refused(service.client, "OpenMachineRootDirectory", "s", "web"))[0] == DENIED

    async def test_nor_that_of_another(self, service: Served) -> None:
        await service.machine("web", uid=USER + 1)
        service.pretend(USER)
        service.polkit.answer = NO
        assert (await refused(service.client, "UnregisterMachine", "s", "web"))[0] == DENIED


@pytest.mark.parametrize("version", [258], indirect=True)
async def test_processes_of_others_are_not_registered(service: Served) -> None:
    service.pretend(USER)
    body = ["web", b"", "x", "container", os.getpid(), ""]
    answer = await refused(service.client, "RegisterMachine", "sayssus", *body)
    assert answer == (DENIED, "Only root may register machines for other users")


@pytest.mark.parametrize(("version", "asks"), [(257, False), (262, True)], indirect=["version"])
async def test_reading_os_release(service: Served, asks: bool) -> None:
    service.pretend(USER)
    await service.client.call("GetMachineOSRelease", "s", ".host")
    assert service.polkit.questions.empty() is not asks


async def test_a_caller_that_has_left_is_nobody(service: Served) -> None:
    """busctl --expect-reply=no is gone before anybody can ask the bus who it was."""
    await service.machine("web")
    other = await service.connect()
    other.send("UnregisterMachine", "s", ["web"])
    other.bus.close()
    await turns()
    await service.client.call("ListMachines")


async def test_signals_in_the_form_of_pid_1_from_somebody_else(service: Served) -> None:
    """No match rule keeps out what is sent to us by name; only PID 1's own connection counts."""
    await service.running("web")
    before = len(service.pid1.calls)

    def forge(path: str, interface: str, member: str, signature: str, *body: Any) -> None:
        service.client.bus.send_message(
            Message(
                destination=service.bus.unique_name,
                message_type=MessageType.SIGNAL,
                path=path,
                interface=interface,
                member=member,
                signature=signature,
                body=list(body),
            )
        )

    unit = systemd1.UNITS + "machine_2dweb_2eservice"
    forge(
        unit,
        PROPERTIES,
        "PropertiesChanged",
        "sa{sv}as",
        systemd1.UNIT,
        {"ActiveState": Variant("s", "failed")},
        [],
    )
    forge(systemd1.PATH, systemd1.MANAGER, "UnitRemoved", "so", "machine-web.service", unit)
    forge(systemd1.PATH, systemd1.MANAGER, "Reloading", "b", False)
    forge(systemd1.PATH, systemd1.MANAGER, "JobRemoved", "uoss", 1, "/j", "machine-web.service", "done")
    forge("/x", "org.freedesktop.DBus", "NameOwnerChanged", "sss", systemd1.NAME, "", ":1.1")
    await service.client.call("ListMachines")
    assert service.core.states.get("web").is_up()
    assert len(service.pid1.calls) == before
