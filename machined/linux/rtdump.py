# SPDX-License-Identifier: LGPL-2.1-or-later
"""The kernel's list of network addresses over a NETLINK_ROUTE socket; see rtnetlink(7).

The namespace helper imports this module too, hence no struct, no socket, no dataclasses: they cost more
time to import than the whole job takes. Numbers of netlink are in the machine's byte order.
"""

from __future__ import annotations

import errno
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket

AF_NETLINK = 16
NETLINK_ROUTE = 0

_NLMSG_ERROR = 2
_NLMSG_DONE = 3
_RTM_NEWADDR = 20
_RTM_GETADDR = 22
_NLM_F_REQUEST_DUMP = 0x301
_NLM_F_DUMP_INTR = 0x10
_IFA_ADDRESS = 1
_IFA_LOCAL = 2
_IFA_FLAGS = 8
_LENGTH = {2: 4, 10: 16}  # of an address, by family: AF_INET, AF_INET6
_RECEIVE = 64 * 1024
_ATTEMPTS = 5
_PATIENCE_MSEC = 5000

# family, address, ifindex, scope, flags, prefixlen
Row = tuple[int, bytes, int, int, int, int]


# More addresses than that help nobody, and a guest may have a million: the dump is broken off there.
ROWS_MAX = 4096
# Datagrams on end that nobody asked for.
STRAYS_MAX = 256
# Notifications that may come in between, before we give up.
_NOTIFIED_MAX = 4096


class _Changed(Exception):
    """The list changed while the kernel was telling it."""


class Outcome:
    """What came with a list: `noticed`, word of a change meanwhile; `broken_off`, it was too long.

    After that nothing more can be asked on that socket: the rest of the answer is in it.
    """

    def __init__(self) -> None:
        self.noticed = False
        self.broken_off = False


def _number(data: bytes) -> int:
    return int.from_bytes(data, sys.byteorder)


def _row(body: bytes) -> Row | None:
    """One struct ifaddrmsg and the attributes behind it."""
    if len(body) < 8:
        return None
    family, prefixlen, flags, scope = body[:4]
    ifindex = _number(body[4:8])
    address = local = b""
    position = 8
    while position + 4 <= len(body):
        length, kind = _number(body[position : position + 2]), _number(body[position + 2 : position + 4])
        if length < 4:
            break
        value = body[position + 4 : position + length]
        if kind == _IFA_ADDRESS:  # on point-to-point links the peer's
            address = value
        elif kind == _IFA_LOCAL:
            local = value
        elif kind == _IFA_FLAGS:  # all 32 bits, of which the header has room for 8
            flags = _number(value)
        position += (length + 3) & ~3
    address = local or address
    if len(address) != _LENGTH.get(family):
        return None
    return family, address, ifindex, scope, flags, prefixlen


def _receive(sock: _socket.socket) -> bytes:
    for _ in range(STRAYS_MAX):
        try:
            data, sender = sock.recvfrom(_RECEIVE)
            # The root of a guest may write to any socket of its network: only the kernel's word counts.
            if sender[0] == 0:
                return data
        except BlockingIOError:  # a non-blocking socket while somebody else makes changes
            import select

            poll = select.poll()
            poll.register(sock.fileno(), select.POLLIN)
            if not poll.poll(_PATIENCE_MSEC):
                raise TimeoutError(errno.ETIMEDOUT, "the kernel does not answer on a route socket") from None
    raise OSError(errno.EPROTO, "somebody else keeps writing to our route socket")


def _dump_once(sock: _socket.socket, sequence: int, outcome: Outcome) -> list[Row]:
    request = [(4, 24), (2, _RTM_GETADDR), (2, _NLM_F_REQUEST_DUMP), (4, sequence), (4, 0)]
    sock.send(b"".join(value.to_bytes(size, sys.byteorder) for size, value in request) + bytes(8))
    rows: list[Row] = []
    interrupted = False
    others = 0
    while True:
        if others > _NOTIFIED_MAX:
            raise OSError(errno.EAGAIN, "the network addresses do not hold still")
        try:
            data = _receive(sock)
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            outcome.noticed = True  # so many notifications that some were lost
            data = b""
        others += len(data) < 16
        position = 0
        while position + 16 <= len(data):
            header = data[position : position + 16]
            length, kind, flags = _number(header[:4]), _number(header[4:6]), _number(header[6:8])
            answers = _number(header[8:12])
            body = data[position + 16 : position + length]
            position += max((length + 3) & ~3, 16)
            if answers != sequence:  # a notification, or the rest of an answer nobody waited for
                outcome.noticed = True
                others += 1
                continue
            interrupted |= bool(flags & _NLM_F_DUMP_INTR)
            if kind == _NLMSG_ERROR:
                number = -int.from_bytes(body[:4], sys.byteorder, signed=True)
                raise OSError(number, f"cannot list network addresses: {os.strerror(number)}")
            if kind == _NLMSG_DONE:
                if interrupted:
                    raise _Changed
                return rows
            if kind == _RTM_NEWADDR and (row := _row(body)):
                rows.append(row)
                if len(rows) >= ROWS_MAX:
                    outcome.broken_off = True
                    return rows


def dump(sock: _socket.socket, outcome: Outcome | None = None) -> list[Row]:
    """The IPv4 and IPv6 addresses of the socket's network namespace, unsorted, ROWS_MAX at most.

    Takes about 0.2 ms. OSError EAGAIN if the list would not hold still, TimeoutError if the kernel does not
    answer.
    """
    outcome = outcome or Outcome()
    for _ in range(_ATTEMPTS):
        sequence = int.from_bytes(os.urandom(3), sys.byteorder) + 1  # never 0: notifications have that
        try:
            return _dump_once(sock, sequence, outcome)
        except _Changed:
            continue
    raise OSError(errno.EAGAIN, "the network addresses changed each time they were being listed")
