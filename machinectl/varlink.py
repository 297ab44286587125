# SPDX-License-Identifier: LGPL-2.1-or-later
"""A varlink client: one call, one answer, file descriptors both ways. https://varlink.org/Wire-Protocol"""

from __future__ import annotations

import array
import json
import os
import socket
from typing import Any, Self

TIMEOUT = 45.0  # seconds, as in libsystemd
_REPLY_MAX = 16 * 1024 * 1024  # bytes, as in libsystemd
_CHUNK = 64 * 1024
_FDS_MAX = 16  # descriptors with one message


class VarlinkError(Exception):
    """The peer's error: its name, and its parameters."""

    def __init__(self, name: str, parameters: dict[str, Any]) -> None:
        super().__init__(name)
        self.name = name
        self.parameters = parameters


class Connection:
    """A connection to a service; `close` or the end of a `with` block ends it, and closes what came."""

    def __init__(self, address: str) -> None:
        """`address`: a path, or "@name" of an abstract socket. Raises OSError."""
        path = address.removeprefix("unix:")
        self._socket = socket.socket(socket.AF_UNIX)
        self._fds: list[int] = []
        try:
            self._socket.settimeout(TIMEOUT)
            self._socket.connect("\0" + path[1:] if path.startswith("@") else path)
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()
        for fd in self._fds:
            os.close(fd)
        self._fds.clear()

    def call(
        self, method: str, parameters: dict[str, Any], *, fds: tuple[int, ...] = (), timeout: float = TIMEOUT
    ) -> dict[str, Any]:
        """The parameters of the answer. Raises VarlinkError, OSError (TimeoutError too)."""
        self._socket.settimeout(timeout)
        call = {"method": method} | ({"parameters": parameters} if parameters else {})
        message = json.dumps(call).encode() + b"\0"
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        sent = self._socket.sendmsg([message], rights)
        if sent < len(message):  # an empty rest would find out that who has answered already hung up
            self._socket.sendall(message[sent:])
        try:
            reply = json.loads(self._receive())
        except ValueError as error:
            raise ConnectionError("the answer is not JSON") from error
        if not isinstance(reply, dict) or not isinstance(reply.get("parameters", {}), dict):
            raise ConnectionError("the answer is not a varlink message")
        answer: dict[str, Any] = reply.get("parameters", {})
        if isinstance(reply.get("error"), str):
            raise VarlinkError(reply["error"], answer)
        return answer

    def take_fd(self, index: object) -> int:
        """A descriptor of the last answer by its number in there; the caller's to close. Raises OSError."""
        if not isinstance(index, int) or not 0 <= index < len(self._fds):
            raise ConnectionError("the answer names a file descriptor that did not come with it")
        fd = os.dup(self._fds[index])
        os.set_inheritable(fd, False)
        return fd

    def _receive(self) -> bytes:
        received = bytearray()
        while not received.endswith(b"\0"):
            room = socket.CMSG_SPACE(_FDS_MAX * array.array("i").itemsize)
            data, ancillary, _, _ = self._socket.recvmsg(_CHUNK, room, socket.MSG_CMSG_CLOEXEC)
            for level, kind, content in ancillary:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    numbers = array.array("i")
                    numbers.frombytes(content[: len(content) - len(content) % numbers.itemsize])
                    self._fds.extend(numbers)
            if not data:
                raise ConnectionError("the connection was closed before the answer came")
            received += data
            if len(received) > _REPLY_MAX:
                raise ConnectionError("the answer is too long")
        return bytes(received[:-1])
