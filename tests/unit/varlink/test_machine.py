# SPDX-License-Identifier: LGPL-2.1-or-later
"""io.systemd.Machine over a real socket, over the model with fakes around it."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from machined.linux import cgroup
from machined.linux.fds import OwnedFd
from machined.linux.process import PidRef, boot_id
from machined.model.errors import MachineError, Problem
from machined.model.machine import MachineClass, Phase
from machined.varlink import server as server_module
from machined.varlink import service as module
from machined.varlink.server import Peer
from machined.varlink.service import VarlinkService
from tests.fakes.sandbox import Sandbox
from tests.fakes.systemd import NO_REPLY, raising
from tests.fakes.varlink import VarlinkClient
from tests.fakes.world import World, turns, world

M = "io.systemd.Machine."
UNIT = "machine-web.service"
OWN = os.getpid()

Question = tuple[int, int, str, dict[str, str], bool]


class FakeAuthority:
    """polkit's place."""

    def __init__(self) -> None:
        self.asked: list[Question] = []
        self.error: MachineError | None = None

    async def ask_process(
        self,
        pid: int,
        pidfd: int | None,
        uid: int,
        action: str,
        details: Mapping[str, str],
        interactive: bool,
    ) -> None:
        assert pidfd is not None
        self.asked.append((pid, uid, action, dict(details), interactive))
        if self.error is not None:
            raise self.error


@pytest.fixture(params=[257], ids=["257"])
def version(request: pytest.FixtureRequest) -> int:
    """Of the host's systemd; parametrize it for what differs."""
    return int(request.param)


@pytest.fixture
async def host(sandbox: Sandbox, version: int) -> AsyncIterator[World]:
    async with world(sandbox, version) as made:
        sandbox.units[OWN] = UNIT
        made.systemd.emit(UNIT, ActiveState="active")
        yield made


@pytest.fixture
def authority() -> FakeAuthority:
    return FakeAuthority()


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(module, "SOCKET", tmp_path / "machine" / "socket")
    monkeypatch.setattr(module, "IMAGE_SOCKET", tmp_path / "machine" / "images")
    monkeypatch.setattr(module, "USER_DATABASE", tmp_path / "userdb" / "socket")
    monkeypatch.setattr(module, "RESOLVE_HOOK", tmp_path / "hook" / "socket")
    return tmp_path / "machine" / "socket"


@pytest.fixture
async def client(host: World, authority: FakeAuthority, path: Path) -> AsyncIterator[VarlinkClient]:
    service = VarlinkService(host.core, authority)
    await service.start({})
    made = await VarlinkClient.connect(path)
    yield made
    made.close()
    await service.close()


@pytest.fixture
def as_user(monkeypatch: pytest.MonkeyPatch) -> int:
    """Whoever connects from now on is this user."""
    real = server_module.peer_of

    def peer_of(sock: socket.socket) -> Peer:
        peer = real(sock)
        return Peer(peer.pid, 1000, peer.pidfd)

    monkeypatch.setattr(server_module, "peer_of", peer_of)
    return 1000


def done(host: World) -> dict[str, Any]:
    """The reply without parameters: from 258 on they are left out when there are none."""
    return {} if host.core.version >= 258 else {"parameters": {}}


def refused(host: World, error: str) -> dict[str, Any]:
    return {"error": error, **done(host)}


def on_disk(path: Path) -> bool:
    return path.name in os.listdir(path.parent) if path.parent.is_dir() else False


def registration(**more: Any) -> dict[str, Any]:
    return {"name": "web", "class": "container", **more}


class TestSockets:
    async def test_own(self, client: VarlinkClient, path: Path) -> None:
        assert os.stat(path).st_mode & 0o777 == 0o666
        assert os.stat(path.parent).st_mode & 0o777 == 0o755

    async def test_a_stale_one_is_replaced(self, host: World, authority: FakeAuthority, path: Path) -> None:
        os.mkdir(path.parent)
        os.close(os.open(path, os.O_CREAT | os.O_CLOEXEC))
        service = VarlinkService(host.core, authority)
        await service.start({})
        made = await VarlinkClient.connect(path)
        assert "interfaces" in (await made.call("org.varlink.service.GetInfo"))["parameters"]
        made.close()
        await service.close()
        assert not on_disk(path)

    async def test_from_pid_1(
        self, host: World, authority: FakeAuthority, path: Path, tmp_path: Path
    ) -> None:
        """From 258 on systemd-machined.socket listens for us; what else comes is closed."""
        passed = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        passed.bind(str(tmp_path / "passed"))
        passed.listen()
        stray = OwnedFd(os.open("/dev/null", os.O_RDONLY))
        number = stray.fileno()
        service = VarlinkService(host.core, authority)
        await service.start({"varlink": [passed.detach()], "other": [stray.detach()]})
        # The number is that of a socket of our own by now.
        assert not os.path.samestat(os.fstat(number), os.stat("/dev/null"))
        assert not on_disk(path)
        made = await VarlinkClient.connect(tmp_path / "passed")
        await made.call("org.varlink.service.GetInfo")
        made.close()
        await service.close()
        assert on_disk(tmp_path / "passed"), "it is PID 1's"

    async def test_info(self, client: VarlinkClient) -> None:
        info = (await client.call("org.varlink.service.GetInfo"))["parameters"]
        assert info["version"] == "257.4 (257.4-1~test)"
        assert info["interfaces"] == [
            "io.systemd",
            "io.systemd.Machine",
            "io.systemd.MachineImage",
            "org.varlink.service",
        ]

    async def test_description(self, client: VarlinkClient) -> None:
        reply = await client.call(
            "org.varlink.service.GetInterfaceDescription", {"interface": "io.systemd.Machine"}
        )
        text = reply["parameters"]["description"]
        for word in (
            "method Register(",
            "method List(",
            "type ProcessId(",
            "error NoSuchMachine()",
            "?[]Address",
        ):
            assert word in text


class TestRegister:
    @pytest.mark.parametrize("version", [257, 262], indirect=True)
    async def test_the_peer_is_the_leader(self, host: World, client: VarlinkClient) -> None:
        machine_id = "0123456789abcdef0123456789abcdef"
        given = registration(
            id=machine_id,
            service="systemd-nspawn",
            rootDirectory="/tree",
            ifIndices=[3, 4],
            vSockCid=9,
            sshAddress="vsock/9",
            sshPrivateKeyPath="/key",
            allowInteractiveAuthentication=True,
        )
        if host.core.version >= 261:
            given |= {"controlAddress": "/control", "supervisor": 5}
        assert await client.call(M + "Register", given) == done(host)
        machine = host.core.registry.find("web")
        assert (machine.leader_pid, machine.unit, machine.cls) == (OWN, UNIT, MachineClass.CONTAINER)
        assert machine.id.hex() == machine_id
        assert (machine.service, machine.root_directory) == ("systemd-nspawn", "/tree")
        assert (machine.ifindices, machine.vsock_cid) == ((3, 4), 9)
        assert (machine.ssh_address, machine.ssh_private_key_path) == ("vsock/9", "/key")
        assert machine.control_address == ("/control" if host.core.version >= 261 else "")

    async def test_dashes_in_an_id(self, host: World, client: VarlinkClient) -> None:
        await client.call(M + "Register", registration(id="01234567-89ab-cdef-0123-456789abcdef"))
        assert host.core.registry.find("web").id.hex() == "0123456789abcdef0123456789abcdef"

    async def test_another_leader(self, host: World, client: VarlinkClient) -> None:
        """As nspawn 258 and later comes: with the number, the pidfd's inode and the boot."""
        parent = os.getppid()
        host.sandbox.units[parent] = UNIT
        with PidRef.open(parent) as ref:
            process = {"pid": parent, "pidfdId": ref.id or 0, "bootId": boot_id()}
        reply = await client.call(M + "Register", registration(leaderProcessId=process, leader=parent))
        assert reply == {"parameters": {}}
        assert host.core.registry.find("web").leader_pid == parent

    @pytest.mark.parametrize("version", [257, 258], indirect=True)
    async def test_supervisor(self, host: World, client: VarlinkClient) -> None:
        parent = os.getppid()
        host.sandbox.units[parent] = UNIT
        await client.call(M + "Register", registration(leader=parent))
        expected = OWN if host.core.version >= 258 else 0
        assert host.core.registry.find("web").supervisor_pid == expected

    async def test_a_scope(self, host: World, client: VarlinkClient) -> None:
        def started(unit: str, *_: Any) -> None:
            host.systemd.emit(unit, ActiveState="active")
            host.systemd.finish(host.systemd.last_job(), unit)

        host.systemd.hooks["start_transient"] = started
        assert await client.call(M + "Register", registration(allocateUnit=True)) == {"parameters": {}}
        assert host.core.registry.find("web").unit == "machine-web.scope"

    @pytest.mark.parametrize(
        ("given", "field"),
        [
            ({"name": "my_box"}, "name"),
            ({"name": ".host"}, "name"),
            ({"class": "host"}, "class"),
            ({"class": ""}, "class"),
            ({"id": "xyz"}, "id"),
            ({"id": "0123"}, "id"),
            ({"rootDirectory": "tree"}, "rootDirectory"),
            ({"sshPrivateKeyPath": "key"}, "sshPrivateKeyPath"),
            ({"vSockCid": 2}, "vSockCid"),
            ({"vSockCid": 2**32 - 1}, "vSockCid"),
            ({"ifIndices": [0]}, "ifIndices"),
            ({"ifIndices": ["lo"]}, "ifIndices"),
            ({"ifIndices": [2**31]}, "ifIndices"),
            ({"leader": 1}, "leader"),
            ({"leader": 2**31 - 1}, "leader"),
            ({"leaderProcessId": 5}, "leaderProcessId"),
            ({"leaderProcessId": {"pid": -1}}, "leaderProcessId"),
            ({"leaderProcessId": {"pid": 0}}, "leaderProcessId"),
            ({"leaderProcessId": {"pid": OWN, "bootId": "0" * 32}}, "leaderProcessId"),
            ({"leader": OWN, "leaderProcessId": {"pid": os.getppid()}}, "leaderProcessId"),
            ({"leaderProcessId": {"pid": os.getppid()}, "leader": OWN}, "leader"),
            ({"rootDirectory": "/a/../b"}, "rootDirectory"),
            ({"rootDirectory": None}, "rootDirectory"),
            ({"sshAddress": "a\nb"}, "sshAddress"),
            # The first that is wrong, in the order of the message.
            ({"vSockCid": 1, "id": "xyz"}, "vSockCid"),
            ({"id": "xyz", "vSockCid": 1}, "id"),
            ({"frob": True}, "frob"),
        ],
    )
    async def test_bad_parameters(
        self, host: World, client: VarlinkClient, given: dict[str, Any], field: str
    ) -> None:
        assert await client.call(M + "Register", registration() | given) == {
            "error": "org.varlink.service.InvalidParameter",
            "parameters": {"parameter": field},
        }
        assert len(host.core.registry) == 0

    @pytest.mark.parametrize("missing", ["name", "class"])
    async def test_missing(self, client: VarlinkClient, missing: str) -> None:
        given = registration()
        del given[missing]
        assert (await client.call(M + "Register", given))["parameters"] == {"parameter": missing}

    async def test_twice(self, client: VarlinkClient) -> None:
        await client.call(M + "Register", registration())
        assert (await client.call(M + "Register", registration()))["error"] == M + "MachineExists"

    @pytest.mark.parametrize("version", [257, 258], indirect=True)
    async def test_a_leader_of_another_machine(self, host: World, client: VarlinkClient) -> None:
        await client.call(M + "Register", registration(name="other"))
        reply = await client.call(M + "Register", registration())
        expected: dict[str, Any] = {"errno": errno.EEXIST}
        if host.core.version >= 258:
            expected |= {"origin": "linux", "errnoName": "EEXIST"}
        assert reply == {"error": "io.systemd.System", "parameters": expected}
        assert [machine.name for machine in host.core.registry] == ["other"]

    async def test_null_is_no_leader(self, host: World, client: VarlinkClient) -> None:
        await client.call(M + "Register", registration(leader=None))
        assert host.core.registry.find("web").leader_pid == OWN

    async def test_numbers_as_texts(self, host: World, client: VarlinkClient) -> None:
        await client.call(M + "Register", registration(leader=str(OWN), vSockCid="9", ifIndices=[3.0]))
        machine = host.core.registry.find("web")
        assert (machine.leader_pid, machine.vsock_cid, machine.ifindices) == (OWN, 9, (3,))

    async def test_a_recycled_leader(self, client: VarlinkClient) -> None:
        with PidRef.open(OWN) as ref:
            if ref.id is None:
                pytest.skip("pidfds have no inodes of their own before Linux 6.9")
            process = {"pid": OWN, "pidfdId": ref.id + 1}
        reply = await client.call(M + "Register", registration(leaderProcessId=process))
        assert reply["parameters"] == {"parameter": "leaderProcessId"}

    async def test_pid_1_does_not_answer(self, host: World, client: VarlinkClient) -> None:
        host.systemd.hooks["start_transient"] = raising(NO_REPLY)
        reply = await client.call(M + "Register", registration(allocateUnit=True))
        assert reply == {"error": "io.systemd.System", "parameters": {"errno": errno.EIO}}


class TestAuthorization:
    @pytest.mark.parametrize(
        ("version", "action"), [(257, "create-machine"), (258, "register-machine")], indirect=["version"]
    )
    async def test_register(
        self, as_user: int, host: World, authority: FakeAuthority, client: VarlinkClient, action: str
    ) -> None:
        authority.error = MachineError(Problem.ACCESS_DENIED, "no")
        reply = await client.call(M + "Register", registration(allowInteractiveAuthentication=True))
        assert reply == refused(host, "org.varlink.service.PermissionDenied")
        details = {"name": "web", "class": "container"}
        assert authority.asked == [(OWN, as_user, f"org.freedesktop.machine1.{action}", details, True)]
        assert len(host.core.registry) == 0

    async def test_challenge(self, as_user: int, authority: FakeAuthority, client: VarlinkClient) -> None:
        authority.error = MachineError(Problem.INTERACTIVE_AUTHORIZATION_REQUIRED, "type")
        reply = await client.call(M + "Register", registration())
        assert reply["error"] == "io.systemd.InteractiveAuthenticationRequired"

    @pytest.mark.parametrize("version", [258], indirect=True)
    async def test_processes_of_others(self, as_user: int, client: VarlinkClient) -> None:
        reply = await client.call(M + "Register", registration())
        assert reply["error"] == "org.varlink.service.PermissionDenied"

    @pytest.mark.parametrize("verb", ["unregister", "terminate", "kill"])
    async def test_managing(
        self, as_user: int, host: World, authority: FakeAuthority, client: VarlinkClient, verb: str
    ) -> None:
        await host.register("web")
        authority.error = MachineError(Problem.ACCESS_DENIED, "no")
        given: dict[str, Any] = {"name": "web"} | ({"signal": 9} if verb == "kill" else {})
        reply = await client.call(M + verb.capitalize(), given)
        assert reply["error"] == "org.varlink.service.PermissionDenied"
        action = "org.freedesktop.machine1.manage-machines"
        assert authority.asked == [(OWN, as_user, action, {"name": "web", "verb": verb}, False)]
        assert host.core.registry.get("web") is not None

    @pytest.mark.parametrize("version", [257, 258], indirect=True)
    async def test_owner(
        self, as_user: int, host: World, authority: FakeAuthority, client: VarlinkClient
    ) -> None:
        await host.register("web", uid=as_user)
        await client.call(M + "Unregister", {"name": "web"})
        assert len(authority.asked) == (0 if host.core.version >= 258 else 1)

    async def test_root_is_not_asked(
        self, host: World, authority: FakeAuthority, client: VarlinkClient
    ) -> None:
        await host.register("web")
        assert await client.call(M + "Unregister", {"name": "web"}) == {"parameters": {}}
        assert authority.asked == []

    async def test_a_peer_that_leaves(
        self,
        as_user: int,
        host: World,
        authority: FakeAuthority,
        client: VarlinkClient,
        path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """The question is withdrawn and nothing is done; others are served."""
        await host.register("web")
        asked, withdrawn = asyncio.Event(), asyncio.Event()

        async def ask(*args: Any) -> None:
            asked.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                withdrawn.set()
                raise

        monkeypatch.setattr(authority, "ask_process", ask)
        other = await VarlinkClient.connect(path)
        await other.send(M + "Unregister", {"name": "web"})
        await asked.wait()
        assert not withdrawn.is_set()
        other.close()
        async with asyncio.timeout(10):
            await withdrawn.wait()
        assert (await client.call(M + "List", {"name": "web"}))["parameters"]["name"] == "web"

    async def test_the_machine_is_looked_at_again(
        self,
        as_user: int,
        host: World,
        authority: FakeAuthority,
        client: VarlinkClient,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        machine, _ = await host.register("web")

        async def ask_process(*args: Any) -> None:
            host.core.registrar.unregister(machine)
            await host.register("web")

        monkeypatch.setattr(authority, "ask_process", ask_process)
        reply = await client.call(M + "Unregister", {"name": "web"})
        assert reply["error"] == M + "NoSuchMachine"
        assert host.core.registry.get("web") is not None


class TestManaging:
    async def test_kill(self, host: World, client: VarlinkClient) -> None:
        _, leader = await host.register("web")
        await client.call(M + "Kill", {"name": "web", "whom": "leader", "signal": 15})
        await client.call(M + "Kill", {"name": "web", "signal": 9})
        assert leader.signals == [15]
        assert host.systemd.called("kill_unit") == [(UNIT, "all", 9)]

    @pytest.mark.parametrize(
        ("given", "field"),
        [
            ({"signal": 0}, "signal"),
            ({"signal": 65}, "signal"),
            ({}, "signal"),
            ({"signal": 9, "whom": "everybody"}, "whom"),
            ({"signal": 9, "whom": "supervisor"}, "whom"),
        ],
    )
    async def test_bad_kill(
        self, host: World, client: VarlinkClient, given: dict[str, Any], field: str
    ) -> None:
        await host.register("web")
        reply = await client.call(M + "Kill", {"name": "web"} | given)
        assert reply["parameters"] == {"parameter": field}

    async def test_terminate(self, host: World, client: VarlinkClient) -> None:
        machine, _ = await host.register("web")
        await client.call(M + "Terminate", {"name": "web"})
        assert machine.phase is Phase.CLOSING
        assert host.systemd.called("stop_unit") == [(UNIT, "fail")]

    async def test_the_host(self, host: World, client: VarlinkClient) -> None:
        await host.core.load()
        reply = await client.call(M + "Terminate", {"name": ".host"})
        assert reply == {"error": "io.systemd.System", "parameters": {"errno": errno.EOPNOTSUPP}}
        assert await client.call(M + "Unregister", {"name": ".host"}) == {"parameters": {}}

    @pytest.mark.parametrize(
        ("given", "error"),
        [
            ({"name": "gone"}, M + "NoSuchMachine"),
            ({}, M + "NoSuchMachine"),
            ({"name": "a_b"}, "org.varlink.service.InvalidParameter"),
            ({"pid": 5}, "org.varlink.service.InvalidParameter"),
        ],
    )
    async def test_looking_up(
        self, host: World, client: VarlinkClient, given: dict[str, Any], error: str
    ) -> None:
        await host.register("web")
        assert (await client.call(M + "Unregister", given))["error"] == error

    @pytest.mark.parametrize("name", [{}, {"name": "web"}])
    async def test_by_a_process_in_its_unit(
        self, host: World, client: VarlinkClient, monkeypatch: pytest.MonkeyPatch, name: dict[str, str]
    ) -> None:
        await host.register("web")
        given = {**name, "pid": {"pid": OWN}}
        with monkeypatch.context() as elsewhere:
            elsewhere.setattr(cgroup, "unit_of", lambda pid: "other.service")
            assert (await client.call(M + "Unregister", given))["error"] == M + "NoSuchMachine"
        assert await client.call(M + "Unregister", given) == {"parameters": {}}

    async def test_by_pid(self, host: World, client: VarlinkClient) -> None:
        await client.call(M + "Register", registration())
        assert await client.call(M + "Unregister", {"pid": {"pid": 0}, "name": "web"}) == {"parameters": {}}
        assert len(host.core.registry) == 0


class TestList:
    async def test_one(self, host: World, client: VarlinkClient) -> None:
        machine, leader = await host.register("web", service="x", root_directory="/tree")
        reply = await client.call(M + "List", {"name": "web"})
        assert reply["parameters"] == {
            "name": "web",
            "class": "container",
            "service": "x",
            "rootDirectory": "/tree",
            "unit": UNIT,
            "leader": {"pid": leader.pid},
            "timestamp": {"realtime": machine.realtime, "monotonic": machine.monotonic},
        }
        assert "continues" not in reply

    @pytest.mark.parametrize("version", [262], indirect=True)
    async def test_later_fields(self, host: World, client: VarlinkClient) -> None:
        supervisor = host.process(pidfd_id=77)
        await host.register("web", uid=5, supervisor=supervisor, control_address="/c", vsock_cid=8)
        row = (await client.call(M + "List", {"name": "web"}))["parameters"]
        assert row["UID"] == 5
        assert row["supervisor"] == {"pid": supervisor.pid, "pidfdId": 77, "bootId": boot_id()}
        assert row["controlAddress"] == "/c"
        assert row["vSockCid"] == 8

    async def test_all(self, host: World, client: VarlinkClient) -> None:
        await host.core.load()
        for name in ("a", "b"):
            await host.register(name)
        await client.send(M + "List", more=True)
        replies = [await client.reply() for _ in range(3)]
        assert {reply["parameters"]["name"] for reply in replies} == {".host", "a", "b"}
        assert [reply.get("continues", False) for reply in replies] == [True, True, False]

    async def test_all_needs_more(self, client: VarlinkClient) -> None:
        assert await client.call(M + "List") == {
            "error": "org.varlink.service.ExpectedMore",
            "parameters": {},
        }

    async def test_none(self, client: VarlinkClient) -> None:
        assert (await client.call(M + "List", more=True))["error"] == M + "NoSuchMachine"

    async def test_metadata(
        self, host: World, client: VarlinkClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def os_release(machine: Any) -> dict[str, str]:
            return {"ID": "test"}

        async def addresses(machine: Any) -> None:
            raise MachineError(Problem.NO_PRIVATE_NETWORKING, "shared")

        monkeypatch.setattr(host.core.guests, "os_release", os_release)
        monkeypatch.setattr(host.core.guests, "addresses", addresses)
        monkeypatch.setattr(host.core.guests, "uid_shift", lambda machine: 65536)
        await host.register("web")
        row = (await client.call(M + "List", {"name": "web", "acquireMetadata": "graceful"}))["parameters"]
        assert row["OSRelease"] == ["ID=test"]
        assert row["UIDShift"] == 65536
        assert "addresses" not in row
        reply = await client.call(M + "List", {"name": "web", "acquireMetadata": "yes"})
        assert reply["error"] == M + "NoPrivateNetworking"
        reply = await client.call(M + "List", {"name": "web", "acquireMetadata": "maybe"})
        assert reply["parameters"] == {"parameter": "acquireMetadata"}

    @pytest.mark.parametrize(("version", "asks"), [(257, False), (262, True)], indirect=["version"])
    async def test_who_may_inspect(
        self, as_user: int, host: World, authority: FakeAuthority, client: VarlinkClient, asks: bool
    ) -> None:
        await host.core.load()
        await client.call(M + "List", {"name": ".host", "acquireMetadata": "graceful"})
        actions = [action for _, _, action, _, _ in authority.asked]
        assert actions == (["org.freedesktop.machine1.inspect-machines"] if asks else [])


class TestOpen:
    async def test_terminal(self, host: World, client: VarlinkClient) -> None:
        await host.core.load()
        reply = await client.call(M + "Open", {"name": ".host", "mode": "tty"})
        assert reply["parameters"]["ptyFileDescriptor"] == 0
        assert reply["parameters"]["ptyPath"].startswith("/dev/pts/")
        assert "ptmx" in os.readlink(f"/proc/self/fd/{client.fds.peek(0)}")
        slave = os.open(reply["parameters"]["ptyPath"], os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        try:
            client.fds.close()
            await client.call("org.varlink.service.GetInfo")
            assert os.read(slave, 1) == b"", "the client had the only one"
        finally:
            os.close(slave)

    async def test_shell(
        self, as_user: int, host: World, authority: FakeAuthority, client: VarlinkClient
    ) -> None:
        await host.core.load()
        given = {"name": ".host", "mode": "shell", "user": "joe", "path": "/bin/ls", "args": ["ls", "-l"]}
        await client.call(M + "Open", given | {"environment": ["A=b"]})
        [(_, _, action, details, _)] = authority.asked
        assert action == "org.freedesktop.machine1.host-shell"
        assert details == {
            "machine": ".host",
            "verb": "shell",
            "user": "joe",
            "program": "/bin/ls",
            "command_line": "ls -l",
        }
        [(_, _, properties, fds)] = host.connector.guest.calls
        assert properties["Environment"] == ["A=b"]
        assert fds == 1

    async def test_login(self, host: World, client: VarlinkClient) -> None:
        await host.core.load()
        reply = await client.call(M + "Open", {"name": ".host", "mode": "login"})
        number = reply["parameters"]["ptyPath"].rpartition("/")[2]
        assert host.connector.guest.calls == [("start_unit", f"container-getty@{number}.service")]

    async def test_no_bus(self, host: World, client: VarlinkClient) -> None:
        await host.core.load()
        host.connector.error = FileNotFoundError(2, "x")
        assert (await client.call(M + "Open", {"name": ".host", "mode": "login"}))["error"] == M + "NoIPC"
        assert len(client.fds) == 0

    @pytest.mark.parametrize(
        ("given", "field"),
        [
            ({}, "mode"),
            ({"mode": None}, "mode"),
            ({"mode": ""}, "mode"),
            ({"mode": "bash"}, "mode"),
            ({"mode": "shell", "path": "ls"}, "path"),
            ({"mode": "shell", "environment": ["1=2"]}, "environment"),
        ],
    )
    async def test_bad(self, host: World, client: VarlinkClient, given: dict[str, Any], field: str) -> None:
        await host.core.load()
        reply = await client.call(M + "Open", {"name": ".host"} | given)
        assert reply == {"error": "org.varlink.service.InvalidParameter", "parameters": {"parameter": field}}

    async def test_of_a_virtual_machine(self, host: World, client: VarlinkClient) -> None:
        await host.register("web", cls=MachineClass.VM)
        assert (await client.call(M + "Open", {"name": "web", "mode": "tty"}))["error"] == M + "NotSupported"


async def test_a_peer_that_leaves_early(host: World, client: VarlinkClient, path: Path) -> None:
    other = await VarlinkClient.connect(path)
    await other.send(M + "Register", registration())
    other.close()
    for _ in range(3):
        await client.call("org.varlink.service.GetInfo")
    await turns()
    assert host.core.registry.get("web") is not None, "its wish was complete"
