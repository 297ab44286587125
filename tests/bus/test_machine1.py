# SPDX-License-Identifier: LGPL-2.1-or-later
"""org.freedesktop.machine1: what callers and listeners see, and in which order."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest
from dbus_fast import Message, MessageFlag, MessageType, Variant

from machined.bus.connection import RemoteError
from machined.bus.names import ROOT, SERVICE
from machined.bus.transport import BusSocket, reader
from machined.linux.fds import FdSet
from machined.linux.process import PidRef
from machined.model import adoption
from tests.fakes.service import MACHINE, Client, Served
from tests.fakes.systemd1 import DEFAULTS
from tests.fakes.world import turns

WEB = ROOT + "/machine/web"
UNIT = "machine-web.service"
REGISTER = ("RegisterMachine", "sayssus")


def arguments(name: str = "web", *, cls: str = "container", leader: int = 0) -> list[Any]:
    return [name, b"\x01" * 16, "test", cls, leader, "/tree"]


class Ordered(Client):
    """A client that notes its replies among the signals."""

    def __init__(self, client: Client) -> None:
        super().__init__(client.bus)
        process = client.bus._receive
        self.order: list[str] = []

        def look(message: Message) -> None:
            kinds = {MessageType.METHOD_RETURN: "reply", MessageType.ERROR: "error"}
            self.order.append(kinds.get(message.message_type) or message.member or "")
            process(message)

        assert isinstance(client.bus._sock, BusSocket)
        asyncio.get_running_loop().add_reader(
            client.bus._sock.fileno(), reader(client.bus._sock, look, client.bus.lost)
        )


@pytest.fixture
async def ordered(service: Served) -> Ordered:
    await service.client.listen(
        f"type='signal',sender='{SERVICE}',path='{ROOT}',interface='org.freedesktop.machine1.Manager'"
    )
    return Ordered(service.client)


@pytest.fixture(autouse=True)
def in_a_unit(service: Served) -> None:
    """Who calls here is in a unit."""
    service.sandbox.units[os.getpid()] = UNIT
    service.pid1.units[UNIT] = {**DEFAULTS, "ActiveState": "active", "SubState": "running"}


class TestRegister:
    async def test_new_comes_before_the_reply(self, service: Served, ordered: Ordered) -> None:
        assert await ordered.call(*REGISTER, *arguments()) == WEB
        assert ordered.order == ["MachineNew", "reply"]
        assert await ordered.signal() == ("MachineNew", "web", WEB)
        machine = service.core.registry.find("web")
        assert (machine.leader_pid, machine.id, machine.unit) == (os.getpid(), b"\x01" * 16, UNIT)
        assert (service.sandbox.records / "web").exists()

    async def test_removed_comes_before_the_reply(self, service: Served, ordered: Ordered) -> None:
        await ordered.call(*REGISTER, *arguments())
        ordered.order.clear()
        assert await ordered.call("UnregisterMachine", "s", "web") == []
        assert ordered.order == ["MachineRemoved", "reply"]
        assert not (service.sandbox.records / "web").exists()

    async def test_twice(self, service: Served, ordered: Ordered) -> None:
        await ordered.call(*REGISTER, *arguments())
        ordered.order.clear()
        with pytest.raises(RemoteError, match="Machine 'web' already exists") as raised:
            await ordered.call(*REGISTER, *arguments())
        assert raised.value.name == "org.freedesktop.machine1.MachineExists"
        assert ordered.order == ["error"]

    async def test_with_network(self, service: Served) -> None:
        await service.client.call("RegisterMachineWithNetwork", "sayssusai", *arguments(), [3, 4])
        assert await service.client.get(WEB, MACHINE, "NetworkInterfaces") == [3, 4]

    @pytest.mark.parametrize("version", [257, 258], indirect=True)
    async def test_supervisor(self, service: Served) -> None:
        """From 258 on the sender is remembered, when it is not the leader itself."""
        leader = os.getppid()
        service.sandbox.units[leader] = UNIT
        await service.client.call(*REGISTER, *arguments(leader=leader))
        machine = service.core.registry.find("web")
        assert machine.supervisor_pid == (os.getpid() if service.core.version >= 258 else 0)
        await service.client.call(*REGISTER, *arguments("own"))
        assert service.core.registry.find("own").supervisor_pid == 0

    async def test_list(self, service: Served) -> None:
        await service.client.call(*REGISTER, *arguments(cls="vm"))
        rows = [tuple(row) for row in await service.client.call("ListMachines")]
        assert sorted(rows) == [
            (".host", "host", "", ROOT + "/machine/_2ehost"),
            ("web", "vm", "test", WEB),
        ]


class TestCreate:
    SCOPE = "machine-web.scope"

    def create(self, client: Client, *properties: list[Any]) -> asyncio.Task[Any]:
        return asyncio.ensure_future(
            client.call("CreateMachine", "sayssusa(sv)", *arguments(), list(properties))
        )

    async def test_the_reply_waits_for_the_scope(self, service: Served, ordered: Ordered) -> None:
        task = self.create(ordered, ["Slice", Variant("s", "")], ["TasksMax", Variant("t", 5)])
        assert await ordered.signal() == ("MachineNew", "web", WEB)
        assert not task.done()
        # Others are served meanwhile.
        assert await ordered.get(WEB, MACHINE, "State") == "opening"
        ordered.order.clear()
        service.pid1.emit(self.SCOPE, ActiveState="active", SubState="running")
        service.pid1.finish(self.SCOPE)
        assert await task == WEB
        assert await ordered.get(WEB, MACHINE, "State") == "running"
        [(name, mode, properties)] = service.pid1.called("StartTransientUnit")
        assert (name, mode) == (self.SCOPE, "fail")
        assert properties[-2:] == [("Slice", "s", ""), ("TasksMax", "t", 5)]
        assert ("PIDFDs", "ah", [0]) in properties
        assert len(service.pid1.fd_targets) == 1
        assert "pidfd" in service.pid1.fd_targets[0]

    async def test_the_end_of_the_job_overtakes_the_reply(self, service: Served) -> None:
        """JobRemoved is sent before the reply that names the job."""
        service.pid1.emit(self.SCOPE, ActiveState="active")
        service.pid1.hooks["StartTransientUnit"] = lambda *_: service.pid1.finish(self.SCOPE)
        assert await self.create(service.client) == WEB
        assert await service.client.get(WEB, MACHINE, "State") == "running"

    async def test_failed(self, service: Served) -> None:
        service.pid1.hooks["StartTransientUnit"] = lambda *_: service.pid1.finish(self.SCOPE, "failed")
        await service.client.listen()
        with pytest.raises(RemoteError) as raised:
            await self.create(service.client)
        assert raised.value.name == "org.freedesktop.systemd1.JobFailed"
        assert raised.value.text == "Start job for unit machine-web.scope failed with 'failed'"
        assert await service.client.signal("MachineRemoved") == ("MachineRemoved", "web", WEB)

    async def test_descriptors_of_the_caller_are_passed_on(self, service: Served) -> None:
        service.pid1.emit(self.SCOPE, ActiveState="active")
        service.pid1.hooks["StartTransientUnit"] = lambda *_: service.pid1.finish(self.SCOPE)
        with open("/dev/null", "rb") as null:  # noqa: ASYNC230 - not a file that could block
            await service.client.call(
                "CreateMachine",
                "sayssusa(sv)",
                *arguments(),
                [["StandardInputFileDescriptor", Variant("h", 0)]],
                fds=[null.fileno()],
            )
        assert service.pid1.fd_targets[0] == "/dev/null"
        assert "pidfd" in service.pid1.fd_targets[1]
        [(_, _, properties)] = service.pid1.called("StartTransientUnit")
        assert ("PIDFDs", "ah", [1]) in properties
        assert properties[-1] == ("StandardInputFileDescriptor", "h", 0)

    async def test_two_at_once(self, service: Served) -> None:
        service.pid1.emit(self.SCOPE, ActiveState="active")
        first = self.create(service.client)
        second = self.create(service.client)
        with pytest.raises(RemoteError, match="already exists"):
            await second
        await service.client.call("ListMachines")
        service.pid1.finish(self.SCOPE)
        assert await first == WEB

    async def test_given_back(self, service: Served) -> None:
        service.pid1.emit(self.SCOPE, ActiveState="active")
        service.pid1.hooks["StartTransientUnit"] = lambda *_: service.pid1.finish(self.SCOPE)
        unreferenced = asyncio.Event()
        service.pid1.hooks["UnrefUnit"] = lambda name: unreferenced.set()
        await self.create(service.client)
        await service.client.call("UnregisterMachine", "s", "web")
        async with asyncio.timeout(10):
            await unreferenced.wait()


class TestEnds:
    async def test_terminate(self, service: Served) -> None:
        await service.client.call(*REGISTER, *arguments())
        await service.client.listen()
        await service.client.call("TerminateMachine", "s", "web")
        assert await service.client.get(WEB, MACHINE, "State") == "closing"
        assert service.pid1.called("StopUnit") == [(UNIT, "fail")]
        service.pid1.emit(UNIT, ActiveState="inactive", SubState="dead")
        service.pid1.finish(UNIT)
        assert await service.client.signal("MachineRemoved") == ("MachineRemoved", "web", WEB)

    async def test_the_unit_goes_away(self, service: Served) -> None:
        await service.client.call(*REGISTER, *arguments())
        await service.client.listen()
        service.pid1.remove(UNIT)
        assert await service.client.signal("MachineRemoved") == ("MachineRemoved", "web", WEB)

    async def test_kill(self, service: Served) -> None:
        _, leader = await service.machine("web")
        for whom in ("leader", "all", ""):
            await service.client.call("KillMachine", "ssi", "web", whom, 10)
        await service.client.call("Kill", "si", "leader", 12, path=WEB, interface=MACHINE)
        assert leader.signals == [10, 12]
        assert service.pid1.called("KillUnit") == [(UNIT, "all", 10)] * 2

    async def test_kill_a_leader_that_has_gone(self, service: Served) -> None:
        _, leader = await service.machine("web")
        leader.dead = True
        with pytest.raises(RemoteError) as raised:
            await service.client.call("KillMachine", "ssi", "web", "leader", 15)
        assert raised.value.name == "org.freedesktop.DBus.Error.UnixProcessIdUnknown"

    async def test_unregistering_the_host_does_nothing(self, service: Served) -> None:
        await service.client.call("UnregisterMachine", "s", ".host")
        assert service.core.registry.get(".host") is not None


BOTH = "Both LeaderPID and LeaderPIDFDID must be specified to identify the leader process by PIDFDID"


@pytest.mark.parametrize("version", [262], indirect=True)
class TestEx:
    async def test_register(self, service: Served) -> None:
        with PidRef.open(os.getpid()) as leader, FdSet([os.dup(leader.fileno())]) as fds:
            properties = [
                ["Id", Variant("ay", b"\x02" * 16)],
                ["Service", Variant("s", "ex")],
                ["Class", Variant("s", "vm")],
                ["LeaderPIDFD", Variant("h", 0)],
                ["RootDirectory", Variant("s", "/r")],
                ["NetworkInterfaces", Variant("ai", [7])],
                ["VSockCID", Variant("u", 9)],
                ["SSHAddress", Variant("s", "vsock/9")],
                ["SSHPrivateKeyPath", Variant("s", "/key")],
            ]
            path = await service.client.call(
                "RegisterMachineEx", "sa(sv)", "web", properties, fds=[fds.peek(0)]
            )
            pidfd_id = leader.id
        assert path == WEB
        values = await service.client.get_all(WEB, MACHINE)
        expected = {
            "Id": b"\x02" * 16,
            "Service": "ex",
            "Class": "vm",
            "Leader": os.getpid(),
            "LeaderPIDFDId": pidfd_id or 0,
            "RootDirectory": "/r",
            "NetworkInterfaces": [7],
            "VSockCID": 9,
            "SSHAddress": "vsock/9",
            "SSHPrivateKeyPath": "/key",
            "Unit": UNIT,
        }
        assert expected.items() <= values.items()
        assert await service.client.call("GetMachineSSHInfo", "s", "web") == ["vsock/9", "/key"]

    @pytest.mark.parametrize(
        ("properties", "text"),
        [
            ([["Frob", Variant("s", "")]], "Unknown property 'Frob'"),
            ([["Id", Variant("ay", b"x")]], "Invalid machine ID parameter"),
            ([["Class", Variant("s", "host")]], "Invalid machine class parameter"),
            ([["RootDirectory", Variant("s", "r")]], "Root directory must be empty or an absolute path"),
            ([["LeaderPID", Variant("u", 9)]], BOTH),
            ([["LeaderPIDFD", Variant("h", 3)]], "Failed to parse PIDFD: Bad file descriptor"),
        ],
    )
    async def test_refused(self, client: Client, properties: list[Any], text: str) -> None:
        with pytest.raises(RemoteError) as raised:
            await client.call("RegisterMachineEx", "sa(sv)", "web", properties)
        assert (raised.value.name, raised.value.text) == ("org.freedesktop.DBus.Error.InvalidArgs", text)

    async def test_a_value_of_another_type(self, client: Client) -> None:
        with pytest.raises(RemoteError) as raised:
            await client.call("RegisterMachineEx", "sa(sv)", "web", [["Service", Variant("u", 1)]])
        assert (raised.value.name, raised.value.text) == (
            "System.Error.ENXIO",
            "No such device or address",
        )

    async def test_without_a_class(self, client: Client) -> None:
        with pytest.raises(RemoteError) as raised:
            await client.call("RegisterMachineEx", "sa(sv)", "web", [])
        assert raised.value.name == "org.freedesktop.DBus.Error.NotSupported"

    async def test_another_process_with_that_number(self, client: Client) -> None:
        with PidRef.open(os.getpid()) as leader:
            if leader.id is None:
                pytest.skip("pidfds have no inodes of their own before Linux 6.9")
            wrong = leader.id + 1
        properties = [
            ["Class", Variant("s", "container")],
            ["LeaderPID", Variant("u", os.getpid())],
            ["LeaderPIDFDID", Variant("t", wrong)],
        ]
        with pytest.raises(RemoteError) as raised:
            await client.call("RegisterMachineEx", "sa(sv)", "web", properties)
        assert raised.value.name == "org.freedesktop.DBus.Error.UnixProcessIdUnknown"


@pytest.mark.parametrize(
    ("version", "known"), [(257, False), (258, False), (259, True)], indirect=["version"]
)
@pytest.mark.parametrize("member", ["RegisterMachineEx", "CreateMachineEx"])
async def test_ex_came_with_259(client: Client, member: str, known: bool) -> None:
    with pytest.raises(RemoteError) as raised:
        await client.call(member, "u", 1)
    assert raised.value.name.endswith("InvalidArgs" if known else "UnknownMethod")


async def test_a_restart_announces_again(service: Served) -> None:
    """What runs is announced with MachineNew, as stock does it, with its times kept."""
    await service.client.listen()
    (service.sandbox.records / "old").write_text(
        f"SCOPE={UNIT}\nLEADER={os.getpid()}\nCLASS=container\nREALTIME=5\nMONOTONIC=6\n", encoding="utf-8"
    )
    adopted = adoption.adopt(service.core.registry, service.core.records)
    service.core.announce(adopted)
    assert await service.client.signal("MachineNew") == ("MachineNew", "old", ROOT + "/machine/old")
    assert await service.client.get(ROOT + "/machine/old", MACHINE, "Timestamp") == 5


async def test_flags_may_combine(service: Served) -> None:
    service.client.send(
        "ListMachines", flags=MessageFlag.NO_REPLY_EXPECTED | MessageFlag.ALLOW_INTERACTIVE_AUTHORIZATION
    )
    await turns()
    assert await service.client.call("ListMachines")
