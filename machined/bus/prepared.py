# SPDX-License-Identifier: LGPL-2.1-or-later
"""Answers that many ask for and that seldom change: marshalled once, sent again with a new header."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from dbus_fast import Message, MessageType

# D-Bus specification, "Header Fields".
_REPLY_SERIAL, _DESTINATION, _SIGNATURE = 5, 6, 8
_METHOD_RETURN, _NO_REPLY_EXPECTED, _VERSION = 2, 1, 1
# Byte order, type, flags, version, length of the body, serial, length of the fields, and the first of these.
_HEAD = struct.Struct("<cBBBIIIBBsxI")


class Prepared:
    """The one out argument of a method. What it holds must not change any more."""

    def __init__(self, signature: str, value: Any) -> None:
        self.signature = signature
        self._value = value
        self._body: bytes | None = None

    @property
    def body(self) -> bytes:
        """Marshalled, little-endian."""
        if self._body is None:
            message = Message(
                message_type=MessageType.METHOD_RETURN,
                reply_serial=1,
                signature=self.signature,
                body=[self._value],
                serial=1,
                validate=False,
            )
            data = bytes(message._marshall(True))
            (length,) = struct.unpack_from("<I", data, 4)
            self._body = data[len(data) - length :]
            self._value = None
        return self._body

    def reply(self, serial: int, reply_serial: int, destination: str) -> bytes:
        """The whole message."""
        name, signature = destination.encode(), self.signature.encode()
        fields = bytearray()
        if destination:
            _pad(fields)
            fields += struct.pack("<BB1sxI", _DESTINATION, 1, b"s", len(name)) + name + b"\0"
        _pad(fields)
        fields += struct.pack("<BB1sxB", _SIGNATURE, 1, b"g", len(signature)) + signature + b"\0"
        first = 8  # the reply's serial, below
        head = _HEAD.pack(
            b"l", _METHOD_RETURN, _NO_REPLY_EXPECTED, _VERSION, len(self.body), serial,
            first + len(fields), _REPLY_SERIAL, 1, b"u", reply_serial,
        )  # fmt: skip
        return b"".join((head, fields, bytes(-(len(head) + len(fields)) % 8), self.body))


def _pad(fields: bytearray) -> None:
    """Fields are structures, which begin at multiples of eight."""
    fields += bytes(-len(fields) % 8)


class Kept:
    """Makes an answer anew when what it is made of has another generation."""

    def __init__(self, signature: str, make: Callable[..., Any]) -> None:
        self._signature = signature
        self._make = make
        self._generation: object = None
        self._answer: Prepared | None = None

    def get(self, generation: object, *args: Any) -> Prepared:
        if self._answer is None or self._generation != generation:
            self._answer = Prepared(self._signature, self._make(*args))
            self._generation = generation
        return self._answer
