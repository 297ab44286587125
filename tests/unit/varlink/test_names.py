# SPDX-License-Identifier: LGPL-2.1-or-later
"""Names of users, groups and machines for the host's resolvers, and what changes the service itself."""

from __future__ import annotations

import base64
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from machined.linux import process
from machined.linux.netlink import Address
from machined.model.errors import MachineError, Problem
from machined.model.machine import Machine, MachineClass
from machined.varlink import server as server_module
from machined.varlink import service as module
from machined.varlink.hook import labels, parents
from machined.varlink.server import Peer
from machined.varlink.service import VarlinkService, full_version
from tests.fakes.sandbox import Sandbox
from tests.fakes.varlink import VarlinkClient
from tests.fakes.world import World, world

M = "io.systemd.Machine."
U = "io.systemd.UserDatabase."
H = "io.systemd.Resolve.Hook."
S = "io.systemd.service."
SERVICE = {"service": "io.systemd.Machine"}
SHIFT = 600_000
INVALID = "org.varlink.service.InvalidParameter"


class Logging:
    level = "info"

    def set_level(self, level: str) -> None:
        self.level = level


class Nobody:
    async def ask_process(self, *args: Any) -> None:
        raise MachineError(Problem.ACCESS_DENIED, "no")


@pytest.fixture(params=[257, 262])
def version(request: pytest.FixtureRequest) -> int:
    """Of the host's systemd."""
    return int(request.param)


@pytest.fixture
async def host(sandbox: Sandbox, version: int, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(process, "id_map", lambda pid, kind: [(0, SHIFT, 65_536)])
    monkeypatch.setattr(process, "namespace_id", lambda pid, kind: (4, pid))
    async with world(sandbox, version) as made:
        yield made


@pytest.fixture
def logging() -> Logging:
    return Logging()


@pytest.fixture
async def service(
    host: World, logging: Logging, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Path]:
    for name in ("SOCKET", "USER_DATABASE", "RESOLVE_HOOK"):
        monkeypatch.setattr(module, name, tmp_path / name)
    made = VarlinkService(host.core, Nobody(), logging)
    await made.start({})
    yield tmp_path
    await made.close()
    assert not set(os.listdir(tmp_path)) & {"SOCKET", "USER_DATABASE", "RESOLVE_HOOK"}


async def connected(path: Path) -> AsyncIterator[VarlinkClient]:
    made = await VarlinkClient.connect(path)
    yield made
    made.close()


@pytest.fixture
async def machines(service: Path) -> AsyncIterator[VarlinkClient]:
    async for client in connected(service / "SOCKET"):
        yield client


@pytest.fixture
async def users(service: Path) -> AsyncIterator[VarlinkClient]:
    async for client in connected(service / "USER_DATABASE"):
        yield client


@pytest.fixture
async def hook(service: Path) -> AsyncIterator[VarlinkClient]:
    async for client in connected(service / "RESOLVE_HOOK"):
        yield client


def user(name: str, number: int) -> dict[str, Any]:
    inner = number - SHIFT
    return {
        "userName": name,
        "uid": number,
        "gid": 65534,
        "realName": f"UID {inner} of Container web",
        "homeDirectory": "/",
        "shell": "/usr/sbin/nologin",
        "locked": True,
        "service": "io.systemd.Machine",
        "disposition": "container",
    }


class TestUserDatabase:
    @pytest.mark.parametrize(
        "keys",
        [
            {"uid": SHIFT + 7},
            {"userName": "vu-web-7"},
            {"uid": SHIFT + 7, "userName": "vu-web-7"},
            {"uid": float(SHIFT + 7)},
        ],
    )
    async def test_user(self, host: World, users: VarlinkClient, keys: dict[str, Any]) -> None:
        await host.register("web")
        reply = await users.call(U + "GetUserRecord", SERVICE | keys)
        assert reply == {"parameters": {"record": user("vu-web-7", SHIFT + 7)}}

    @pytest.mark.parametrize("keys", [{"gid": SHIFT}, {"groupName": "vg-web-0"}])
    async def test_group(self, host: World, users: VarlinkClient, keys: dict[str, Any]) -> None:
        await host.register("web")
        record = (await users.call(U + "GetGroupRecord", SERVICE | keys))["parameters"]["record"]
        assert record == {
            "groupName": "vg-web-0",
            "gid": SHIFT,
            "description": "GID 0 of Container web",
            "service": "io.systemd.Machine",
            "disposition": "container",
        }

    @pytest.mark.parametrize(
        ("keys", "error"),
        [
            ({"service": "io.systemd.Other"}, U + "BadService"),
            ({}, U + "EnumerationNotSupported"),
            ({"uid": 7}, U + "NoRecordFound"),
            ({"uid": 65_534}, U + "NoRecordFound"),
            ({"uid": SHIFT - 1}, U + "NoRecordFound"),
            ({"userName": "vu-web-65536"}, U + "NoRecordFound"),
            ({"userName": "vu-web-65535"}, U + "NoRecordFound"),
            ({"userName": "vu-web-07"}, U + "NoRecordFound"),
            ({"userName": "vu-web-\N{ARABIC-INDIC DIGIT ONE}"}, U + "NoRecordFound"),
            ({"userName": "vg-web-7"}, U + "NoRecordFound"),
            ({"userName": "vu-web"}, U + "NoRecordFound"),
            ({"userName": "vu-vm-7"}, U + "NoRecordFound"),
            ({"userName": "vu-.host-7"}, U + "NoRecordFound"),
            ({"userName": "vu-gone-7"}, U + "NoRecordFound"),
            ({"userName": "root"}, U + "NoRecordFound"),
            ({"uid": SHIFT + 7, "userName": "vu-web-8"}, U + "ConflictingRecordFound"),
            ({"uid": SHIFT + 65_535}, "io.systemd.System"),
            ({"uid": 65_535}, INVALID),
            ({"uid": 2**32 - 1}, INVALID),
            ({"uid": 2**32}, INVALID),
            ({"uid": None}, INVALID),
            ({"userName": ""}, INVALID),
            ({"userName": "12"}, INVALID),
            ({"userName": "a:b"}, INVALID),
            ({"userName": "a/b"}, INVALID),
            ({"uidMin": 5}, INVALID),
        ],
    )
    async def test_refused(
        self, host: World, users: VarlinkClient, keys: dict[str, Any], error: str
    ) -> None:
        await host.core.load()
        await host.register("web")
        await host.register("vm", cls=MachineClass.VM)
        assert (await users.call(U + "GetUserRecord", SERVICE | keys))["error"] == error

    async def test_a_name_that_no_user_may_have(self, host: World, users: VarlinkClient) -> None:
        await host.register("a-machine-with-a-rather-long-name")
        reply = await users.call(U + "GetUserRecord", SERVICE | {"uid": SHIFT})
        assert reply["error"] == U + "NoRecordFound"

    async def test_memberships(self, host: World, users: VarlinkClient) -> None:
        reply = await users.call(U + "GetMemberships", SERVICE | {"userName": "vu-web-7"})
        assert reply["error"] == U + "NoRecordFound"
        assert (await users.call(U + "GetMemberships", {"service": "x"}))["error"] == U + "BadService"

    async def test_everybody_may_connect(self, service: Path) -> None:
        assert os.stat(service / "USER_DATABASE").st_mode & 0o777 == 0o666


class TestMaps:
    @pytest.mark.parametrize(
        ("method", "given", "expected"),
        [
            ("MapFrom", {"name": "web"}, {}),
            ("MapFrom", {"name": "web", "uid": 5, "gid": 6}, {"uid": SHIFT + 5, "gid": SHIFT + 6}),
            ("MapTo", {"uid": SHIFT + 5}, {"uid": 5, "machineName": "web"}),
            ("MapTo", {"uid": SHIFT, "gid": SHIFT + 1}, {"uid": 0, "gid": 1, "machineName": "web"}),
            ("MapFrom", {"name": "web", "uid": 70_000}, M + "NoSuchUser"),
            ("MapFrom", {"name": "web", "gid": 70_000}, M + "NoSuchGroup"),
            ("MapFrom", {"name": "vm", "uid": 1}, M + "NotSupported"),
            ("MapFrom", {"name": "gone", "uid": 1}, M + "NoSuchMachine"),
            ("MapFrom", {"uid": 1}, M + "NoSuchMachine"),
            ("MapFrom", {"name": "web", "uid": 65_535}, INVALID),
            ("MapFrom", {"name": "web", "allowInteractiveAuthentication": True}, INVALID),
            ("MapTo", {}, M + "NoSuchMachine"),
            ("MapTo", {"uid": 7}, M + "UserInHostRange"),
            ("MapTo", {"uid": SHIFT, "gid": 7}, M + "GroupInHostRange"),
            ("MapTo", {"uid": 80_000}, M + "NoSuchUser"),
            ("MapTo", {"gid": 80_000}, M + "NoSuchGroup"),
        ],
    )
    async def test_maps(
        self, host: World, machines: VarlinkClient, method: str, given: dict[str, Any], expected: Any
    ) -> None:
        await host.register("web")
        await host.register("vm", cls=MachineClass.VM)
        reply = await machines.call(M + method, given)
        if host.core.version < 258:
            assert reply["error"] == "org.varlink.service.MethodNotFound"
        elif isinstance(expected, str):
            assert reply["error"] == expected
        else:
            assert reply.get("parameters", {}) == expected

    @pytest.mark.parametrize("version", [262], indirect=True)
    async def test_of_two_machines(
        self, host: World, machines: VarlinkClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        _, leader = await host.register("web")
        await host.register("db")
        shifts = {leader.pid: SHIFT}
        monkeypatch.setattr(process, "id_map", lambda pid, kind: [(0, shifts.get(pid, 2 * SHIFT), 65_536)])
        reply = await machines.call(M + "MapTo", {"uid": SHIFT, "gid": 2 * SHIFT})
        assert reply == {"error": M + "NoSuchMachine"}


def question(*keys: tuple[int, str], class_: int = 1) -> dict[str, Any]:
    return {"question": [{"key": {"class": class_, "type": kind, "name": name}} for kind, name in keys]}


@pytest.mark.parametrize("version", [262], indirect=True)
class TestHook:
    @pytest.fixture(autouse=True)
    def addresses(self, host: World, monkeypatch: pytest.MonkeyPatch) -> None:
        async def addresses(machine: Machine) -> list[Address]:
            if machine.cls is MachineClass.VM:
                raise MachineError(Problem.NOT_SUPPORTED, "no")
            if machine.name == "shared":
                raise MachineError(Problem.NO_PRIVATE_NETWORKING, "no")
            found = [(socket.AF_INET, "192.0.2.7"), (socket.AF_INET6, "2001:db8::7")]
            return [Address(family, socket.inet_pton(family, text), 2, 0, 0, 24) for family, text in found]

        monkeypatch.setattr(host.core.guests, "addresses", addresses)

    async def test_an_address(self, host: World, hook: VarlinkClient) -> None:
        await host.register("web")
        reply = await hook.call(H + "ResolveRecord", question((1, "web")))
        raw = b"\x03web\0" + bytes([0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 192, 0, 2, 7])
        answer = {
            "rr": {"key": {"class": 1, "type": 1, "name": "web"}, "address": [192, 0, 2, 7]},
            "raw": base64.b64encode(raw).decode(),
        }
        assert reply["parameters"] == {"rcode": 0, "answer": [answer]}

    async def test_each_question_once(self, host: World, hook: VarlinkClient) -> None:
        await host.register("web")
        given = question((1, "web"), (28, "web"), (1, "web"), (1, "gone"))
        answer = (await hook.call(H + "ResolveRecord", given))["parameters"]["answer"]
        assert [item["rr"]["key"]["type"] for item in answer] == [1, 28]

    @pytest.mark.parametrize(
        ("given", "expected"),
        [
            (question((16, "web")), {"rcode": 0, "answer": []}),
            (question((1, "web"), class_=3), {"rcode": 0, "answer": []}),
            (question((1, "gone")), {}),
            (question((1, "WEB")), {}),
            (question((1, "web.")), {}),
            (question((1, "")), {}),
            (question((1, "x.web")), {"rcode": 3}),
            (question((1, "y.x.web")), {"rcode": 3}),
            (question((1, "x\\.web")), {}),
            (question((1, "x.gone"), (1, "x.web")), {"rcode": 3}),
        ],
    )
    async def test_others(
        self, host: World, hook: VarlinkClient, given: dict[str, Any], expected: dict[str, Any]
    ) -> None:
        await host.register("web")
        assert (await hook.call(H + "ResolveRecord", given)).get("parameters", {}) == expected

    @pytest.mark.parametrize(
        "given",
        [
            {"question": []},
            {"question": [{"key": {}}]},
            question((2**16, "web")),
            question((1, "web"), class_=-1),
            question((1, ".host")),
            question((1, "a..b")),
            question((1, "x" * 64)),
            question((1, "a\\")),
            question(*[(1, "web")] * 65),
        ],
    )
    async def test_bad_questions(self, hook: VarlinkClient, given: dict[str, Any]) -> None:
        reply = await hook.call(H + "ResolveRecord", given)
        assert reply == {"error": INVALID, "parameters": {"parameter": "question"}}

    @pytest.mark.parametrize(
        ("name", "number", "word"), [("vm", 95, "EOPNOTSUPP"), ("shared", 64, "ENONET")]
    )
    async def test_no_addresses(
        self, host: World, hook: VarlinkClient, name: str, number: int, word: str
    ) -> None:
        await host.register("vm", cls=MachineClass.VM)
        await host.register("shared")
        reply = await hook.call(H + "ResolveRecord", question((1, name)))
        assert reply["parameters"] == {"origin": "linux", "errno": number, "errnoName": word}

    async def test_the_names(self, host: World, hook: VarlinkClient) -> None:
        await host.core.load()
        await host.register("web")
        assert await hook.call(H + "QueryFilter") == {"parameters": {"filterDomains": ["web"]}}

    async def test_changes_of_the_names(self, host: World, hook: VarlinkClient) -> None:
        """All of them are told, for as long as somebody listens."""
        await hook.send(H + "QueryFilter", more=True)
        assert await hook.reply() == {"parameters": {"filterDomains": []}, "continues": True}
        machine, _ = await host.register("web")
        assert (await hook.reply())["parameters"] == {"filterDomains": ["web"]}
        host.core.registrar.unregister(machine)
        assert (await hook.reply())["parameters"] == {"filterDomains": []}


@pytest.mark.parametrize("version", [257], indirect=True)
async def test_no_hook_before_259(service: Path) -> None:
    assert {"SOCKET", "USER_DATABASE"} <= set(os.listdir(service))
    assert "RESOLVE_HOOK" not in os.listdir(service)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("", []),
        (".", []),
        ("a.b.", [b"a", b"b"]),
        ("a\\.b", [b"a.b"]),
        ("\\065b", [b"Ab"]),
        ("é", ["é".encode()]),
    ],
)
def test_labels(name: str, expected: list[bytes]) -> None:
    assert labels(name) == expected


@pytest.mark.parametrize("name", ["..", ".a", "a..b", "\\", "a\\1", "\\999", ("x" * 60 + ".") * 5])
def test_no_labels(name: str) -> None:
    with pytest.raises(ValueError):
        labels(name)


def test_parents() -> None:
    assert parents("a.b\\.c.d") == ["b\\.c.d", "d"]
    assert parents("d") == []


class TestService:
    @pytest.mark.parametrize("version", [262], indirect=True)
    async def test_the_level(self, machines: VarlinkClient, logging: Logging) -> None:
        assert await machines.call(S + "Ping") == {}
        assert await machines.call(S + "GetLogLevel") == {"parameters": {"level": 6}}
        assert await machines.call(S + "SetLogLevel", {"level": 7}) == {}
        assert logging.level == "debug"
        for level in (-1, 8):
            assert (await machines.call(S + "SetLogLevel", {"level": level}))["error"] == INVALID

    @pytest.mark.parametrize("version", [262], indirect=True)
    async def test_the_environment(self, machines: VarlinkClient, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OF_THE_TEST", "1")
        reply = await machines.call(S + "GetEnvironment")
        assert "OF_THE_TEST=1" in reply["parameters"]["environment"]
        monkeypatch.setenv("OF_THE_TEST", "\udcff")
        assert await machines.call(S + "GetEnvironment") == {"error": S + "InconsistentEnvironment"}

    @pytest.mark.parametrize("version", [262], indirect=True)
    async def test_others_only_look(
        self, service: Path, logging: Logging, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = server_module.peer_of

        def peer_of(sock: socket.socket) -> Peer:
            peer = real(sock)
            return Peer(peer.pid, 1000, peer.pidfd)

        monkeypatch.setattr(server_module, "peer_of", peer_of)
        client = await VarlinkClient.connect(service / "SOCKET")
        denied = "org.varlink.service.PermissionDenied"
        reply = await client.call(S + "SetLogLevel", {"level": 7})
        assert reply == {"error": denied, "parameters": {"level": 7}}
        assert await client.call(S + "GetEnvironment") == {"error": denied}
        assert (await client.call(S + "GetLogLevel"))["parameters"] == {"level": 6}
        assert logging.level == "info"
        client.close()

    @pytest.mark.parametrize("version", [262], indirect=True)
    async def test_reload_is_only_described(self, machines: VarlinkClient) -> None:
        reply = await machines.call(S + "Reload", {"frob": 1})
        assert reply["error"] == "org.varlink.service.MethodNotFound"

    @pytest.mark.parametrize("version", [257], indirect=True)
    async def test_not_before_262(self, machines: VarlinkClient) -> None:
        assert (await machines.call(S + "Ping"))["error"] == "org.varlink.service.MethodNotFound"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("257.13-1~deb13u1", "257.13 (257.13-1~deb13u1)"),
        ("262.1-1", "262.1 (262.1-1)"),
        ("v258", "258 (v258)"),
        ("259~rc1-1.fc44", "259~rc1 (259~rc1-1.fc44)"),
        ("odd", "odd"),
    ],
)
def test_version(text: str, expected: str) -> None:
    assert full_version(text) == expected
