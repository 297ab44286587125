# SPDX-License-Identifier: LGPL-2.1-or-later
"""One D-Bus connection: to the system bus, or to the bus of a guest over a socket made elsewhere.

Calls out have a time limit and raise RemoteError; calls in and signals go to two callbacks. Every descriptor
that arrives is in an FdSet of its message's owner.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import logging
import os
import socket
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from dbus_fast import Message, MessageFlag, MessageType
from dbus_fast.aio import MessageBus

from machined.bus.prepared import Prepared
from machined.bus.transport import BusSocket, Writer, reader
from machined.linux.fds import FdSet

log = logging.getLogger(__name__)

DBUS: Final = "org.freedesktop.DBus"
DBUS_PATH: Final = "/org/freedesktop/DBus"
# sd-bus's default, and so what every peer of ours expects (sd_bus_set_method_call_timeout(3)), in seconds.
TIMEOUT: Final = 25.0

type_call: Final = MessageType.METHOD_CALL
type_signal: Final = MessageType.SIGNAL
type_error: Final = MessageType.ERROR


class RemoteError(Exception):
    """An error reply: its D-Bus name and its text."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(text or name)
        self.name = name
        self.text = text


class Bus(MessageBus):
    """A connection whose whole dispatch is ours: the library's exports and default answers never run."""

    def __init__(self, address: str) -> None:
        super().__init__(bus_address=address, negotiate_unix_fd=True)
        self.on_call: Callable[[Message, FdSet], None] = self._refuse
        self.on_signal: Callable[[Message], None] = lambda _: None
        # Whether a call of a sender would be refused, asked before one is decoded that wants no reply.
        self.refuses: Callable[[str], bool] = lambda sender: False
        # Whether a signal of an object is of no interest, asked before one is decoded.
        self.ignores: Callable[[str], bool] = lambda path: False
        self._replies: dict[int, asyncio.Future[tuple[Message, FdSet]]] = {}
        self._out: Writer | None = None
        self.disconnected: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    # -- making and ending ---------------------------------------------------------------------------------

    @classmethod
    async def connect_to(cls, path: str) -> Bus:
        """Connect to the bus that listens on the socket `path`. Raises OSError, AuthError."""
        sock = unix_socket()
        try:
            await asyncio.get_running_loop().sock_connect(sock, path)
        except BaseException:
            sock.close()
            raise
        return await cls.adopt(sock)

    @classmethod
    async def adopt(cls, sock: BusSocket, *, timeout: float = TIMEOUT) -> Bus:
        """Speak D-Bus on a connected socket, which is ours from now on.

        Raises OSError, AuthError, TimeoutError.
        """
        bus = cls("unix:path=/dev/null")
        sock.setblocking(False)
        sock.refuses = lambda sender: bus.refuses(sender)
        sock.ignores = lambda path: bus.ignores(path)
        bus._sock = sock
        bus._stream = sock.makefile("rwb")
        bus._fd = sock.fileno()
        try:
            async with asyncio.timeout(timeout):
                await bus._authenticate()
                bus._out = Writer(bus, sock)
                bus._loop.add_reader(bus._fd, reader(sock, bus._receive, bus.lost))
                reply = await bus.request(DBUS, DBUS_PATH, DBUS, "Hello")
                if not reply or not isinstance(reply[0], str):
                    raise ConnectionRefusedError(errno.ECONNREFUSED, "the other side is no message bus")
                bus.unique_name = reply[0]
        except BaseException as error:
            bus.lost(error if isinstance(error, Exception) else None)
            raise
        return bus

    def lost(self, error: Exception | None) -> None:
        """End the connection; everything that waits on it hears of it. Idempotent."""
        if self.disconnected.done():
            return
        self.disconnected.set_result(None)
        if self._out is not None:
            self._out.close(error)
        if self._sock is not None and self._stream is not None:
            self._loop.remove_reader(self._sock)
            self._stream.close()
            self._sock.close()
        for future in self._replies.values():
            if not future.done():
                future.set_exception(
                    ConnectionResetError(
                        errno.ECONNRESET, f"the bus connection was lost: {error or 'closed'}"
                    )
                )
        self._replies.clear()
        if error is not None:
            log.debug("Bus connection lost: %s", error)

    def close(self) -> None:
        """End the connection in good order. Idempotent."""
        self.lost(None)

    # -- calls out -----------------------------------------------------------------------------------------

    async def request_with_fds(
        self,
        destination: str,
        path: str,
        interface: str,
        member: str,
        signature: str = "",
        body: Sequence[Any] = (),
        *,
        fds: Sequence[int] = (),
        timeout: float | None = TIMEOUT,
        interactive: bool = False,
    ) -> tuple[list[Any], FdSet]:
        """Call a method and wait for the answer: the body and its descriptors (the caller's).

        `fds` stay the caller's, who may close them whenever it likes. `timeout` is in seconds. Raises
        RemoteError for an error reply, TimeoutError, ConnectionError.
        """
        if self._out is None or self.disconnected.done():
            raise ConnectionResetError(errno.ECONNRESET, "the bus connection is closed")
        message = Message(
            destination=destination,
            path=path,
            interface=interface,
            member=member,
            signature=signature,
            body=list(body),
            flags=MessageFlag.ALLOW_INTERACTIVE_AUTHORIZATION if interactive else MessageFlag.NONE,
            serial=self.next_serial(),
        )
        future: asyncio.Future[tuple[Message, FdSet]] = self._loop.create_future()
        self._replies[message.serial] = future
        try:
            self._queue(message, _duplicates(fds) if fds else None)
            async with asyncio.timeout(timeout):
                reply, received = await future
        finally:
            # A late answer finds no entry and is dropped with its descriptors.
            self._replies.pop(message.serial, None)
        if reply.message_type is type_error:
            received.close()
            text = reply.body[0] if reply.body and isinstance(reply.body[0], str) else ""
            raise RemoteError(reply.error_name or "org.freedesktop.DBus.Error.Failed", text)
        return reply.body, received

    async def request(
        self,
        destination: str,
        path: str,
        interface: str,
        member: str,
        signature: str = "",
        body: Sequence[Any] = (),
        *,
        timeout: float | None = TIMEOUT,
        interactive: bool = False,
        fds: Sequence[int] = (),
    ) -> list[Any]:
        """As request_with_fds, for answers that carry no descriptors (any that come are closed)."""
        reply, received = await self.request_with_fds(
            destination,
            path,
            interface,
            member,
            signature,
            body,
            fds=fds,
            timeout=timeout,
            interactive=interactive,
        )
        received.close()
        return reply

    async def add_match(self, rule: str) -> None:
        """Subscribe to signals. Raises RemoteError (too many rules)."""
        await self.request(DBUS, DBUS_PATH, DBUS, "AddMatch", "s", [rule])

    # -- messages out --------------------------------------------------------------------------------------

    def send_message(self, message: Message, fds: FdSet | None = None) -> None:
        """Queue a reply or signal; `fds` are sent with it and closed afterwards, whatever happens."""
        if self._out is None or self.disconnected.done():
            if fds is not None:
                fds.close()
            return
        message.serial = self.next_serial()
        self._queue(message, fds)

    def _queue(self, message: Message, fds: FdSet | None) -> None:
        """Whoever waits for an answer may give up before the message has left, so `fds` are its own."""
        assert self._out is not None
        if fds is None:
            self._out.schedule_write(message)
            return
        message.unix_fds = [fds.peek(i) for i in range(len(fds))]
        sent: asyncio.Future[None] = self._loop.create_future()
        sent.add_done_callback(lambda _: fds.close())
        try:
            self._out.schedule_write(message, sent)
        except BaseException:
            fds.close()
            raise

    def send_prepared(self, answer: Prepared, reply_serial: int, destination: str) -> None:
        """Queue a reply that is marshalled already."""
        if self._out is not None and not self.disconnected.done():
            self._out.schedule_bytes(answer.reply(self.next_serial(), reply_serial, destination))

    def emit(
        self, path: str, interface: str, member: str, signature: str = "", body: Iterable[Any] = ()
    ) -> None:
        """Broadcast a signal."""
        self.send_message(
            Message(
                message_type=MessageType.SIGNAL,
                path=path,
                interface=interface,
                member=member,
                signature=signature,
                body=list(body),
            )
        )

    # -- messages in ---------------------------------------------------------------------------------------

    def _receive(self, msg: Message) -> bool:
        """In the place of the library's dispatch, which answers some by itself and unlike sd-bus.

        Whether somebody has waited for the message.
        """
        fds = FdSet(msg.unix_fds or ())
        kind = msg.message_type
        if kind is type_call:
            try:
                self.on_call(msg, fds)
            except Exception:
                fds.close()
                log.exception("Handling a call of %s failed, ignoring", msg.member)
            return False
        if kind is type_signal:
            fds.close()
            try:
                self.on_signal(msg)
            except Exception:
                log.exception("Handling signal %s failed, ignoring", msg.member)
            return False
        future = self._replies.get(msg.reply_serial)
        if future is None or future.done():
            fds.close()
            return False
        future.set_result((msg, fds))
        return True

    def _refuse(self, msg: Message, fds: FdSet) -> None:
        # A guest's bus has no business calling us.
        fds.close()


def _duplicates(fds: Sequence[int]) -> FdSet:
    """Raises OSError (EMFILE)."""
    found = FdSet()
    for fd in fds:
        found.add(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3))
    return found


def unix_socket() -> BusSocket:
    """An unconnected, non-blocking socket fit for Bus.adopt once it is connected."""
    sock = BusSocket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.setblocking(False)
    return sock


def system_bus_path() -> str:
    """Where the system bus listens.

    $DBUS_SYSTEM_BUS_ADDRESS when it names a unix path, else the standard place.
    """
    address = os.environ.get("DBUS_SYSTEM_BUS_ADDRESS", "")
    for part in address.split(";"):
        for option in part.removeprefix("unix:").split(","):
            if part.startswith("unix:") and option.startswith("path="):
                return option.removeprefix("path=")
    return "/run/dbus/system_bus_socket"
