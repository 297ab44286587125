# SPDX-License-Identifier: LGPL-2.1-or-later
"""Peers on the private bus that answer as a test says."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from jeepney import (
    DBusAddress,
    HeaderFields,
    MessageFlag,
    MessageType,
    new_error,
    new_method_call,
    new_method_return,
    new_signal,
)
from jeepney.bus_messages import message_bus
from jeepney.io.blocking import open_dbus_connection

MACHINE1 = "org.freedesktop.machine1"
MANAGER = "org.freedesktop.machine1.Manager"
OURS = "org.machined1.Manager"
SYSTEMD1 = "org.freedesktop.systemd1"
PATH = "/org/freedesktop/machine1"
SYSTEMD_PATH = "/org/freedesktop/systemd1"
DBUS_ERROR = "org.freedesktop.DBus.Error."


class FakeError(Exception):
    """What a handler raises to answer with an error."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(text)
        self.name = name
        self.text = text


class Leaving(Exception):
    """What a handler raises to have the peer leave the bus instead of answering."""


def join(thread: threading.Thread) -> None:
    """Wait until a thread has gone for the kernel too, which is a moment later than for Python."""
    task = Path(f"/proc/self/task/{thread.native_id}")
    thread.join(10)
    assert not thread.is_alive()
    while task.exists():
        os.sched_yield()


Handler = Callable[..., tuple[str, tuple[Any, ...]] | None]


class Peer:
    """Owns a name on the bus and answers calls in a thread.

    `handlers`: (interface, member) → function of the arguments, which returns (signature, results), or None
    for an empty answer, or raises FakeError or Leaving. `calls` lists (member, arguments) as they came.
    """

    def __init__(self, address: str, name: str, *, heir: bool = False) -> None:
        """`heir`: the name is another's, and comes to this one when that leaves."""
        self.handlers: dict[tuple[str, str], Handler] = {}
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.flags: list[int] = []
        self._left = False
        self._lock = threading.Lock()
        self._connection: Any = open_dbus_connection(address, enable_fds=True)
        self.unique_name: str = self._connection.unique_name
        if name:
            reply = self._connection.send_and_get_reply(message_bus.RequestName(name))
            assert reply.body == (2 if heir else 1,)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def on(self, interface: str, member: str, handler: Handler) -> None:
        self.handlers[interface, member] = handler

    def answer(self, interface: str, member: str, signature: str, *results: Any) -> None:
        """The same answer every time."""
        self.handlers[interface, member] = lambda *_: (signature, results)

    def fail(self, interface: str, member: str, name: str, text: str) -> None:
        def handler(*_: Any) -> None:
            raise FakeError(name, text)

        self.handlers[interface, member] = handler

    def emit(
        self, path: str, interface: str, member: str, signature: str, *body: Any, to: str | None = None
    ) -> None:
        signal = new_signal(DBusAddress(path, interface=interface), member, signature, body)
        if to:
            signal.header.fields[HeaderFields.destination] = to
        self._send(signal)

    def members(self) -> list[str]:
        return [member for member, _ in self.calls]

    def stop(self) -> None:
        """Leave the bus. The thread ends by a message to itself."""
        if self._left:
            join(self._thread)
            return
        address = DBusAddress("/", bus_name=self.unique_name, interface="test.Stop")
        call = new_method_call(address, "Stop")
        call.header.flags = MessageFlag.no_reply_expected
        self._send(call)
        join(self._thread)
        self._connection.close()

    def _send(self, message: Any) -> None:
        with self._lock:
            self._connection.send(message)

    def _serve(self) -> None:
        while True:
            message = self._connection.receive()
            if message.header.message_type is not MessageType.method_call:
                continue
            fields = message.header.fields
            interface, member = fields.get(HeaderFields.interface, ""), fields[HeaderFields.member]
            if interface == "test.Stop":
                return
            self.calls.append((member, message.body))
            self.flags.append(int(message.header.flags))
            self.sender = fields[HeaderFields.sender]
            try:
                reply = self._reply(message, interface, member)
            except Leaving:
                self._left = True
                self._connection.close()
                return
            self._send(reply)

    def _reply(self, message: Any, interface: str, member: str) -> Any:
        handler = self.handlers.get((interface, member))
        if handler is None:
            text = f"Unknown method {member} or interface {interface}."
            return new_error(message, DBUS_ERROR + "UnknownMethod", "s", (text,))
        try:
            answer = handler(*message.body)
        except FakeError as error:
            return new_error(message, error.name, "s", (error.text,))
        if answer is None:
            return new_method_return(message)
        return new_method_return(message, *answer)
