# SPDX-License-Identifier: LGPL-2.1-or-later
"""The connection's own transport, over a socket pair and without a bus."""

from __future__ import annotations

import array
import asyncio
import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import Any

import pytest
from dbus_fast import Message, MessageFlag, MessageType

from machined.bus import connection, transport
from machined.bus.connection import Bus, system_bus_path
from machined.bus.transport import BATCH, BusSocket, Writer, reader
from machined.linux.fds import FdSet
from tests.fakes.world import turns
from tests.settled import descriptors
from tests.until import until

# As long as a header, and of no byte order.
RUBBISH = b"X\1\0\1" + bytes(12)


class FakeBus:
    def __init__(self) -> None:
        self.errors: list[Exception | None] = []

    def lost(self, error: Exception | None) -> None:
        self.errors.append(error)


@pytest.fixture
def pair() -> Iterator[tuple[BusSocket, BusSocket]]:
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    ends = BusSocket(fileno=left.detach()), BusSocket(fileno=right.detach())
    for end in ends:
        end.setblocking(False)
    yield ends
    for end in ends:
        with suppress(OSError):
            end.close()


def message(text: str = "", serial: int = 1, **more: Any) -> Message:
    fields = {"path": "/x", "signature": "s", "body": [text], "serial": serial, **more}
    return Message(message_type=MessageType.SIGNAL, interface="x.Y", member="Z", **fields)


class TestWriter:
    async def test_a_full_buffer_waits(self, pair: tuple[BusSocket, BusSocket]) -> None:
        """The library takes it for the end of the connection."""
        bus = FakeBus()
        writer = Writer(bus, pair[0])  # type: ignore[arg-type]
        sent = [asyncio.get_running_loop().create_future() for _ in range(40)]
        for serial, future in enumerate(sent, 1):
            writer.schedule_write(message("x" * 50_000, serial), future)
        await turns()
        assert not sent[-1].done()
        received: list[int] = []
        done = asyncio.Event()

        def take(received_message: Message) -> None:
            received.append(received_message.serial)
            if len(received) == len(sent):
                done.set()

        loop = asyncio.get_running_loop()
        loop.add_reader(pair[1], reader(pair[1], take, lambda error: pytest.fail(str(error))))
        async with asyncio.timeout(10):
            await done.wait()
            await asyncio.gather(*sent)
        loop.remove_reader(pair[1])
        assert received == list(range(1, 41))
        assert bus.errors == []
        assert not writer._waiting

    async def test_descriptors_go_with_the_first_byte(self, pair: tuple[BusSocket, BusSocket]) -> None:
        pair[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        writer = Writer(FakeBus(), pair[0])  # type: ignore[arg-type]
        got: asyncio.Future[FdSet] = asyncio.get_running_loop().create_future()
        with FdSet(os.pipe()) as fds:
            future = asyncio.get_running_loop().create_future()
            body = message(unix_fds=[fds.peek(1)], signature="sh", body=["y" * 60_000, 0])
            writer.schedule_write(body, future)
            assert not future.done(), "it does not fit at once"
            loop = asyncio.get_running_loop()
            loop.add_reader(
                pair[1],
                reader(
                    pair[1],
                    lambda m: got.set_result(FdSet(m.unix_fds)),
                    lambda error: pytest.fail(str(error)),
                ),
            )
            async with asyncio.timeout(10):
                received = await got
                await future
            loop.remove_reader(pair[1])
            with received:
                assert len(received) == 1
                os.write(received.peek(0), b"!")
                assert os.read(fds.peek(0), 1) == b"!"

    async def test_the_other_end_is_gone(self, pair: tuple[BusSocket, BusSocket]) -> None:
        bus = FakeBus()
        writer = Writer(bus, pair[0])  # type: ignore[arg-type]
        pair[1].close()
        writer.schedule_write(message())
        await turns()
        assert [type(error) for error in bus.errors] == [BrokenPipeError]

    async def test_what_was_queued_is_given_up(self, pair: tuple[BusSocket, BusSocket]) -> None:
        writer = Writer(FakeBus(), pair[0])  # type: ignore[arg-type]
        futures = [asyncio.get_running_loop().create_future() for _ in range(20)]
        for future in futures:
            writer.schedule_write(message("x" * 50_000), future)
        writer.close(None)
        assert all(future.done() for future in futures)
        assert isinstance(futures[-1].exception(), ConnectionResetError)


class TestReader:
    async def test_a_batch_at_a_time(self, pair: tuple[BusSocket, BusSocket]) -> None:
        data = b"".join(bytes(message(serial=n)._marshall(True)) for n in range(1, BATCH + 6))
        pair[0].send(data)
        got: list[int] = []
        read = reader(pair[1], lambda m: got.append(m.serial), lambda error: pytest.fail(str(error)))
        read()
        assert got == list(range(1, BATCH + 1))
        read()
        assert len(got) == BATCH + 5
        read()

    async def test_rubbish_ends_the_connection(self, pair: tuple[BusSocket, BusSocket]) -> None:
        pair[0].send(RUBBISH)
        errors: list[Exception] = []
        reader(pair[1], lambda m: pytest.fail("no message"), errors.append)()
        assert len(errors) == 1

    async def test_what_is_too_large_is_dropped(
        self, pair: tuple[BusSocket, BusSocket], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(transport, "MAX_MESSAGE", 1000)
        for serial, size in ((1, 10), (2, 5000), (3, 10)):
            pair[0].send(bytes(message("x" * size, serial)._marshall(True)))
        got: list[int] = []
        read = reader(pair[1], lambda m: got.append(m.serial), lambda error: pytest.fail(str(error)))
        for _ in range(3):
            read()
        assert got == [1, 3]

    async def test_the_end(self, pair: tuple[BusSocket, BusSocket]) -> None:
        pair[0].close()
        errors: list[Exception] = []
        reader(pair[1], lambda m: pytest.fail("no message"), errors.append)()
        assert len(errors) == 1


class TestSocket:
    def test_close_on_exec_from_the_first_moment(self, pair: tuple[BusSocket, BusSocket]) -> None:
        with FdSet(os.pipe()) as fds:
            socket.send_fds(pair[0], [b"x"], [fds.peek(0)])
            _, control, _, _ = pair[1].recvmsg(1, socket.CMSG_SPACE(4))
            received = array.array("i", control[0][2])
            with FdSet(received) as got:
                assert not os.get_inheritable(got.peek(0))

    def test_more_than_the_library_expects(self, pair: tuple[BusSocket, BusSocket]) -> None:
        with FdSet(os.pipe()) as fds:
            socket.send_fds(pair[0], [b"x"], [fds.peek(0)] * 200)
            _, control, _, _ = pair[1].recvmsg(1, socket.CMSG_SPACE(16 * 4))
            with FdSet(array.array("i", control[0][2])) as got:
                assert len(got) == 200

    def test_of_a_truncated_list_none_is_kept(
        self, pair: tuple[BusSocket, BusSocket], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(transport, "MAX_FDS", 2)
        with FdSet(os.pipe()) as fds:
            before = len(descriptors())
            socket.send_fds(pair[0], [b"x"], [fds.peek(0)] * 8)
            data, control, _, _ = pair[1].recvmsg(1, 100)
            assert (data, list(control)) == (b"x", [])
            assert len(descriptors()) == before

    def test_budget(self, pair: tuple[BusSocket, BusSocket]) -> None:
        pair[1].budget = 10
        pair[0].send(b"x" * 11)
        assert pair[1].recvmsg(10)[0] == b"x" * 10
        with pytest.raises(OSError, match="more than is allowed"):
            pair[1].recvmsg(10)


@pytest.fixture
async def guest_bus() -> AsyncIterator[tuple[Bus, BusSocket]]:
    """A connection to the bus of a guest that does as it likes: our end, and the guest's."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    sock, guest = BusSocket(fileno=ours.detach()), BusSocket(fileno=theirs.detach())
    guest.setblocking(False)
    loop = asyncio.get_running_loop()
    adopting = asyncio.ensure_future(Bus.adopt(sock, timeout=10))
    data = b""
    while b"BEGIN" not in data:
        part = await loop.sock_recv(guest, 4096)
        data += part
        if b"AUTH EXTERNAL" in part:
            await loop.sock_sendall(guest, b"OK 0123456789abcdef0123456789abcdef\r\n")
        if b"NEGOTIATE_UNIX_FD" in part:
            await loop.sock_sendall(guest, b"AGREE_UNIX_FD\r\n")
    hello = Message(
        message_type=MessageType.METHOD_RETURN, reply_serial=1, serial=1, signature="s", body=[":1.1"]
    )
    await loop.sock_sendall(guest, bytes(hello._marshall(True)))
    bus = await adopting
    yield bus, guest
    bus.close()
    guest.close()


class TestHostileGuest:
    async def test_calls_of_a_guest_are_not_served(self, guest_bus: tuple[Bus, BusSocket]) -> None:
        bus, guest = guest_bus
        call = Message(
            path="/", interface="org.freedesktop.DBus.Peer", member="Ping", serial=9, sender=":1.2"
        )
        guest.send(bytes(call._marshall(True)))
        await turns()
        while True:
            try:
                data = guest.recv(65536)
            except BlockingIOError:
                break
            assert b"Hello" in data, "nothing but our own request"
        assert not bus.disconnected.done()

    async def test_rubbish(self, guest_bus: tuple[Bus, BusSocket]) -> None:
        bus, guest = guest_bus
        asking = asyncio.ensure_future(bus.request("x.y", "/", "x.y", "Z"))
        await turns()
        guest.send(RUBBISH)
        with pytest.raises(ConnectionResetError):
            await asking
        assert bus.disconnected.done()

    async def test_no_answer(self, guest_bus: tuple[Bus, BusSocket]) -> None:
        bus, _ = guest_bus
        with pytest.raises(TimeoutError):
            await bus.request("x.y", "/", "x.y", "Z", timeout=0.01)
        assert bus._replies == {}

    async def test_an_answer_that_comes_too_late(self, guest_bus: tuple[Bus, BusSocket]) -> None:
        """With a descriptor, which must not stay."""
        bus, guest = guest_bus
        with pytest.raises(TimeoutError):
            await bus.request("x.y", "/", "x.y", "Z", timeout=0.01)
        with FdSet(os.pipe()) as fds:
            late = Message(
                message_type=MessageType.METHOD_RETURN,
                reply_serial=2,
                serial=5,
                signature="h",
                body=[0],
                unix_fds=[fds.peek(1)],
            )
            socket.send_fds(guest, [bytes(late._marshall(True))], [fds.peek(1)])
            await turns()
            os.close(fds.steal(1))
            assert os.read(fds.peek(0), 1) == b"", "nobody holds the other end any more"
        assert not bus.disconnected.done()


async def test_who_waits_goes_on_before_the_next_message(guest_bus: tuple[Bus, BusSocket]) -> None:
    """The answer to a stop, and right behind it the word of what that has led to: the order counts."""
    bus, guest = guest_bus
    order: list[str] = []
    bus.on_signal = lambda _: order.append("signal")

    async def ask() -> None:
        await bus.request("x.y", "/", "x.y", "Z")
        order.append("answer")

    asking = asyncio.ensure_future(ask())
    await turns()
    answer = Message(message_type=MessageType.METHOD_RETURN, reply_serial=2, serial=5)
    guest.send(bytes(answer._marshall(True)) + bytes(message("after", 6)._marshall(True)))
    await asking
    await until(lambda: len(order) == 2)
    assert order == ["answer", "signal"]


class TestGivenUp:
    async def test_the_descriptors_of_a_message_outlive_its_caller(
        self, guest_bus: tuple[Bus, BusSocket]
    ) -> None:
        """A caller may give up, and close what it sent, while the message is still in the queue."""
        bus, guest = guest_bus
        before = descriptors()
        for _ in range(8):
            bus.send_message(message("x" * 100_000))
        await turns()
        with FdSet(os.pipe()) as fds:
            asking = asyncio.ensure_future(
                bus.request("x.y", "/", "x.y", "Z", "h", [0], fds=[fds.peek(1)], timeout=None)
            )
            await turns()
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
        received: list[Message] = []
        loop = asyncio.get_running_loop()
        loop.add_reader(guest, reader(guest, received.append, lambda error: pytest.fail(str(error))))
        await until(lambda: bool(received) and received[-1].member == "Z" and received[-1].signature == "h")
        loop.remove_reader(guest)
        assert not bus.disconnected.done()
        for fd in received[-1].unix_fds:
            os.close(fd)
        assert descriptors() == before


async def test_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    sock, guest = BusSocket(fileno=ours.detach()), theirs
    with guest:
        guest.setblocking(False)
        adopting = asyncio.ensure_future(Bus.adopt(sock, timeout=10))
        loop = asyncio.get_running_loop()
        await loop.sock_recv(guest, 4096)
        await loop.sock_sendall(guest, b"REJECTED EXTERNAL\r\n")
        with pytest.raises(Exception, match=r"(?i)reject|auth"):
            await adopting
    assert sock.fileno() == -1


async def test_nobody_answers() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    sock = BusSocket(fileno=ours.detach())
    with theirs, pytest.raises(TimeoutError):
        await Bus.adopt(sock, timeout=0.01)
    assert sock.fileno() == -1


@pytest.mark.parametrize(
    ("address", "path"),
    [
        (None, "/run/dbus/system_bus_socket"),
        ("", "/run/dbus/system_bus_socket"),
        ("unix:path=/x", "/x"),
        ("tcp:host=a,port=1;unix:guid=0,path=/y", "/y"),
        ("unix:abstract=/z", "/run/dbus/system_bus_socket"),
    ],
)
def test_system_bus_path(monkeypatch: pytest.MonkeyPatch, address: str | None, path: str) -> None:
    monkeypatch.delenv("DBUS_SYSTEM_BUS_ADDRESS", raising=False)
    if address is not None:
        monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", address)
    assert system_bus_path() == path


async def test_no_bus_there() -> None:
    with pytest.raises(FileNotFoundError):
        await connection.Bus.connect_to("/nonexistent/bus")


def test_a_signal_nobody_wants_is_not_decoded(pair: tuple[BusSocket, BusSocket]) -> None:
    pair[0].ignores = lambda path: path == "/no"
    received: list[Message] = []
    read = reader(pair[0], received.append, lambda error: pytest.fail(str(error)))
    for path in ("/no", "/yes", "/no", "/no" + "t" * 600, "/yes"):
        pair[1].send(bytes(message("x" * 900, path=path)._marshall(True)))
    read()
    assert [m.path[:4] for m in received if m.path] == ["/yes", "/not", "/yes"]


class TestRefusedUnread:
    """Calls that want no reply, of one who has too many under way, cost no decoding."""

    def call(self, sender: str, **more: Any) -> bytes:
        """As it comes from a bus: the library does not write a sender, so it begins as a destination."""
        fields: dict[str, Any] = {"signature": "s", "body": ["x" * 2000], "serial": 7, "destination": sender}
        fields |= {"path": "/org/freedesktop/machine1", "interface": "x.Y", "member": "Z"}
        data = bytes(Message(**(fields | more))._marshall(True))
        return data.replace(b"\x06\x01s\0", b"\x07\x01s\0")

    async def test_dropped_whole(self, pair: tuple[BusSocket, BusSocket]) -> None:
        asked: list[str] = []

        def refuses(sender: str) -> bool:
            asked.append(sender)
            return sender == ":1.7"

        pair[0].refuses = refuses
        received: list[Message] = []
        read = reader(pair[0], received.append, lambda error: pytest.fail(str(error)))
        no_reply = MessageFlag.NO_REPLY_EXPECTED
        with FdSet(os.pipe()) as fds:
            data = self.call(":1.7", flags=no_reply, unix_fds=[fds.peek(1)])
            socket.send_fds(pair[1], [data], [fds.peek(1)])
            os.close(fds.steal(1))
            os.set_blocking(fds.peek(0), False)
            for sender, flags in ((":1.7", MessageFlag.NONE), (":1.8", no_reply), (":1.7", no_reply)):
                pair[1].send(self.call(sender, flags=flags))
            pair[1].send(bytes(message("end")._marshall(True)))
            read()
            assert os.read(fds.peek(0), 1) == b"", "its descriptor came to nobody"
        assert [m.sender for m in received] == [":1.7", ":1.8", None]
        assert asked == [":1.7", ":1.8", ":1.7"], "of those alone that want no reply"
