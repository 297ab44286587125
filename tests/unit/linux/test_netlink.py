# SPDX-License-Identifier: LGPL-2.1-or-later

from __future__ import annotations

import contextlib
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from machined.linux import netlink, rtdump
from machined.linux.netlink import Address


def address(text: str, ifindex: int = 2, scope: int = netlink.RT_SCOPE_UNIVERSE, flags: int = 0) -> Address:
    family = socket.AF_INET6 if ":" in text else socket.AF_INET
    return Address(family, socket.inet_pton(family, text), ifindex, scope, flags, 24)


def test_usable_filters_and_sorts() -> None:
    found = [
        address("fe80::1", scope=netlink.RT_SCOPE_LINK),
        address("2001:db8::1"),
        address("2001:db8::2", flags=netlink.IFA_F_TENTATIVE),
        address("2001:db8::3", flags=netlink.IFA_F_DEPRECATED),
        address("2001:db8::4", flags=netlink.IFA_F_DADFAILED),
        address("127.0.0.1", ifindex=1, scope=netlink.RT_SCOPE_HOST),
        address("192.0.2.9", ifindex=3),
        address("192.0.2.7"),
        address("192.0.2.8", scope=netlink.RT_SCOPE_NOWHERE),
        address("192.0.2.7"),
    ]
    assert [netlink.text(a) for a in netlink.usable(found)] == [
        "192.0.2.7",
        "192.0.2.9",
        "2001:db8::1",
        "fe80::1",
    ]


def test_our_own() -> None:
    with netlink.open_route_socket() as sock:
        assert netlink.addresses(sock) == netlink.addresses()


def test_a_socket_that_does_not_block() -> None:
    with netlink.open_route_socket() as sock:
        sock.setblocking(False)
        assert netlink.addresses(sock) == netlink.addresses()


def test_decode() -> None:
    row = {"family": 2, "address": "c0000207", "ifindex": 1, "scope": 0, "flags": 0, "prefixlen": 24}
    assert [netlink.text(a) for a in netlink.decode([row])] == ["192.0.2.7"]


@pytest.mark.parametrize(
    "change", [{"address": "c000"}, {"address": "x"}, {"address": 1}, {"family": 3}, {"more": 1}]
)
def test_decode_refuses_nonsense(change: dict[str, object]) -> None:
    row = {"family": 2, "address": "c0000207", "ifindex": 1, "scope": 0, "flags": 0, "prefixlen": 24}
    with pytest.raises(ValueError, match=r"no list|hexadecimal|no IPv4"):
        netlink.decode([row | change])


class Kernel:
    """Answers each request with the next of the prepared messages: type, flags, body."""

    def __init__(self, *answers: list[tuple[int, int, bytes]]) -> None:
        self.answers = list(answers)
        self.pending = b""

    def send(self, data: bytes) -> int:
        sequence = struct.unpack_from("=I", data, 8)[0]
        stray = struct.pack("=IHHII", 16, 20, 0, 0, 0)
        self.pending = stray + b"".join(
            struct.pack("=IHHII", 16 + len(body), kind, flags, sequence, 0) + body + bytes(-len(body) % 4)
            for kind, flags, body in self.answers.pop(0)
        )
        return len(data)

    def recvfrom(self, _size: int) -> tuple[bytes, tuple[int, int]]:
        return self.pending, (0, 0)


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def test_dump_is_repeated_when_interrupted() -> None:
    body = struct.pack("=BBBBI", 2, 32, 0, 0, 4) + attribute(1, b"\x0a\0\0\1") + attribute(2, b"\x0a\0\0\2")
    body += attribute(8, struct.pack("=I", 0x280))
    new, done, interrupted = 20, 3, 0x10
    kernel = Kernel(
        [(new, 0, body), (done, interrupted, b"\0\0\0\0")], [(new, 0, body), (done, 0, b"\0\0\0\0")]
    )
    assert rtdump.dump(kernel) == [(2, b"\x0a\0\0\2", 4, 0, 0x280, 32)]  # type: ignore[arg-type]


def test_dump_that_never_holds_still() -> None:
    kernel = Kernel(*[[(3, 0x10, b"\0\0\0\0")]] * 5)
    with pytest.raises(BlockingIOError, match="changed"):
        rtdump.dump(kernel)  # type: ignore[arg-type]


def test_dump_that_is_refused() -> None:
    kernel = Kernel([(2, 0, struct.pack("=i", -1) + bytes(16))])
    with pytest.raises(PermissionError, match="cannot list"):
        rtdump.dump(kernel)  # type: ignore[arg-type]


class Guest(Kernel):
    """Sends what it likes; `pid` is who the kernel says that it is, 0 for the kernel itself."""

    def __init__(self, datagrams: list[tuple[bytes, int]]) -> None:
        super().__init__()
        self.datagrams = datagrams
        self.sequence = 0

    def send(self, data: bytes) -> int:
        self.sequence = struct.unpack_from("=I", data, 8)[0]
        return len(data)

    def recvfrom(self, _size: int) -> tuple[bytes, tuple[int, int]]:
        if not self.datagrams:
            return struct.pack("=IHHIIi", 20, 3, 0, self.sequence, 0, 0), (0, 0)
        data, pid = self.datagrams.pop(0)
        return data.replace(b"SEQ!", struct.pack("=I", self.sequence)), (pid, 0)


HEADER = st.builds(
    lambda length, kind, flags, body: struct.pack("=IHH4sI", length, kind, flags, b"SEQ!", 0) + body,
    st.sampled_from([0, 1, 15, 16, 17, 24, 40, 2**31, 2**32 - 1]),
    st.sampled_from([2, 3, 20, 20, 20, 99]),
    st.sampled_from([0, 2]),
    st.binary(max_size=60),
)


@given(st.lists(HEADER | st.binary(max_size=100), max_size=5))
def test_any_bytes_of_the_kernel(messages: list[bytes]) -> None:
    """A list of addresses with whole addresses in it, or an OSError."""
    with contextlib.suppress(OSError):
        for row in rtdump.dump(Guest([(data, 0) for data in messages])):  # type: ignore[arg-type]
            assert len(row[1]) == {2: 4, 10: 16}[row[0]]
            netlink.text(Address(*row))


@given(st.binary(max_size=200))
def test_any_address(body: bytes) -> None:
    row = rtdump._row(body.ljust(8, b"\0"))
    assert row is None or len(row[1]) == {2: 4, 10: 16}[row[0]]


@given(st.lists(HEADER, max_size=20))
def test_nobody_but_the_kernel_is_believed(messages: list[bytes]) -> None:
    """The root of a guest may write to the sockets of its network."""
    assert rtdump.dump(Guest([(data, 4711) for data in messages])) == []  # type: ignore[arg-type]


@pytest.mark.parametrize("pid", [0, 4711])
def test_a_flood_ends(pid: int) -> None:
    stray = struct.pack("=IHHII", 16, 20, 0, 0, 0)
    with pytest.raises(OSError, match=r"route socket|do not hold still"):
        rtdump.dump(Guest([(stray, pid)] * 10_000))  # type: ignore[arg-type]


ROW = st.fixed_dictionaries(
    {},
    optional={
        name: st.none()
        | st.booleans()
        | st.integers()
        | st.text(max_size=5)
        | st.sampled_from(["c0000207", 2, 10])
        for name in ("family", "address", "ifindex", "scope", "flags", "prefixlen", "more")
    },
)


@given(st.lists(ROW, max_size=3))
def test_a_helper_that_was_among_guests(rows: list[dict[str, object]]) -> None:
    with contextlib.suppress(ValueError):
        for address in netlink.decode(rows):
            netlink.text(address)
