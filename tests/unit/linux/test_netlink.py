# SPDX-License-Identifier: LGPL-2.1-or-later

from __future__ import annotations

import socket
import struct

import pytest

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

    def recv(self, _size: int) -> bytes:
        return self.pending


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
