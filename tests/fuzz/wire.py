# SPDX-License-Identifier: LGPL-2.1-or-later
"""D-Bus as bytes, for a client with bad manners: nothing is checked, everything can be got wrong.

Runs on the host's own Python: the standard library alone (D-Bus specification, "Message Protocol").
"""

from __future__ import annotations

import os
import random
import select
import socket
import struct
from dataclasses import dataclass, field
from typing import Any, Final

BUS: Final = "/run/dbus/system_bus_socket"
CALL, RETURN, ERROR, SIGNAL = 1, 2, 3, 4
NO_REPLY, NO_AUTO_START, INTERACTIVE = 1, 2, 4
PATH, INTERFACE, MEMBER, ERROR_NAME, REPLY_SERIAL, DESTINATION, SENDER, SIGNATURE, UNIX_FDS = range(1, 10)
_NUMBERS: Final = {"y": "B", "b": "I", "n": "h", "q": "H", "i": "i", "u": "I", "x": "q", "t": "Q", "d": "d"}
_NUMBERS["h"] = "I"


def split(signature: str) -> list[str]:
    """The single complete types of a signature."""
    found, start = [], 0
    while start < len(signature):
        end = _end(signature, start)
        found.append(signature[start:end])
        start = end
    return found


def _end(signature: str, start: int) -> int:
    if signature[start] == "a":
        return _end(signature, start + 1)
    if signature[start] not in "({":
        return start + 1
    depth = 0
    for position in range(start, len(signature)):
        depth += (signature[position] in "({") - (signature[position] in ")}")
        if not depth:
            return position + 1
    raise ValueError(f"'{signature}' is no signature")


def alignment(kind: str) -> int:
    """Of a type, by its first letter."""
    if kind in "({xtd":
        return 8
    if kind in "nq":
        return 2
    return 1 if kind in "ygv" else 4


class Marshal:
    """Values to bytes; a variant is (signature, value)."""

    def __init__(self, order: str = "<") -> None:
        self.data = bytearray()
        self._order = order

    def pad(self, size: int) -> None:
        self.data += bytes(-len(self.data) % size)

    def put(self, type_: str, value: Any) -> None:
        kind = type_[0]
        self.pad(alignment(kind))
        if kind in _NUMBERS:
            self.data += struct.pack(self._order + _NUMBERS[kind], value)
        elif kind in "so":
            raw = value if isinstance(value, bytes) else value.encode("utf-8", "surrogateescape")
            self.put("u", len(raw))
            self.data += raw + b"\0"
        elif kind == "g":
            self.data += bytes((len(value),)) + value.encode() + b"\0"
        elif kind == "v":
            self.put("g", value[0])
            self.put(*value)
        elif kind in "({":
            for inner, item in zip(split(type_[1:-1]), value, strict=True):
                self.put(inner, item)
        else:
            self._array(type_[1:], list(value.items()) if isinstance(value, dict) else value)

    def _array(self, inner: str, values: Any) -> None:
        at = len(self.data)
        self.put("u", 0)
        self.pad(alignment(inner[0]))
        begin = len(self.data)
        for value in values:
            self.put(inner, value)
        struct.pack_into(self._order + "I", self.data, at, len(self.data) - begin)


@dataclass
class Message:
    """What is sent. `extra` are further header fields (code, signature, value), `raw` a body as it is."""

    path: str = "/org/freedesktop/machine1"
    interface: str | None = None
    member: str | None = None
    signature: str = ""
    body: list[Any] = field(default_factory=list)
    destination: str | None = "org.freedesktop.machine1"
    type: int = CALL
    flags: int = 0
    order: str = "<"
    extra: list[tuple[int, str, Any]] = field(default_factory=list)
    raw: bytes | None = None
    fds: int = 0

    def marshal(self, serial: int) -> bytes:
        body = Marshal(self.order)
        if self.raw is None:
            for type_, value in zip(split(self.signature), self.body, strict=True):
                body.put(type_, value)
        data = body.data if self.raw is None else self.raw
        fields: list[tuple[int, tuple[str, Any]]] = [(PATH, ("o", self.path))]
        fields += [(INTERFACE, ("s", self.interface))] if self.interface is not None else []
        fields += [(MEMBER, ("s", self.member))] if self.member is not None else []
        fields += [(DESTINATION, ("s", self.destination))] if self.destination is not None else []
        fields += [(SIGNATURE, ("g", self.signature))] if self.signature else []
        fields += [(UNIX_FDS, ("u", self.fds))] if self.fds else []
        fields += [(code, (signature, value)) for code, signature, value in self.extra]
        head = Marshal(self.order)
        head.data += bytes((ord("l" if self.order == "<" else "B"), self.type, self.flags, 1))
        head.put("u", len(data))
        head.put("u", serial)
        head.put("a(yv)", fields)
        head.pad(8)
        return bytes(head.data) + bytes(data)


@dataclass(frozen=True)
class Answer:
    """A message that came: enough of it to tell whose answer it is."""

    type: int
    reply_serial: int
    error: str
    body: bytes
    signature: str
    order: str

    def text(self) -> str:
        """The first argument when it is a string, else nothing."""
        if self.signature[:1] not in ("s", "o"):
            return ""
        (length,) = struct.unpack_from(self.order + "I", self.body)
        return self.body[4 : 4 + length].decode(errors="replace")


class Client:
    """One connection to the system bus."""

    def __init__(self, path: str = BUS) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(path)
        self.sock.sendall(b"\0AUTH EXTERNAL " + str(os.geteuid()).encode().hex().encode() + b"\r\n")
        self._line(b"OK")
        self.sock.sendall(b"NEGOTIATE_UNIX_FD\r\n")
        self._line(b"AGREE")
        self.sock.sendall(b"BEGIN\r\n")
        self._serial = 0
        self._in = bytearray()
        self.sent = 0
        self.closed = False
        name = "org.freedesktop.DBus"
        hello = Message("/org/freedesktop/DBus", name, "Hello", destination=name)
        self.unique = self.call(hello).text()

    def _line(self, begins: bytes) -> None:
        line = b""
        while not line.endswith(b"\r\n"):
            line += self.sock.recv(1)
        if not line.startswith(begins):
            raise ConnectionError(f"the bus says {line!r}")

    def send(self, message: Message) -> int:
        """Send a message with as many descriptors of /dev/null as it says; returns its serial.

        What arrives meanwhile is kept: a client that does not read would be stuck behind its own answers.
        """
        self._serial += 1
        data = memoryview(message.marshal(self._serial))
        fds = [os.open("/dev/null", os.O_RDONLY) for _ in range(message.fds)]
        try:
            if fds:
                data = data[socket.send_fds(self.sock, [data], fds) :]
        finally:
            for fd in fds:
                os.close(fd)
        while data:
            self.take(0)
            _, writable, _ = select.select([], [self.sock], [], 0.05)
            if writable:
                data = data[self.sock.send(data, socket.MSG_DONTWAIT) :]
        return self._serial

    def take(self, timeout: float) -> bool:
        """Take what has arrived. Raises ConnectionError when the bus has thrown us out."""
        readable, _, _ = select.select([self.sock], [], [], timeout)
        if not readable:
            return False
        data, fds, _, _ = socket.recv_fds(self.sock, 1 << 20, 253)
        for fd in fds:
            os.close(fd)
        if not data:
            self.closed = True
            raise ConnectionResetError("the bus has ended the connection")
        self._in += data
        return True

    def answers(self) -> list[Answer]:
        """The messages that have come in whole."""
        found = []
        while len(self._in) >= 16:
            order = "<" if self._in[0] == ord("l") else ">"
            body, _, fields = struct.unpack_from(order + "3I", self._in, 4)
            start = 16 + (fields + 7) // 8 * 8
            if len(self._in) < start + body:
                break
            found.append(_answer(bytes(self._in[: start + body]), order, fields, start))
            del self._in[: start + body]
        return found

    def call(self, message: Message, timeout: float = 30) -> Answer:
        """Send a call and wait for its answer. Raises TimeoutError, ConnectionError."""
        serial = self.send(message)
        while True:
            for answer in self.answers():
                if answer.reply_serial == serial:
                    return answer
            if not self.take(timeout):
                raise TimeoutError(f"no answer to {message}")

    def close(self) -> None:
        self.sock.close()


def _answer(data: bytes, order: str, length: int, start: int) -> Answer:
    position, end = 16, 16 + length
    values: dict[int, Any] = {}
    while position < end:
        position += -position % 8
        code, kind = data[position], chr(data[position + 2])
        position += 4
        if kind == "g":
            values[code] = data[position + 1 : position + 1 + data[position]].decode()
            position += data[position] + 2
            continue
        position += -position % 4
        (value,) = struct.unpack_from(order + "I", data, position)
        position += 4
        if kind in "so":
            values[code] = data[position : position + value].decode(errors="replace")
            position += value + 1
        else:
            values[code] = value
    return Answer(
        data[1],
        values.get(REPLY_SERIAL, 0),
        values.get(ERROR_NAME, ""),
        data[start:],
        values.get(SIGNATURE, ""),
        order,
    )


def seeded(seed: str) -> random.Random:
    """The same for the same text on every Python."""
    return random.Random(seed)
