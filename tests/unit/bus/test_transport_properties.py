# SPDX-License-Identifier: LGPL-2.1-or-later
"""Framing of D-Bus messages: cut anywhere, nested as a bus lets through, or no messages at all."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from dbus_fast import Message, MessageType, Variant
from dbus_fast.signature import get_signature_tree
from hypothesis import given
from hypothesis import strategies as st

from machined.bus import transport
from machined.bus.transport import BusSocket, reader
from tests.settled import descriptors

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
NUMBERS = st.integers(0, 2**31 - 1)
VALUES = st.recursive(
    st.tuples(st.just("s"), TEXT)
    | st.tuples(st.just("u"), NUMBERS)
    | st.tuples(st.just("ay"), st.binary(max_size=9)),
    lambda inner: (
        st.tuples(st.just("av"), st.lists(inner.map(lambda v: Variant(*v)), max_size=3))
        | st.tuples(st.just("a{sv}"), st.dictionaries(TEXT, inner.map(lambda v: Variant(*v)), max_size=3))
    ),
    max_leaves=6,
)  # fmt: skip


def marshalled(serial: int, signature: str = "", body: tuple[Any, ...] = (), **more: Any) -> bytes:
    message = Message(
        message_type=MessageType.SIGNAL, path="/x", interface="x.Y", member="Z",
        serial=serial, signature=signature, body=list(body), **more,
    )  # fmt: skip
    return bytes(message._marshall(True))


def nested(depth: int, serial: int) -> bytes:
    """An array of bytes in so many variants, as dbus-daemon passes it on: it does not count the array."""
    good = marshalled(serial, "v", (Variant("ay", b"x"),))
    inner = b"\1v\0" * (depth - 1) + b"\2ay\0"
    body = inner + bytes(-len(inner) % 4) + struct.pack("<I", 1) + b"x"
    fields = struct.unpack_from("<I", good, 12)[0]
    head = bytearray(good[: 16 + (fields + 7) // 8 * 8])
    struct.pack_into("<I", head, 4, len(body))
    return bytes(head) + body


class Received:
    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.errors: list[Exception] = []


@contextmanager
def connected() -> Iterator[tuple[socket.socket, Callable[[], None], Received]]:
    theirs, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    sock, received = BusSocket(fileno=ours.detach()), Received()
    sock.setblocking(False)
    with theirs, sock:
        yield theirs, reader(sock, received.messages.append, received.errors.append), received


@given(
    bodies=st.lists(VALUES, min_size=1, max_size=5),
    cuts=st.lists(st.integers(0, 2000), max_size=8),
)
def test_cut_anywhere(bodies: list[tuple[str, Any]], cuts: list[int]) -> None:
    data = b"".join(marshalled(n, body[0], (body[1],)) for n, body in enumerate(bodies, 1))
    ends = sorted({min(cut, len(data)) for cut in cuts} | {len(data)})
    with connected() as (theirs, read, received):
        start = 0
        for end in ends:
            theirs.sendall(data[start:end])
            read()
            start = end
    assert received.errors == []
    assert [message.serial for message in received.messages] == list(range(1, len(bodies) + 1))
    assert [message.body[0] for message in received.messages] == [body[1] for body in bodies]


@given(st.binary(max_size=300), st.booleans())
def test_anything(data: bytes, header: bool) -> None:
    """It ends the connection or is passed over; nothing is raised and no descriptor stays."""
    if header and len(data) >= 16:
        data = (
            b"l"
            + bytes((data[1] % 6, data[2], 1, len(data) % 200, 0, 0, 0))
            + data[8:12]
            + b"\x10\0\0\0"
            + data[16:]
        )
    before = descriptors()
    with connected() as (theirs, read, received):
        null = os.open("/dev/null", os.O_RDONLY)
        socket.send_fds(theirs, [data or b"x"], [null, null])
        os.close(null)
        theirs.close()
        for _ in range(30):
            if not received.errors:
                read()
        assert received.errors
        for message in received.messages:
            for fd in message.unix_fds or ():
                os.close(fd)
    assert descriptors() == before


@pytest.mark.parametrize("depth", [1, 32, 61, 62, 63, 64])
def test_nested_as_a_bus_lets_through(depth: int) -> None:
    """One message of any user would else end the daemon's connection."""
    with connected() as (theirs, read, received):
        theirs.sendall(marshalled(1) + nested(depth, 2) + marshalled(3))
        read()
    assert received.errors == []
    serials = [message.serial for message in received.messages]
    assert serials in ([1, 2, 3], [1, 3])
    assert 2 in serials or depth > 60


def test_what_cannot_be_decoded_leaves_no_descriptor() -> None:
    before = descriptors()
    with connected() as (theirs, read, received):
        inside = descriptors()
        null = os.open("/dev/null", os.O_RDONLY)
        socket.send_fds(theirs, [nested(64, 1)], [null, null])
        os.close(null)
        theirs.sendall(marshalled(2))
        read()
        assert [message.serial for message in received.messages] == [2]
        assert descriptors() == inside
    assert descriptors() == before


@pytest.mark.parametrize("kind", [0, 5, 255])
def test_unknown_types_are_passed_over(kind: int) -> None:
    data = bytearray(marshalled(1, "s", ("x" * 100,)))
    data[1] = kind
    with connected() as (theirs, read, received):
        theirs.sendall(bytes(data) + marshalled(2))
        read()
        read()
    assert [message.serial for message in received.messages] == [2]
    assert received.errors == []


def test_signatures_do_not_pile_up() -> None:
    """A tree of one takes up to 40 kB, and anybody may send a new one with each message."""
    with connected() as (theirs, read, _):
        for number in range(transport.MAX_SIGNATURES + 50):
            signature = "".join("sy"[number >> bit & 1] for bit in range(10))
            theirs.sendall(marshalled(1, signature, tuple("" if kind == "s" else 0 for kind in signature)))
            read()
    assert get_signature_tree.cache_info().currsize <= transport.MAX_SIGNATURES + 1
