# SPDX-License-Identifier: LGPL-2.1-or-later
"""A varlink client that can misbehave."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path
from typing import Any

from machined.linux.fds import FdSet, recv_with_fds


class VarlinkClient:
    """One connection. `fds` are the descriptors that came with the last reply."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._data = b""
        self.fds = FdSet()

    @classmethod
    async def connect(cls, path: Path) -> VarlinkClient:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, str(path))
        return cls(sock)

    def close(self) -> None:
        self.fds.close()
        self.sock.close()

    async def send(self, method: str, parameters: Any = None, **more: Any) -> None:
        message: dict[str, Any] = {"method": method, **more}
        if parameters is not None:
            message["parameters"] = parameters
        await self.send_raw(json.dumps(message).encode() + b"\0")

    async def send_raw(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.sock, data)

    async def reply(self) -> dict[str, Any]:
        """The next reply. Raises EOFError when the server has ended the connection."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(10):
            while b"\0" not in self._data:
                try:
                    data, fds = recv_with_fds(self.sock, 65536, 16)
                except BlockingIOError:
                    readable = loop.create_future()
                    loop.add_reader(self.sock, lambda ready=readable: ready.done() or ready.set_result(None))  # type: ignore[misc]
                    try:
                        await readable
                    finally:
                        loop.remove_reader(self.sock)
                    continue
                except ConnectionResetError:
                    raise EOFError from None
                if len(fds):
                    self.fds.close()
                    self.fds = fds
                if not data:
                    raise EOFError
                self._data += data
        text, _, self._data = self._data.partition(b"\0")
        reply: dict[str, Any] = json.loads(text)
        return reply

    async def call(self, method: str, parameters: Any = None, **more: Any) -> dict[str, Any]:
        await self.send(method, parameters, **more)
        return await self.reply()
