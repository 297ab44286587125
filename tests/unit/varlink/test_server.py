# SPDX-License-Identifier: LGPL-2.1-or-later
"""The wire rules, over a real socket."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from machined.linux.fds import OwnedFd
from machined.varlink import server as module
from machined.varlink.server import Call, Server
from machined.varlink.table import INT, STRING, Error, Interface, Method, VarlinkError, may, need
from tests.fakes.varlink import VarlinkClient
from tests.fakes.world import turns
from tests.settled import descriptors

X = "org.x.Y."


class Handlers:
    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []
        self.go_on = asyncio.Event()
        self.waiting = asyncio.Event()
        self.peers: list[tuple[int, int]] = []

    def echo(self, call: Call, given: dict[str, Any]) -> dict[str, Any]:
        self.calls.append(given)
        self.peers.append((call.peer.pid, call.peer.uid))
        return given

    def nothing(self, call: Call, given: dict[str, Any]) -> None:
        self.calls.append(given)

    async def slow(self, call: Call, given: dict[str, Any]) -> dict[str, Any]:
        self.waiting.set()
        await self.go_on.wait()
        return given

    async def stream(self, call: Call, given: dict[str, Any]) -> dict[str, Any]:
        if not call.more:
            raise VarlinkError("org.varlink.service.ExpectedMore")
        for number in range(given["count"] - 1):
            await call.reply({"number": number, "text": "x" * given.get("size", 0)})
        return {"number": given["count"] - 1}

    def fail(self, call: Call, given: dict[str, Any]) -> None:
        raise {
            "known": VarlinkError(X + "Bad", why="so"),
            "os": OSError(17, "x"),
            "bug": RuntimeError("secret"),
        }[given["how"]]

    def open(self, call: Call, given: dict[str, Any]) -> dict[str, Any]:
        index = call.attach(OwnedFd(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)))
        if given.get("how") == "fail":
            raise VarlinkError(X + "Bad")
        return {"fd": index}


class User:
    """Whom the server takes its next peers for."""

    def __init__(self, uid: int) -> None:
        self.uid = uid


def as_user(monkeypatch: pytest.MonkeyPatch, uid: int) -> User:
    user, real = User(uid), module.peer_of

    def peer_of(sock: socket.socket) -> module.Peer:
        peer = real(sock)
        return module.Peer(peer.pid, user.uid, peer.pidfd)

    monkeypatch.setattr(module, "peer_of", peer_of)
    return user


@pytest.fixture
def handlers() -> Handlers:
    return Handlers()


@pytest.fixture
async def path(tmp_path: Path, handlers: Handlers) -> AsyncIterator[Path]:
    table = Interface(
        "org.x.Y",
        (),
        (
            Method("Echo", (may("text", STRING), may("number", INT)), (), handlers.echo),
            Method("Nothing", (), (), handlers.nothing),
            Method("Slow", (may("text", STRING),), (), handlers.slow),
            Method("Stream", (need("count", INT), may("size", INT)), (), handlers.stream),
            Method("Fail", (need("how", STRING),), (), handlers.fail),
            Method("Open", (may("how", STRING),), (), handlers.open),
        ),
        (Error("Bad"),),
    )

    def map_error(error: Exception) -> VarlinkError | None:
        return VarlinkError("io.systemd.System", errno=error.errno) if isinstance(error, OSError) else None

    info = {"vendor": "v", "product": "p", "version": "1", "url": "u"}
    served = Server(info, [table], map_error)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.bind(str(tmp_path / "socket"))
    sock.listen()
    served.listen(sock)
    yield tmp_path / "socket"
    await served.close()


@pytest.fixture
async def client(path: Path) -> AsyncIterator[VarlinkClient]:
    made = await VarlinkClient.connect(path)
    yield made
    made.close()


class TestFraming:
    async def test_a_call(self, client: VarlinkClient, handlers: Handlers) -> None:
        assert await client.call(X + "Echo", {"text": "ä", "number": 5}) == {
            "parameters": {"text": "ä", "number": 5}
        }
        assert handlers.peers == [(os.getpid(), os.geteuid())]

    async def test_no_parameters(self, client: VarlinkClient) -> None:
        assert await client.call(X + "Echo") == {"parameters": {}}
        assert await client.call(X + "Nothing", {}) == {"parameters": {}}
        await client.send_raw(b'{"method":"org.x.Y.Echo","parameters":null}\0')
        assert await client.reply() == {"parameters": {}}

    async def test_byte_by_byte(self, client: VarlinkClient) -> None:
        for byte in b'{"method":"org.x.Y.Echo","parameters":{"number":7}}\0':
            await client.send_raw(bytes([byte]))
            await turns(2)
        assert await client.reply() == {"parameters": {"number": 7}}

    async def test_pipelined_answers_keep_their_order(
        self, client: VarlinkClient, handlers: Handlers
    ) -> None:
        await client.send(X + "Slow", {"text": "first"})
        for number in range(100):
            await client.send(X + "Echo", {"number": number})
        await handlers.waiting.wait()
        assert handlers.calls == [], "one after the other"
        handlers.go_on.set()
        assert await client.reply() == {"parameters": {"text": "first"}}
        assert [(await client.reply())["parameters"]["number"] for _ in range(100)] == list(range(100))

    async def test_others_do_not_wait(self, client: VarlinkClient, path: Path, handlers: Handlers) -> None:
        await client.send(X + "Slow")
        await handlers.waiting.wait()
        other = await VarlinkClient.connect(path)
        assert await other.call(X + "Echo", {"number": 1}) == {"parameters": {"number": 1}}
        other.close()
        handlers.go_on.set()
        await client.reply()

    async def test_oneway(self, client: VarlinkClient, handlers: Handlers) -> None:
        await client.send(X + "Echo", {"number": 1}, oneway=True)
        await client.send(X + "Nope", oneway=True)
        await client.send(X + "Fail", {"how": "known"}, oneway=True)
        assert await client.call(X + "Echo", {"number": 2}) == {"parameters": {"number": 2}}
        assert handlers.calls == [{"number": 1}, {"number": 2}]

    @pytest.mark.parametrize(
        "data",
        [
            b"\0",
            b"rubbish\0",
            b"[]\0",
            b"{}\0",
            b'{"method":7}\0',
            b'{"method":"a.B"\0',
            b'"\xff\xfe"\0',
            b"[" * 100_000 + b"\0",
            b'{"method":"a.B","parameters":' + b'{"a":' * 100_000 + b"\0",
        ],
    )
    async def test_what_is_no_call_ends_the_connection(
        self, client: VarlinkClient, path: Path, data: bytes
    ) -> None:
        await client.send_raw(data)
        with pytest.raises(EOFError):
            await client.reply()
        other = await VarlinkClient.connect(path)
        assert await other.call(X + "Echo") == {"parameters": {}}
        other.close()

    async def test_an_endless_message(self, client: VarlinkClient, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "MAX_MESSAGE", 100_000)
        with pytest.raises((EOFError, BrokenPipeError, ConnectionResetError)):
            for _ in range(10):
                await client.send_raw(b"x" * 50_000)
            await client.reply()

    @pytest.mark.parametrize("parameters", [[], "x", 7, True])
    async def test_parameters_are_an_object(self, client: VarlinkClient, parameters: Any) -> None:
        """Anything else is no call, and the connection ends."""
        with pytest.raises(EOFError):
            await client.call(X + "Echo", parameters)

    @pytest.mark.parametrize(
        "more",
        [{"frob": 1}, {"more": "x"}, {"oneway": 1}, {"more": True, "oneway": True}, {"upgrade": True}],
    )
    async def test_keys_of_a_call(self, client: VarlinkClient, more: dict[str, Any]) -> None:
        with pytest.raises(EOFError):
            await client.call(X + "Echo", **more)

    async def test_large(self, client: VarlinkClient) -> None:
        text = "x" * 900_000
        sending = asyncio.ensure_future(client.call(X + "Echo", {"text": text}))
        assert (await sending)["parameters"]["text"] == text


class TestMore:
    async def test_stream(self, client: VarlinkClient) -> None:
        await client.send(X + "Stream", {"count": 3}, more=True)
        replies = [await client.reply() for _ in range(3)]
        assert [reply["parameters"]["number"] for reply in replies] == [0, 1, 2]
        assert [reply.get("continues", False) for reply in replies] == [True, True, False]

    async def test_expected(self, client: VarlinkClient) -> None:
        assert await client.call(X + "Stream", {"count": 3}) == {
            "error": "org.varlink.service.ExpectedMore",
            "parameters": {},
        }

    async def test_a_reader_that_leaves(self, client: VarlinkClient, path: Path) -> None:
        await client.send(X + "Stream", {"count": 100_000, "size": 1000}, more=True)
        await client.reply()
        client.close()
        other = await VarlinkClient.connect(path)
        assert await other.call(X + "Echo") == {"parameters": {}}
        other.close()

    async def test_a_reader_that_does_not_read(
        self, client: VarlinkClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real, gave_up = module._send, asyncio.Event()

        async def send(*args: Any) -> None:
            try:
                await real(*args)
            except TimeoutError:
                gave_up.set()
                raise

        monkeypatch.setattr(module, "_send", send)
        monkeypatch.setattr(module, "SEND_TIMEOUT", 0.02)
        await client.send(X + "Stream", {"count": 100_000, "size": 1000}, more=True)
        await gave_up.wait()
        with pytest.raises(EOFError):
            while True:
                await client.reply()


class TestErrors:
    @pytest.mark.parametrize("method", [X + "Nope", "org.z.Y.Echo", "Echo", "", "org.varlink.service.Nope"])
    async def test_no_such_method(self, client: VarlinkClient, method: str) -> None:
        assert await client.call(method, {"frob": 1}) == {
            "error": "org.varlink.service.MethodNotFound",
            "parameters": {"method": method},
        }

    @pytest.mark.parametrize(
        ("parameters", "field"),
        [({"number": "1"}, "number"), ({"frob": 1}, "frob"), ({"number": 1.5}, "number")],
    )
    async def test_parameters(self, client: VarlinkClient, parameters: dict[str, Any], field: str) -> None:
        assert await client.call(X + "Echo", parameters) == {
            "error": "org.varlink.service.InvalidParameter",
            "parameters": {"parameter": field},
        }

    async def test_of_handlers(self, client: VarlinkClient) -> None:
        known = await client.call(X + "Fail", {"how": "known"})
        assert known == {"error": X + "Bad", "parameters": {"why": "so"}}
        assert await client.call(X + "Fail", {"how": "os"}) == {
            "error": "io.systemd.System",
            "parameters": {"errno": 17},
        }

    async def test_bugs(self, client: VarlinkClient, caplog: pytest.LogCaptureFixture) -> None:
        reply = await client.call(X + "Fail", {"how": "bug"})
        assert reply == {"error": "io.systemd.System", "parameters": {"errno": 5}}
        assert "RuntimeError: secret" in caplog.text
        assert await client.call(X + "Echo") == {"parameters": {}}


class TestService:
    async def test_info(self, client: VarlinkClient) -> None:
        reply = await client.call("org.varlink.service.GetInfo")
        assert reply["parameters"] == {
            "vendor": "v",
            "product": "p",
            "version": "1",
            "url": "u",
            "interfaces": ["io.systemd", "org.varlink.service", "org.x.Y"],
        }

    @pytest.mark.parametrize("name", ["org.x.Y", "io.systemd", "org.varlink.service"])
    async def test_description(self, client: VarlinkClient, name: str) -> None:
        reply = await client.call("org.varlink.service.GetInterfaceDescription", {"interface": name})
        assert reply["parameters"]["description"].startswith(f"interface {name}\n")

    async def test_no_description(self, client: VarlinkClient) -> None:
        assert await client.call("org.varlink.service.GetInterfaceDescription", {"interface": "a.B"}) == {
            "error": "org.varlink.service.InterfaceNotFound",
            "parameters": {"interface": "a.B"},
        }
        reply = await client.call("org.varlink.service.GetInterfaceDescription")
        assert reply["parameters"] == {"parameter": "interface"}


class TestDescriptors:
    async def test_with_the_reply(self, client: VarlinkClient) -> None:
        await client.call(X + "Echo")
        before = len(descriptors())
        assert await client.call(X + "Open") == {"parameters": {"fd": 0}}
        assert os.readlink(f"/proc/self/fd/{client.fds.peek(0)}") == "/dev/null"
        await client.call(X + "Echo")
        assert len(descriptors()) == before + 1, "ours is closed"

    @pytest.mark.parametrize(("parameters", "oneway"), [({"how": "fail"}, False), ({}, True)])
    async def test_not_sent_is_closed(
        self, client: VarlinkClient, parameters: dict[str, Any], oneway: bool
    ) -> None:
        await client.call(X + "Echo")
        before = len(descriptors())
        await client.send(X + "Open", parameters, oneway=oneway)
        if not oneway:
            assert (await client.reply())["error"] == X + "Bad"
        await client.call(X + "Echo")
        assert len(client.fds) == 0
        assert len(descriptors()) == before

    async def test_of_clients_do_not_stay(self, client: VarlinkClient) -> None:
        await client.call(X + "Echo")
        before = len(descriptors())
        for _ in range(10):
            socket.send_fds(client.sock, [b'{"method":"org.x.Y.Echo"}\0'], [0, 0])
            await client.reply()
        assert len(descriptors()) == before


class TestLimits:
    async def test_connections(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        user = as_user(monkeypatch, 1000)
        monkeypatch.setattr(module, "MAX_CONNECTIONS", 2)
        clients = [await VarlinkClient.connect(path) for _ in range(2)]
        for one in clients:
            await one.call(X + "Echo")
        refused = await VarlinkClient.connect(path)
        with pytest.raises((EOFError, BrokenPipeError)):
            await refused.call(X + "Echo")
        refused.close()
        clients.pop().close()
        for _ in range(3):
            await clients[0].call(X + "Echo")  # the end of the other has been seen by then
        clients.append(await VarlinkClient.connect(path))
        assert await clients[1].call(X + "Echo") == {"parameters": {}}
        user.uid = 0
        clients.append(await VarlinkClient.connect(path))
        assert await clients[2].call(X + "Echo") == {"parameters": {}}, "root has to be able to register"
        for one in clients:
            one.close()

    async def test_of_one_user(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "MAX_CONNECTIONS_PER_USER", 1)
        as_user(monkeypatch, 1000)
        first, second = [await VarlinkClient.connect(path) for _ in range(2)]
        assert await first.call(X + "Echo") == {"parameters": {}}
        with pytest.raises((EOFError, BrokenPipeError)):
            await second.call(X + "Echo")
        first.close()
        second.close()

    async def test_unfinished_messages_of_one_user(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A thousand connections, each short of its limit, would hold a gigabyte."""
        as_user(monkeypatch, 1000)
        monkeypatch.setattr(module, "MAX_PENDING_PER_USER", 100_000)
        clients = [await VarlinkClient.connect(path) for _ in range(3)]
        for one in clients[:2]:
            await one.send_raw(b"x" * 40_000)
            await turns()
        await clients[2].send_raw(b"x" * 40_000)
        with pytest.raises((EOFError, ConnectionResetError)):
            await clients[2].reply()
        for one in clients:
            one.close()
        await turns()
        fresh = await VarlinkClient.connect(path)
        assert (await fresh.call(X + "Echo", {"text": "x" * 90_000}))["parameters"]["text"]
        fresh.close()

    async def test_users_take_turns(
        self, path: Path, monkeypatch: pytest.MonkeyPatch, handlers: Handlers
    ) -> None:
        """One with many connections is not served more often than one with a single one."""
        user = as_user(monkeypatch, 1000)
        many = [await VarlinkClient.connect(path) for _ in range(20)]
        for one in many:
            await one.call(X + "Nothing")
        user.uid = 1001
        single = await VarlinkClient.connect(path)
        await single.call(X + "Nothing")
        handlers.calls.clear()
        for one in many:
            await one.send(X + "Echo", {"number": 1})
        await single.send(X + "Echo", {"number": 2})
        for one in [*many, single]:
            await one.reply()
        assert [call["number"] for call in handlers.calls].index(2) < 5
        for one in [*many, single]:
            one.close()


async def test_closing_ends_what_is_under_way(client: VarlinkClient, handlers: Handlers) -> None:
    await client.send(X + "Slow")
    await handlers.waiting.wait()
