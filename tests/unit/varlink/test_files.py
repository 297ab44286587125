# SPDX-License-Identifier: LGPL-2.1-or-later
"""io.systemd.Machine's methods for files, over a real socket, with a fake in place of who enters guests."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from machined.linux import helper, process
from machined.linux.fds import FdSet
from machined.model import adoption
from machined.model.errors import MachineError, Problem
from machined.model.inflight import MAX_OPERATIONS
from machined.model.machine import MachineClass
from machined.varlink import server as server_module
from machined.varlink import service as module
from machined.varlink.server import Peer
from machined.varlink.service import VarlinkService
from tests.fakes.sandbox import Sandbox
from tests.fakes.varlink import VarlinkClient
from tests.fakes.world import World, turns, world
from tests.unit.varlink.test_machine import FakeAuthority

M = "io.systemd.Machine."
INVALID = "org.varlink.service.InvalidParameter"
PATHS = {"source": "/from/here", "destination": "/to/there"}


@pytest.fixture
async def host(sandbox: Sandbox, request: pytest.FixtureRequest) -> AsyncIterator[World]:
    async with world(sandbox, getattr(request, "param", 262)) as made:
        adoption.add_host(made.core.registry, b"")
        await made.register("web", uid=1000)
        yield made


@pytest.fixture
def authority() -> FakeAuthority:
    return FakeAuthority()


@pytest.fixture
async def client(
    host: World, authority: FakeAuthority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[VarlinkClient]:
    monkeypatch.setattr(module, "SOCKET", tmp_path / "socket")
    service = VarlinkService(host.core, authority)
    await service.start({})
    made = await VarlinkClient.connect(tmp_path / "socket")
    yield made
    made.close()
    await service.close()


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    """What is asked of the helper, which does it at once."""
    asked: list[tuple[str, dict[str, Any]]] = []

    async def run(op: str, target: object, args: dict[str, Any], *_: Any, **__: Any) -> helper.Reply:
        asked.append((op, dict(args)))
        return helper.Reply({}, FdSet())

    monkeypatch.setattr(helper, "run", run)
    monkeypatch.setattr(process, "id_map", lambda pid, kind: [(0, 0, 0xFFFFFFFF)])
    return asked


def fails(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """From now on copies do."""

    async def run(*_: Any, **__: Any) -> helper.Reply:
        return helper.Reply({"failed": "copy", "errno": number}, FdSet())

    monkeypatch.setattr(helper, "run", run)


def system(number: int) -> dict[str, Any]:
    parameters = {"origin": "linux", "errno": number, "errnoName": errno.errorcode[number]}
    return {"error": "io.systemd.System", "parameters": parameters}


async def test_what_is_done(client: VarlinkClient, jobs: list[tuple[str, dict[str, Any]]]) -> None:
    for method, more in (
        ("CopyTo", {}),
        ("CopyFrom", {"replace": True}),
        ("BindMount", {"readOnly": True}),
        ("BindMount", {"mkdir": True}),
    ):
        assert await client.call(M + method, {"name": "web", **PATHS, **more}) == {}
    await client.call(M + "CopyTo", {"name": "web", "source": "/same/place"})
    here, there, same = ("/from", "here"), ("/to", "there"), ("/same", "place")
    copy = {"owner": None, "replace": False}
    bind = {"source": "/from/here", "destination": "/to/there"}
    assert jobs == [
        ("copy", {"host": here, "guest": there, "to_guest": True, **copy}),
        ("copy", {"host": there, "guest": here, "to_guest": False, **copy, "replace": True}),
        ("bind", {**bind, "read_only": True, "mkdir": False}),
        ("bind", {**bind, "read_only": False, "mkdir": True}),
        ("copy", {"host": same, "guest": same, "to_guest": True, **copy}),
    ]


@pytest.mark.parametrize("method", ["CopyTo", "CopyFrom", "BindMount"])
@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({}, "source"),
        ({"source": None}, "source"),
        ({"source": 7}, "source"),
        ({"source": ""}, "source"),
        ({"source": "here"}, "source"),
        ({"source": "/here/../there"}, "source"),
        ({"source": "/here//there"}, "source"),
        ({"source": "/" + "a" * 256}, "source"),
        ({"source": "/a", "destination": ""}, "destination"),
        ({"source": "/a", "destination": None}, "destination"),
        ({"source": "/a", "destination": "b"}, "destination"),
        ({"source": "/a", "name": "we/b"}, "name"),
        ({"source": "/a", "unknown": 1}, "unknown"),
    ],
)
async def test_bad_parameters(
    client: VarlinkClient, jobs: list[Any], method: str, given: dict[str, Any], field: str
) -> None:
    reply = await client.call(M + method, {"name": "web", **given})
    assert reply == {"error": INVALID, "parameters": {"parameter": field}}
    assert not jobs


async def test_which_machine(host: World, client: VarlinkClient, jobs: list[Any]) -> None:
    await host.register("vm", cls=MachineClass.VM)
    for method in ("CopyTo", "CopyFrom", "BindMount"):
        assert (await client.call(M + method, {"name": "nope", **PATHS}))["error"] == M + "NoSuchMachine"
        assert (await client.call(M + method, PATHS))["error"] == M + "NoSuchMachine"
        for name in ("vm", ".host"):
            assert (await client.call(M + method, {"name": name, **PATHS}))["error"] == M + "NotSupported"
    assert (await client.call(M + "OpenRootDirectory", {"name": "vm"}))["error"] == M + "NotSupported"
    assert not jobs


@pytest.mark.parametrize(
    ("number", "error"),
    [
        (errno.EPERM, "org.varlink.service.PermissionDenied"),
        (errno.EACCES, "org.varlink.service.PermissionDenied"),
        (errno.EOPNOTSUPP, M + "NotSupported"),
        (errno.ENOSYS, M + "NotSupported"),
    ],
)
async def test_failures_with_a_name(
    client: VarlinkClient, jobs: list[Any], monkeypatch: pytest.MonkeyPatch, number: int, error: str
) -> None:
    fails(monkeypatch, number)
    assert (await client.call(M + "CopyTo", {"name": "web", **PATHS}))["error"] == error


@pytest.mark.parametrize("number", [errno.EEXIST, errno.ENOSPC, errno.ENXIO])
async def test_other_failures(
    client: VarlinkClient, jobs: list[Any], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    fails(monkeypatch, number)
    assert await client.call(M + "CopyTo", {"name": "web", **PATHS}) == system(number)


async def test_users_of_its_own(
    client: VarlinkClient, jobs: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "id_map", lambda pid, kind: [(0, 100_000, 65536)])
    assert (await client.call(M + "BindMount", {"name": "web", **PATHS}))["error"] == M + "NotSupported"
    monkeypatch.setattr(process, "id_map", lambda pid, kind: [(0, 100_000, 10)])
    for method in ("BindMount", "CopyTo"):
        assert await client.call(M + method, {"name": "web", **PATHS}) == system(errno.ENXIO)


async def test_too_many(
    host: World, client: VarlinkClient, jobs: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def forever() -> None:
        await asyncio.Event().wait()

    operations = host.core.files.operations
    running = [asyncio.ensure_future(operations.run("other", forever())) for _ in range(MAX_OPERATIONS)]
    await turns()
    reply = await client.call(M + "CopyTo", {"name": "web", **PATHS})
    assert reply == {"error": M + "TooManyOperations"}
    assert await client.call(M + "BindMount", {"name": "web", **PATHS}) == {}
    operations.end_of("other")
    assert await asyncio.gather(*running) == [None] * MAX_OPERATIONS
    assert await client.call(M + "CopyTo", {"name": "web", **PATHS}) == {}


async def test_polkit(
    client: VarlinkClient,
    authority: FakeAuthority,
    jobs: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Also who has registered the machine is asked."""
    real = server_module.peer_of

    def peer_of(sock: Any) -> Peer:
        peer = real(sock)
        return Peer(peer.pid, 1000, peer.pidfd)

    monkeypatch.setattr(server_module, "peer_of", peer_of)
    authority.error = MachineError(Problem.ACCESS_DENIED, "no")
    user = await VarlinkClient.connect(tmp_path / "socket")
    ends = {"src": "/from/here", "dest": "/to/there"}
    for method, more, details in (
        ("CopyTo", PATHS, {"verb": "copy", **ends}),
        ("CopyFrom", {"source": "/a"}, {"verb": "copy", "src": "/a", "dest": "/a"}),
        ("BindMount", PATHS, {"verb": "bind", **ends}),
        ("OpenRootDirectory", {}, {"verb": "open_root_directory"}),
    ):
        reply = await user.call(M + method, {"name": "web", **more})
        assert reply["error"] == "org.varlink.service.PermissionDenied"
        asked = authority.asked.pop()
        assert asked[2:] == (
            "org.freedesktop.machine1.manage-machines",
            {"name": "web", **details},
            False,
        )
    user.close()
    assert not jobs


async def test_the_root_directory_of_the_host(client: VarlinkClient) -> None:
    host = {"name": ".host"}
    assert (await client.call(M + "OpenRootDirectory", host))["parameters"] == {"fileDescriptor": 0}
    assert os.path.samestat(os.fstat(client.fds.peek(0)), os.stat("/"))


@pytest.mark.parametrize("host", [257, 261], indirect=True)
async def test_not_before_262(client: VarlinkClient, jobs: list[Any]) -> None:
    for method in ("CopyTo", "CopyFrom", "BindMount", "OpenRootDirectory"):
        reply = await client.call(M + method, {"name": "web", **PATHS})
        assert reply["error"] == "org.varlink.service.MethodNotFound"
    assert not jobs
