# SPDX-License-Identifier: LGPL-2.1-or-later
"""A varlink server on AF_UNIX sockets: framing, order, limits and peers (varlink.org, "Method Call").

Written for this daemon since callers are told apart by their credentials and descriptors travel with
replies, which the varlink libraries do not hand to methods.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import socket
import struct
import weakref
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from machined.linux.fds import FdSet, OwnedFd
from machined.linux.process import PidRef
from machined.varlink.parser import parse
from machined.varlink.presence import PeerLostError, while_there
from machined.varlink.standard import SERVICE, descriptions
from machined.varlink.table import STRING, Interface, Method, VarlinkError, check, invalid_parameter, need

log = logging.getLogger(__name__)

T = TypeVar("T")

MAX_MESSAGE: Final = 1024 * 1024
# Bytes of messages that come or are served, of all connections of one user. Parsed they take up to twenty
# times as much.
MAX_PENDING_PER_USER: Final = 4 * 1024 * 1024
# Of all users together but root, who has to be able to register machines whatever they do.
MAX_CONNECTIONS: Final = 4096
MAX_CONNECTIONS_PER_USER: Final = 1024
# Seconds that a peer may take to read a reply.
SEND_TIMEOUT: Final = 30.0
# Seconds without accepting when there are no descriptors.
ACCEPT_PAUSE: Final = 1.0
# asm-generic/socket.h; Python 3.11 has no name for it. Linux 6.5.
SO_PEERPIDFD: Final = 77

# The keys of a call besides its method and parameters; "upgrade" came with systemd 258.
FLAGS: Final = ("more", "oneway", "upgrade")

INTERFACE_FIELD: Final = (need("interface", STRING),)


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is on the other side, from the kernel."""

    pid: int
    uid: int
    pidfd: OwnedFd | None

    def process(self) -> PidRef:
        """The peer's process, pinned; the caller closes it. Raises ProcessLookupError."""
        return PidRef.adopt(self.pidfd.dup().detach()) if self.pidfd is not None else PidRef.open(self.pid)


def peer_of(sock: socket.socket) -> Peer:
    """Credentials of a connected socket's other side (unix(7), SO_PEERCRED)."""
    pid, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    try:
        pidfd = OwnedFd(sock.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD))
    except OSError:
        pidfd = None
    return Peer(pid, uid, pidfd)


@dataclass(slots=True)
class Call:
    """One method call. `reply` sends a further reply of a stream (only when the caller said `more`)."""

    method: Method
    peer: Peer
    more: bool
    oneway: bool
    reply: Callable[[dict[str, Any]], Awaitable[None]]
    sock: socket.socket
    fds: FdSet = field(default_factory=FdSet)

    def attach(self, fd: OwnedFd) -> int:
        """Send a descriptor with the (one) reply; returns its index."""
        assert not len(self.fds)
        self.fds = FdSet([fd.detach()])
        return 0

    async def while_there(self, work: Coroutine[Any, Any, T]) -> T:
        """Do what may take long for as long as the peer stays.

        Raises PeerLostError, with the work cancelled, when it leaves.
        """
        return await while_there(self.sock, work)


ErrorMapper = Callable[[Exception], VarlinkError | None]


class Server:
    """Serves interfaces on any number of listening sockets."""

    def __init__(
        self, info: dict[str, str], interfaces: list[Interface], map_error: ErrorMapper, version: int = 257
    ) -> None:
        """`version` is that of the systemd whose server this one is like."""
        self._info = info
        self._modern = version >= 258
        self._standard = descriptions(version)
        self._interfaces = {interface.name: interface for interface in interfaces}
        self._map_error = map_error
        self._listeners: list[socket.socket] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._per_user: Counter[int] = Counter()
        self._pending: Counter[int] = Counter()
        self._turns: weakref.WeakValueDictionary[int, asyncio.Lock] = weakref.WeakValueDictionary()

    def listen(self, sock: socket.socket) -> None:
        """Accept on a listening socket, which is the server's from now on."""
        sock.setblocking(False)
        self._listeners.append(sock)
        asyncio.get_running_loop().add_reader(sock.fileno(), self._accept, sock)

    async def close(self) -> None:
        """Stop listening and end every connection."""
        loop = asyncio.get_running_loop()
        for sock in self._listeners:
            loop.remove_reader(sock.fileno())
            sock.close()
        self._listeners.clear()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _accept(self, listener: socket.socket) -> None:
        try:
            sock, _ = listener.accept()
        except (BlockingIOError, ConnectionAbortedError, InterruptedError):
            return
        except OSError as error:
            # Out of descriptors: look again when some may have been given back, not at once for ever.
            log.warning("Cannot accept a varlink connection: %s", error)
            loop = asyncio.get_running_loop()
            loop.remove_reader(listener.fileno())
            loop.call_later(ACCEPT_PAUSE, self._resume, listener)
            return
        sock.setblocking(False)
        try:
            peer = peer_of(sock)
        except OSError:
            sock.close()
            return
        if peer.uid != 0 and (
            len(self._tasks) - self._per_user[0] >= MAX_CONNECTIONS
            or self._per_user[peer.uid] >= MAX_CONNECTIONS_PER_USER
        ):
            log.warning("Too many varlink connections of user %d, refusing one", peer.uid)
            if peer.pidfd is not None:
                peer.pidfd.close()
            sock.close()
            return
        self._per_user[peer.uid] += 1
        task = asyncio.get_running_loop().create_task(
            self._connection(sock, peer), name=f"varlink {peer.pid}"
        )
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _resume(self, listener: socket.socket) -> None:
        if listener in self._listeners:
            asyncio.get_running_loop().add_reader(listener.fileno(), self._accept, listener)

    async def _connection(self, sock: socket.socket, peer: Peer) -> None:
        loop = asyncio.get_running_loop()
        buffer, seen = bytearray(), 0
        # One message of one user in each turn of the loop, however many connections it has.
        turn = self._turns.setdefault(peer.uid, asyncio.Lock())
        try:
            while True:
                data = await loop.sock_recv(sock, 64 * 1024)
                if not data:
                    return
                buffer += data
                self._pending[peer.uid] += len(data)
                del data  # a thousand connections hold none
                if peer.uid and self._pending[peer.uid] > MAX_PENDING_PER_USER:
                    log.debug("Too much to do for user %d, leaving one connection", peer.uid)
                    return
                while (end := buffer.find(b"\0", seen)) >= 0:
                    async with turn:
                        message = parse(bytes(buffer[:end]))
                        # Neither reading nor writing waits while the peer keeps up: others have their turn.
                        await asyncio.sleep(0)
                    await self._message(sock, peer, message)
                    del buffer[: end + 1], message
                    self._pending[peer.uid] -= end + 1
                    seen = 0
                seen = len(buffer)
                if seen > MAX_MESSAGE:
                    log.debug("Varlink peer %d sent an endless message", peer.pid)
                    return
        except (OSError, TimeoutError, ValueError) as error:
            log.debug("Varlink connection of %d ended: %s", peer.pid, error)
        finally:
            sock.close()
            if peer.pidfd is not None:
                peer.pidfd.close()
            self._pending[peer.uid] -= len(buffer)
            self._per_user[peer.uid] -= 1
            if not self._per_user[peer.uid]:
                del self._per_user[peer.uid], self._pending[peer.uid]

    async def _message(self, sock: socket.socket, peer: Peer, message: dict[str, Any]) -> None:
        """Serve one call. Raises ValueError for what is no call: the connection ends then."""
        given, more, oneway = self._parts(message)
        call: Call | None = None
        try:

            async def stream(parameters: dict[str, Any]) -> None:
                try:
                    await _send(sock, {"parameters": parameters, "continues": True}, None)
                except (OSError, TimeoutError) as error:
                    raise PeerLostError(f"a reply could not be sent: {error}") from error

            method = self._find(message["method"])
            call = Call(method, peer, more, oneway, stream, sock)
            values = check(method.takes, given)
            if refused := next((name for name in given if name in method.refused), None):
                raise invalid_parameter(refused)
            reply: dict[str, Any] = {"parameters": await self._invoke(call, values)}
        except PeerLostError:
            # Part of a reply may have been sent: nothing that follows would be understood.
            raise
        except VarlinkError as error:
            reply = {"error": error.name, "parameters": error.parameters}
        except Exception as error:
            mapped = self._map_error(error)
            if mapped is None:
                log.exception("Serving %s failed", message["method"])
                mapped = VarlinkError("io.systemd.System", errno=5)
            reply = {"error": mapped.name, "parameters": mapped.parameters}
        if self._modern and not reply["parameters"]:
            del reply["parameters"]
        fds = call.fds if call is not None else None
        try:
            if not oneway:
                await _send(sock, reply, fds if "error" not in reply else None)
        finally:
            if fds is not None:
                fds.close()

    def _parts(self, message: Any) -> tuple[dict[str, Any], bool, bool]:
        """The parameters of a call, and whether it is `more` and `oneway`. Raises ValueError."""
        if not isinstance(message, dict) or not isinstance(message.get("method"), str):
            raise ValueError("the message is no method call")
        flags = FLAGS if self._modern else FLAGS[:2]
        if not message.keys() <= {"method", "parameters", *flags}:
            raise ValueError("the message has a key that no method call has")
        if not all(isinstance(message.get(flag, False), bool) for flag in flags):
            raise ValueError("a flag of the message is no boolean")
        more, oneway = message.get("more", False), message.get("oneway", False)
        if more and oneway:
            raise ValueError("a call cannot want more replies and none")
        given = message.get("parameters")
        if given is not None and not isinstance(given, dict):
            raise ValueError("the parameters are no object")
        return given or {}, more, oneway

    async def _invoke(self, call: Call, parameters: dict[str, Any]) -> dict[str, Any]:
        assert call.method.handler is not None
        result = call.method.handler(call, parameters)
        if inspect.isawaitable(result):
            result = await result
        return result if result is not None else {}

    def _find(self, name: str) -> Method:
        interface, _, member = name.rpartition(".")
        if interface == SERVICE and member == "GetInfo":
            return Method(member, (), (), lambda call, p: {**self._info, "interfaces": self._names()})
        if interface == SERVICE and member == "GetInterfaceDescription":
            return Method(member, INTERFACE_FIELD, (), self._describe)
        table = self._interfaces.get(interface)
        method = table.method(member) if table is not None else None
        if method is None or method.handler is None:
            raise VarlinkError(f"{SERVICE}.MethodNotFound", method=name)
        return method

    def _names(self) -> list[str]:
        return sorted([*self._interfaces, SERVICE, "io.systemd"])

    def _describe(self, call: Call, parameters: dict[str, Any]) -> dict[str, Any]:
        name = parameters["interface"]
        if name in self._interfaces:
            return {"description": self._interfaces[name].description()}
        if name in self._standard:
            return {"description": self._standard[name]}
        raise VarlinkError(f"{SERVICE}.InterfaceNotFound", interface=name)


async def _send(sock: socket.socket, message: dict[str, Any], fds: FdSet | None) -> None:
    data = json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode(errors="replace") + b"\0"
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(SEND_TIMEOUT):
        if fds is not None and len(fds):
            numbers = [fds.peek(i) for i in range(len(fds))]
            while True:
                try:
                    # The descriptors ride on the first bytes of their reply.
                    sent = socket.send_fds(sock, [data], numbers)
                    break
                except BlockingIOError:
                    await _writable(sock)
            data = data[sent:]
        if data:
            await loop.sock_sendall(sock, data)


async def _writable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()

    def ready() -> None:
        if not future.done():
            future.set_result(None)

    loop.add_writer(sock.fileno(), ready)
    try:
        await future
    finally:
        loop.remove_writer(sock.fileno())
