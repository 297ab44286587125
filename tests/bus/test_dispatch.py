# SPDX-License-Identifier: LGPL-2.1-or-later
"""What sd-bus does for a service and dbus-fast does not: properties, introspection, descriptors, floods."""

from __future__ import annotations

import asyncio
import os
import socket
import xml.etree.ElementTree as ET
from typing import Any

import pytest
from dbus_fast import Message, MessageFlag, MessageType, Variant

from machined.bus import transport
from machined.bus.connection import DBUS, DBUS_PATH, RemoteError
from machined.bus.names import LOG_CONTROL, ROOT, SERVICE
from machined.linux.fds import FdSet
from machined.model.machine import NO_VSOCK_CID, Machine, MachineClass
from machined.model.state import State
from tests.fakes.service import MACHINE, MANAGER, OWN_MACHINE, OWN_MANAGER, Client, Served
from tests.fakes.world import turns
from tests.settled import descriptors

WEB = ROOT + "/machine/web"


class TestProperties:
    async def test_all_of_the_manager(self, client: Client) -> None:
        values = await client.get_all(ROOT)
        assert list(values) == ["PoolPath", "PoolUsage", "PoolLimit"]
        assert values["PoolPath"] == "/var/lib/machines"
        assert values["PoolUsage"] == values["PoolLimit"] == 2**64 - 1

    @pytest.mark.parametrize("version", [257, 262], indirect=True)
    async def test_all_is_what_machine1_has(self, service: Served) -> None:
        machine, _ = await service.running("web")
        service.core.states.guest_says(machine, State.DEGRADED)
        values = await service.client.get_all(WEB)
        parts = [await service.client.get_all(WEB, name) for name in (MACHINE, OWN_MACHINE)]
        assert values == parts[0], "the stock tools ask like this and print whatever comes"
        assert parts[1]["State"] == "degraded"
        names = [
            "Name",
            "Id",
            "Timestamp",
            "TimestampMonotonic",
            "Service",
            "Unit",
            "Subgroup",
            "Leader",
            "LeaderPIDFDId",
            "Supervisor",
            "SupervisorPIDFDId",
            "Class",
            "RootDirectory",
            "NetworkInterfaces",
            "VSockCID",
            "SSHAddress",
            "SSHPrivateKeyPath",
            "State",
            "UID",
        ]
        if service.core.version < 258:
            for name in ("Subgroup", "LeaderPIDFDId", "Supervisor", "SupervisorPIDFDId", "UID"):
                names.remove(name)
        assert list(parts[0]) == names
        assert values["Name"] == "web"
        assert values["Leader"] == machine.leader_pid
        assert values["Id"] == b""
        assert values["VSockCID"] == NO_VSOCK_CID
        assert values["NetworkInterfaces"] == []

    async def test_a_hidden_property_answers(self, service: Served) -> None:
        machine, _ = await service.machine("web")
        assert await service.client.get(WEB, MACHINE, "Scope") == machine.unit
        assert "Scope" not in await service.client.get_all(WEB)
        assert 'name="Scope"' not in await service.client.introspect(WEB)

    async def test_all_of_a_standard_interface_is_nothing(self, client: Client) -> None:
        assert await client.get_all(ROOT, "org.freedesktop.DBus.Peer") == {}

    async def test_image(self, service: Served) -> None:
        service.sandbox.image("with blank")
        [path] = [row[6] for row in await service.client.call("ListImages") if row[0] == "with blank"]
        assert path == ROOT + "/image/with_20blank"
        assert await service.client.call("GetImage", "s", "with blank") == path
        values = await service.client.get_all(path)
        assert values["Name"] == "with blank"
        assert values["Type"] == "directory"
        assert values["Usage"] == 2**64 - 1
        assert len(values) == 10

    async def test_log_control(self, client: Client) -> None:
        values = await client.get_all(LOG_CONTROL)
        assert list(values) == ["LogLevel", "LogTarget", "SyslogIdentifier"]
        set_ = {"path": LOG_CONTROL, "interface": "org.freedesktop.DBus.Properties"}
        interface = "org.freedesktop.LogControl1"
        await client.call("Set", "ssv", interface, "LogLevel", Variant("s", "err"), **set_)
        assert await client.get(LOG_CONTROL, interface, "LogLevel") == "err"
        await client.call("Set", "ssv", interface, "LogLevel", Variant("s", "07"), **set_)
        assert await client.get(LOG_CONTROL, interface, "LogLevel") == "debug"
        for value in (Variant("s", "loud"), Variant("s", "8"), Variant("u", 3)):
            with pytest.raises(RemoteError) as raised:
                await client.call("Set", "ssv", interface, "LogLevel", value, **set_)
            assert raised.value.name == "org.freedesktop.DBus.Error.InvalidArgs"


class TestObjects:
    @pytest.mark.parametrize("name", ["a-b", "1a", "a.b"])
    async def test_labels(self, service: Served, name: str) -> None:
        await service.machine(name)
        path = await service.client.call("GetMachine", "s", name)
        assert path == ROOT + "/machine/" + {"a-b": "a_2db", "1a": "_31a", "a.b": "a_2eb"}[name]
        assert await service.client.get(path, MACHINE, "Name") == name

    async def test_the_host(self, client: Client) -> None:
        assert await client.call("GetMachine", "s", ".host") == ROOT + "/machine/_2ehost"
        assert (await client.get_all(ROOT + "/machine/_2ehost"))["Class"] == "host"

    async def test_self(self, service: Served) -> None:
        path = ROOT + "/machine/self"
        with pytest.raises(RemoteError) as raised:
            await service.client.get_all(path)
        assert raised.value.name == "org.freedesktop.DBus.Error.UnknownObject"
        await service.machine("web", "session-1.scope")
        service.sandbox.units[os.getpid()] = "session-1.scope"
        assert await service.client.get(path, MACHINE, "Name") == "web"
        assert await service.client.get(path, OWN_MACHINE, "State") in {"starting", "running"}
        assert await service.client.call("GetMachineByPID", "u", 0) == WEB

    async def test_by_leader(self, service: Served) -> None:
        service.sandbox.units[os.getpid()] = "x.scope"
        service.pid1.emit("x.scope", ActiveState="active")
        await service.client.call(
            "RegisterMachine", "sayssus", "web", b"", "test", "container", os.getpid(), ""
        )
        assert await service.client.call("GetMachineByPID", "u", os.getpid()) == WEB
        assert await service.client.get(WEB, MACHINE, "Leader") == os.getpid()

    @pytest.mark.parametrize("member", ["ListMachines", "ListJobs", "Ping", "Introspect", "Nope"])
    async def test_calls_without_an_interface(self, client: Client, member: str) -> None:
        """sd-bus finds no object for them, wherever they are sent."""
        with pytest.raises(RemoteError, match=f"Unknown object '{ROOT}'"):
            await client.call(member, interface=None)

    async def test_a_parent_is_an_object_without_properties(self, service: Served) -> None:
        path = ROOT + "/machine"
        assert await service.client.get_all(path) == {}
        for interface in (MACHINE, "x.y"):
            with pytest.raises(RemoteError, match="Unknown interface"):
                await service.client.get_all(path, interface)
        with pytest.raises(RemoteError, match="Unknown method GetUIDShift or interface"):
            await service.client.call("GetUIDShift", path=path, interface=MACHINE)

    async def test_an_escaped_nul_ends_a_name(self, service: Served) -> None:
        await service.machine("web")
        assert await service.client.get(WEB + "_00x", MACHINE, "Name") == "web"

    @pytest.mark.parametrize(
        ("member", "signature", "arguments", "complaint"),
        [
            ("Get", "s", ["x"], "Expected interface and member parameters"),
            ("Set", "", [], "Expected interface and member parameters"),
            ("GetAll", "u", [1], "Expected interface parameter"),
        ],
    )
    async def test_arguments_of_properties(
        self, client: Client, member: str, signature: str, arguments: list[Any], complaint: str
    ) -> None:
        """They are looked at before the object is."""
        properties = "org.freedesktop.DBus.Properties"
        for path in (ROOT, "/no/where"):
            with pytest.raises(RemoteError, match=complaint):
                await client.call(member, signature, *arguments, path=path, interface=properties)

    async def test_ping_anywhere(self, client: Client) -> None:
        peer = "org.freedesktop.DBus.Peer"
        assert await client.call("Ping", path="/no/where", interface=peer) == []
        if os.access("/etc/machine-id", os.R_OK):
            assert len(await client.call("GetMachineId", interface=peer)) == 32


class TestIntrospection:
    @pytest.mark.parametrize("version", [257, 262], indirect=True)
    async def test_manager(self, service: Served) -> None:
        root = ET.fromstring(await service.client.introspect(ROOT))
        assert [node.get("name") for node in root.findall("interface")] == [
            "org.freedesktop.DBus.Peer",
            "org.freedesktop.DBus.Introspectable",
            "org.freedesktop.DBus.Properties",
            MANAGER,
            OWN_MANAGER,
        ]
        assert [node.get("name") for node in root.findall("node")] == ["machine", "image"]
        manager = root.findall("interface")[3]
        names = [member.get("name") for member in manager]
        assert names[:6] == [
            "PoolPath",
            "PoolUsage",
            "PoolLimit",
            "GetMachine",
            "GetImage",
            "GetMachineByPID",
        ]
        assert names[-2:] == ["MachineNew", "MachineRemoved"]
        assert ("RegisterMachineEx" in names) is (service.core.version >= 259)
        create = manager.find("method[@name='CreateMachine']")
        assert create is not None
        arguments = [(arg.get("name"), arg.get("type"), arg.get("direction")) for arg in create.iter("arg")]
        assert arguments == [
            ("name", "s", "in"),
            ("id", "ay", "in"),
            ("service", "s", "in"),
            ("class", "s", "in"),
            ("leader", "u", "in"),
            ("root_directory", "s", "in"),
            ("scope_properties", "a(sv)", "in"),
            ("path", "o", "out"),
        ]
        privileged = create.find("annotation[@name='org.freedesktop.systemd1.Privileged']")
        assert (privileged is not None) is (service.core.version < 258)
        pool = manager.find("property[@name='PoolPath']")
        assert pool is not None
        assert pool.get("access") == "read"
        annotation = pool.find("annotation")
        assert annotation is not None
        assert annotation.get("value") == "false"

    async def test_children(self, service: Served) -> None:
        service.sandbox.image("my image")
        await service.machine("a-b")
        for parent, children in (("machine", {"_2ehost", "a_2db"}), ("image", {"_2ehost", "my_20image"})):
            root = ET.fromstring(await service.client.introspect(f"{ROOT}/{parent}"))
            assert {node.get("name") for node in root.findall("node")} == children

    @pytest.mark.parametrize(
        ("path", "child"), [("/", "org"), ("/org", "freedesktop"), ("/org/freedesktop", "machine1")]
    )
    async def test_the_way_there(self, client: Client, path: str, child: str) -> None:
        root = ET.fromstring(await client.introspect(path))
        assert child in {node.get("name") for node in root.findall("node")}

    async def test_machine(self, service: Served) -> None:
        await service.machine("web")
        root = ET.fromstring(await service.client.introspect(WEB))
        own = [node.get("name") for node in root.findall("interface")][3:]
        assert own == [MACHINE, OWN_MACHINE]


class TestQuiet:
    async def test_no_objects_are_announced(self, service: Served) -> None:
        """machined has no ObjectManager, and nobody hears of objects but by machined's own signals."""
        await service.client.listen()
        machine, _ = await service.machine("web")
        await service.client.introspect(WEB)
        service.core.registrar.unregister(machine)
        members = {message.member for message in await service.client.until_quiet()}
        members -= {"NameAcquired"}  # the bus says that to everybody
        assert members <= {"MachineNew", "MachineRemoved", "MachineStateChanged", "PropertiesChanged"}

    async def test_machine1_has_no_changing_properties(self, service: Served) -> None:
        await service.client.listen()
        await service.machine("web")
        first = await service.client.signal("PropertiesChanged")
        more = [m for m in await service.client.until_quiet() if m.member == "PropertiesChanged"]
        assert {first[1], *(message.body[0] for message in more)} == {OWN_MACHINE}


def pipe() -> FdSet:
    return FdSet(os.pipe())


class TestDescriptors:
    @pytest.mark.parametrize(
        ("path", "interface", "member"),
        [
            (ROOT, MANAGER, "Nope"),
            (ROOT, MANAGER, "ListMachines"),
            ("/nowhere", MANAGER, "ListMachines"),
            (ROOT, "org.freedesktop.DBus.Peer", "Ping"),
        ],
    )
    async def test_stray_ones_are_closed(
        self, service: Served, path: str, interface: str, member: str
    ) -> None:
        """Any user could fill the table of a root daemon otherwise."""
        await service.client.call("ListMachines")
        with pipe() as fds:
            before = len(descriptors())
            for _ in range(50):
                try:
                    _, received = await service.client.call_with_fds(
                        member, path=path, interface=interface, fds=[fds.peek(0), fds.peek(1)]
                    )
                    received.close()
                except RemoteError:
                    pass
            assert len(descriptors()) == before

    async def test_strays_in_signals_and_replies(self, service: Served) -> None:
        with pipe() as fds:
            before = len(descriptors())
            for kind in (MessageType.SIGNAL, MessageType.METHOD_CALL):
                message = Message(
                    destination=service.bus.unique_name,
                    path="/x",
                    interface="x.y",
                    member="Z",
                    unix_fds=[fds.peek(0)],
                    flags=MessageFlag.NO_REPLY_EXPECTED,
                    message_type=kind,
                )
                service.client.bus.send_message(message)
            await service.client.call("ListMachines")
            assert len(descriptors()) == before

    async def test_received_ones_are_not_for_children(self, service: Served) -> None:
        seen: list[bool] = []

        def look(message: Message, fds: FdSet) -> None:
            seen.extend(os.get_inheritable(fds.peek(i)) for i in range(len(fds)))
            on_call(message, fds)

        on_call, service.bus.on_call = service.bus.on_call, look
        with pipe() as fds:
            _, received = await service.client.call_with_fds("ListMachines", fds=[fds.peek(0), fds.peek(1)])
            received.close()
        assert seen == [False, False]

    @pytest.mark.parametrize("member", ["OpenMachineRootDirectory", "OpenMachinePTY"])
    async def test_replies_bring_one_and_keep_none(self, service: Served, member: str) -> None:
        before = len(descriptors())
        body, received = await service.client.call_with_fds(member, "s", ".host")
        with received as fds:
            assert body[0] == 0
            assert len(fds) == 1
            target = os.readlink(f"/proc/self/fd/{fds.peek(0)}")
            assert target == "/" if member == "OpenMachineRootDirectory" else "ptmx" in target
            assert len(descriptors()) == before + 1, "ours is closed when it is sent"
        assert len(descriptors()) == before

    async def test_the_terminal_hangs_up_when_its_last_end_is_closed(self, service: Served) -> None:
        body, received = await service.client.call_with_fds("OpenMachinePTY", "s", ".host")
        with received as fds:
            slave = os.open(body[1], os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
            try:
                fds.close()
                assert os.read(slave, 1) == b""
            finally:
                os.close(slave)

    async def test_a_caller_that_leaves_before_its_reply(self, service: Served) -> None:
        other = await service.connect()
        before = len(descriptors())
        for _ in range(5):
            other.send("OpenMachineRootDirectory", "s", [".host"], flags=MessageFlag.NONE)
        await turns()
        other.bus.close()
        await service.client.call("ListMachines")
        await service.client.call("ListMachines")
        assert len(descriptors()) < before


class TestFlood:
    def many(self, service: Served, count: int) -> None:
        for number in range(count):
            service.core.registry.add(Machine(f"m{number}", MachineClass.CONTAINER, service="test"))

    async def test_64_pipelined_lists_of_1000(self, service: Served) -> None:
        """A full socket buffer makes the library end the connection, and the daemon lose its name."""
        self.many(service, 1000)
        replies = await asyncio.gather(*(service.client.call("ListMachines") for _ in range(64)))
        assert {len(reply) for reply in replies} == {1001}
        assert not service.bus.disconnected.done()
        assert not service.service.lost_name.done()
        owner = await service.client.bus.request(DBUS, DBUS_PATH, DBUS, "GetNameOwner", "s", [SERVICE])
        assert owner == [service.bus.unique_name]

    async def test_a_slow_reader_harms_nobody_else(self, service: Served) -> None:
        self.many(service, 200)
        slow = await service.connect()
        assert slow.bus._sock is not None
        slow.bus._loop.remove_reader(slow.bus._sock)
        for _ in range(200):
            slow.send("ListMachines", flags=MessageFlag.NONE)
        replies = [len(await service.client.call("ListMachines")) for _ in range(10)]
        assert replies == [201] * 10
        assert not service.bus.disconnected.done()

    async def test_one_caller_does_not_keep_the_loop(self, service: Served) -> None:
        """After a batch the others get their turn."""
        served = 0
        worst = 0

        def count(message: Message, fds: FdSet) -> None:
            nonlocal served, worst
            served += 1
            worst = max(worst, served)
            on_call(message, fds)

        def turn() -> None:
            nonlocal served
            served = 0
            if not done:
                asyncio.get_running_loop().call_soon(turn)

        done = False
        on_call, service.bus.on_call = service.bus.on_call, count
        turn()
        await asyncio.gather(
            *(service.client.call("Ping", interface="org.freedesktop.DBus.Peer") for _ in range(300))
        )
        done = True
        assert 1 < worst <= 2 * transport.BATCH


class TestReplies:
    async def test_none_where_none_is_wanted(self, service: Served) -> None:
        await service.machine("web")
        await service.client.call("ListMachines")  # what the bus itself says to a newcomer is read by now
        service.client.send("UnregisterMachine", "s", ["web"])
        service.client.send("Nope")
        service.client.send(
            "GetMachine", "s", ["gone"], flags=MessageFlag.NO_REPLY_EXPECTED | MessageFlag.NO_AUTOSTART
        )
        unregistered = asyncio.Event()
        service.core.registry.on_removed.append(lambda _: unregistered.set())
        strays: list[Message] = []

        def take(message: Message) -> None:
            strays.append(message)
            service.client.bus._receive(message)

        assert isinstance(service.client.bus._sock, transport.BusSocket)
        service.client.bus._loop.add_reader(
            service.client.bus._sock.fileno(),
            transport.reader(service.client.bus._sock, take, service.client.bus.lost),
        )
        await unregistered.wait()
        assert len(await service.client.call("ListMachines")) == 1
        assert service.core.registry.get("web") is None
        assert len(strays) == 1

    async def test_calls_under_way_are_answered_at_the_end(self, service: Served) -> None:
        service.sandbox.image("web")
        waiting = asyncio.ensure_future(
            service.client.call("WaitMachine", "sst", "web", "running", 0, interface=OWN_MANAGER)
        )
        await turns()
        await service.client.call("ListMachines")
        await service.service.dispatcher.close()
        with pytest.raises(RemoteError, match="The manager is going down") as raised:
            await waiting
        assert raised.value.name == "org.freedesktop.DBus.Error.NoReply"

    async def test_a_lost_bus(self, service: Served) -> None:
        assert service.bus._sock is not None
        service.bus._sock.shutdown(socket.SHUT_RDWR)
        async with asyncio.timeout(10):
            await asyncio.wait([service.bus.disconnected])
        with pytest.raises(ConnectionResetError):
            await service.bus.request(DBUS, DBUS_PATH, DBUS, "GetId")
