# SPDX-License-Identifier: LGPL-2.1-or-later
"""The bus connection: blocking calls, many calls in flight, signals, received file descriptors.

The only module that knows jeepney, and the only one with `Any` in it: replies are checked against the
signature the caller names, so an annotation at the call site tells the truth.
"""

from __future__ import annotations

import os
import socket
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

from jeepney import DBusAddress, HeaderFields, MessageFlag, MessageType, new_method_call
from jeepney.auth import BEGIN, AuthenticationError, Authenticator
from jeepney.fds import FileDescriptor
from jeepney.io.blocking import DBusConnection
from jeepney.low_level import Header, Message, Parser

from .errors import DRIVER, MACHINED, BusError, CommandError
from .rows import can, rows

TIMEOUT = 25.0  # seconds, as in sd-bus
ASKING_TIMEOUT = 300.0  # while a person may be typing a password
_WINDOW = 64  # calls in flight; dbus-daemon allows a connection 128 pending replies
_PIECE = 256 * 1024  # bytes received at once, at most
_LONG = 16 * 1024  # bytes of a message from which on it is worth while to look what it holds
_QUESTIONS = ("Get", "List")  # how members begin that change nothing
SYSTEM_BUS = "unix:path=/run/dbus/system_bus_socket"


class Target:
    """An interface of an object of a peer."""

    __slots__ = ("destination", "interface", "path")

    def __init__(self, destination: str, path: str, interface: str) -> None:
        self.destination = destination
        self.path = path
        self.interface = interface

    def at(self, path: str, interface: str = "") -> Target:
        return Target(self.destination, path, interface or self.interface)


BUS_DRIVER = Target(DRIVER, "/org/freedesktop/DBus", DRIVER)
MACHINE1 = Target(MACHINED, "/org/freedesktop/machine1", "org.freedesktop.machine1.Manager")
OURS = Target(MACHINED, "/org/freedesktop/machine1", "org.machined1.Manager")
SYSTEMD1 = Target(
    "org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager"
)
PROPERTIES = "org.freedesktop.DBus.Properties"


class Call:
    """One method call. `reply` is the signature the answer must have."""

    __slots__ = ("arguments", "member", "reply", "signature", "target")

    def __init__(
        self, target: Target, member: str, signature: str = "", *arguments: Any, reply: str = ""
    ) -> None:
        self.target = target
        self.member = member
        self.signature = signature
        self.arguments = arguments
        self.reply = reply

    def again(self) -> Call | None:
        """What to ask when who was asked has left without an answer; None for what may change something."""
        return self if self.member.startswith(_QUESTIONS) else None


def get_all(target: Target, path: str, interface: str) -> Call:
    """All properties of one interface of an object of that peer; the values are (signature, value)."""
    return Call(target.at(path, PROPERTIES), "GetAll", "s", interface, reply="a{sv}")


class Signal:
    __slots__ = ("body", "interface", "member", "path", "sender")

    def __init__(self, message: Any) -> None:
        fields = message.header.fields
        self.sender: str = fields.get(HeaderFields.sender, "")
        self.path: str = fields.get(HeaderFields.path, "")
        self.interface: str = fields.get(HeaderFields.interface, "")
        self.member: str = fields.get(HeaderFields.member, "")
        self.body: tuple[Any, ...] = message.body


class Subscription:
    """Signals of one kind in the order they came; filled while any call of the connection waits."""

    def __init__(self, target: Target, member: str, *, below: bool = False) -> None:
        self.target = target
        self.member = member
        self.below = below
        self.queue: deque[Signal] = deque()

    def offer(self, signal: Signal) -> None:
        t = self.target
        if (signal.interface, signal.member) != (t.interface, self.member):
            return
        if signal.path == t.path or (self.below and signal.path.startswith(t.path + "/")):
            self.queue.append(signal)


class _Parser(Parser):  # type: ignore[misc]  # untyped
    """Has long lists taken apart in a quicker way."""

    buf: Any
    fds: Any
    next_msg_size: int | None

    def get_next_message(self) -> Any:
        if self.next_msg_size is None or self.next_msg_size < _LONG:
            return super().get_next_message()
        if self.buf.bytes_buffered < self.next_msg_size:
            return None
        data = self.buf.read(self.next_msg_size)
        self.next_msg_size = None
        header, position = Header.from_buffer(data)
        fields = header.fields
        signature = fields.get(HeaderFields.signature, "")
        if can(signature) and HeaderFields.unix_fds not in fields:
            order = header.endianness.struct_code()
            return Message(header, (rows(data, position + -position % 8, signature, order),))
        message = Message.from_buffer(data, fds=self.fds)
        self.fds = self.fds[fields.get(HeaderFields.unix_fds, 0) :]
        return message


class _Connection(DBusConnection):  # type: ignore[misc]  # untyped
    """The Hello jeepney sends while it constructs has no time limit of its own."""

    def __init__(self, sock: socket.socket, enable_fds: bool) -> None:
        super().__init__(sock, enable_fds=enable_fds)
        # What it has received already stays.
        parser, before = _Parser(), vars(self)["parser"]
        parser.buf, parser.fds, parser.next_msg_size = before.buf, before.fds, before.next_msg_size
        self.parser = parser

    def _read_some_data(self, timeout: float | None = None) -> Any:
        """As jeepney's, but a list of thousands comes in some pieces instead of dozens."""
        if self.enable_fds:
            return super()._read_some_data(timeout)
        if not self.selector.select(timeout):
            raise TimeoutError
        data = self.sock.recv(_PIECE)
        if not data:
            raise ConnectionResetError("the other side hung up")
        return data, []

    def send_and_get_reply(self, message: Any, *, timeout: float | None = None) -> Any:
        return super().send_and_get_reply(message, timeout=TIMEOUT if timeout is None else timeout)


class Bus:
    """A connection to a message bus, closed by `close`."""

    def __init__(self, sock: socket.socket, *, fds: bool = False, interactive: bool = True) -> None:
        """Takes over a connected, authenticated socket. `interactive`: peers may ask for a password."""
        self._connection: Any = _Connection(sock, enable_fds=fds)
        self._interactive = interactive
        self._waiting: set[int] = set()
        self._replies: dict[int, Any] = {}
        self._subscriptions: list[Subscription] = []
        self.owners: dict[str, str] = {}
        """Unique names that answered for the names we called: only their signals are believed."""

    def close(self) -> None:
        self._connection.close()

    def fileno(self) -> int:
        return int(self._connection.sock.fileno())

    def call(
        self, target: Target, member: str, signature: str = "", *arguments: Any,
        reply: str = "", timeout: float | None = TIMEOUT,
    ) -> Any:  # fmt: skip
        """Call and wait. One result is returned as it is, more as a tuple. Raises BusError."""
        result = self.call_all([Call(target, member, signature, *arguments, reply=reply)], timeout=timeout)[
            0
        ]
        if isinstance(result, BusError):
            raise result
        return result

    def call_all(self, calls: Sequence[Call], *, timeout: float | None = TIMEOUT) -> list[Any]:
        """Make all calls at once; return results, or BusError objects, in the order of the calls."""
        deadline = None if timeout is None else time.monotonic() + timeout
        serials: list[int] = []
        results: list[Any] = []
        for call in calls:
            if len(serials) - len(results) >= _WINDOW:
                results.append(self._collect(serials[len(results)], calls[len(results)], deadline))
            serials.append(self._send(call))
        while len(results) < len(calls):
            results.append(self._collect(serials[len(results)], calls[len(results)], deadline))
        return results

    def subscribe(self, target: Target, member: str, arg0: str = "", *, below: bool = False) -> Subscription:
        """Ask the bus for a signal from now on. Before the call it will answer to, or it is missed.

        `below`: from the objects below the target's path too, which may be still to come.
        """
        rule = (
            f"type='signal',sender='{target.destination}',interface='{target.interface}',"
            f"path{'_namespace' * below}='{target.path}',member='{member}'"
            + (f",arg0='{arg0}'" if arg0 else "")
        )
        subscription = Subscription(target, member, below=below)
        self._subscriptions.append(subscription)
        self.call(BUS_DRIVER, "AddMatch", "s", rule)
        return subscription

    def believes(self, signal: Signal, target: Target) -> bool:
        """Anybody can send a signal to us alone; it counts when its sender owns the name."""
        return signal.sender in (target.destination, self.owners.get(target.destination))

    def process(self, timeout: float | None) -> bool:
        """Receive one message into its place, waiting so long; False when none came. Raises CommandError."""
        try:
            message = self._connection.receive(timeout=timeout)
        except TimeoutError:
            return False
        except (OSError, ValueError, AssertionError) as error:
            raise CommandError(f"The connection to the system bus was lost: {error}") from error
        kind = message.header.message_type
        if kind is MessageType.signal:
            signal = Signal(message)
            for subscription in self._subscriptions:
                subscription.offer(signal)
        elif kind is not MessageType.method_call:
            serial = message.header.fields.get(HeaderFields.reply_serial, -1)
            if serial in self._waiting:
                self._replies[serial] = message
                return True
        _close_descriptors(message.body)
        return True

    def _send(self, call: Call) -> int:
        target = call.target
        address = DBusAddress(target.path, bus_name=target.destination, interface=target.interface)
        message = new_method_call(address, call.member, call.signature or None, tuple(call.arguments))
        if self._interactive and target.destination != DRIVER:
            message.header.flags = MessageFlag.allow_interactive_authorization
        serial = int(next(self._connection.outgoing_serial))
        try:
            self._connection.send(message, serial=serial)
        except UnicodeEncodeError as error:
            raise CommandError(f"'{error.object!r}' cannot be sent: it is not valid UTF-8.") from error
        except OSError as error:
            raise CommandError(f"The connection to the system bus was lost: {error}") from error
        self._waiting.add(serial)
        return serial

    def _collect(self, serial: int, call: Call, deadline: float | None) -> Any:
        """The result of a call, or a BusError.

        A question is asked a second time where the peer has left instead of answering: the bus starts it
        anew for that. Not a third time, or what ends it would be asked for ever.
        """
        result = self._result(serial, call, deadline)
        if isinstance(result, BusError) and result.left and (again := call.again()) is not None:
            result = self._result(self._send(again), again, deadline)
        return result

    def _result(self, serial: int, call: Call, deadline: float | None) -> Any:
        target = call.target
        while serial not in self._replies:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not self.process(left):
                self._waiting.discard(serial)
                return BusError(
                    "org.freedesktop.DBus.Error.NoReply", "No answer in time", target.destination
                )
        self._waiting.discard(serial)
        message = self._replies.pop(serial)
        fields = message.header.fields
        sender: str = fields.get(HeaderFields.sender, "")
        if message.header.message_type is MessageType.error:
            text = message.body[0] if message.body and isinstance(message.body[0], str) else ""
            return BusError(fields.get(HeaderFields.error_name, ""), text, target.destination, sender)
        self.owners[target.destination] = sender
        signature = fields.get(HeaderFields.signature, "")
        if call.reply and signature != call.reply:
            _close_descriptors(message.body)
            asked = f"{target.interface}.{call.member}()"
            text = f"Unexpected answer '{signature}' to {asked}, expected '{call.reply}'"
            return BusError(
                "org.freedesktop.DBus.Error.InconsistentMessage", text, target.destination, sender
            )
        body = tuple(map(_own_descriptor, message.body))
        return body[0] if len(body) == 1 else body


def _own_descriptor(value: Any) -> Any:
    """A received file descriptor as a number that is ours to close and no child inherits."""
    if not isinstance(value, FileDescriptor):
        return value
    fd = value.to_raw_fd()
    os.set_inheritable(fd, False)
    return fd


def _close_descriptors(body: Any) -> None:
    for value in body:
        if isinstance(value, FileDescriptor):
            value.close()


def connect_socket(sock: socket.socket, *, fds: bool, timeout: float = TIMEOUT) -> None:
    """The authentication at the start of every connection, on a connected socket.

    Raises OSError, and CommandError where the peer refuses.
    """
    sock.settimeout(timeout)
    sock.sendall(b"\0")
    authenticator = Authenticator(enable_fds=fds, inc_null_byte=False)
    try:
        for line in authenticator:
            sock.sendall(line)
            data = sock.recv(1024)
            if not data:
                raise ConnectionResetError("the other side hung up")
            authenticator.feed(data)
    except AuthenticationError as error:
        raise CommandError(f"The system bus does not accept us: {error}") from error
    sock.sendall(BEGIN)
    sock.settimeout(None)


def open_local_bus(*, user: bool, fds: bool, interactive: bool) -> Bus:
    """The system's bus, or that of the user's session. Raises CommandError when there is none."""
    kind = "user" if user else "system"
    addresses = _user_bus() if user else os.environ.get("DBUS_SYSTEM_BUS_ADDRESS") or SYSTEM_BUS
    problem: OSError | None = None
    for path in _unix_paths(addresses):
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.connect(path)
            connect_socket(sock, fds=fds)
            return Bus(sock, fds=fds, interactive=interactive)
        except OSError as error:
            problem = error
            sock.close()
        except BaseException:
            sock.close()
            raise
    reason = "no address of the kind 'unix:' in it" if problem is None else _reason(problem)
    raise CommandError(
        f"Failed to connect to the {kind} bus at '{addresses}': {reason}",
        "Is D-Bus running? On a host booted with systemd: 'systemctl start dbus.socket'."
        if not user
        else "The user must be logged in here, see 'loginctl list-users'.",
    )


def _user_bus() -> str:
    if address := os.environ.get("DBUS_SESSION_BUS_ADDRESS"):
        return address
    if directory := os.environ.get("XDG_RUNTIME_DIR"):
        return f"unix:path={directory}/bus"
    raise CommandError(
        "Failed to connect to user scope bus: $DBUS_SESSION_BUS_ADDRESS and $XDG_RUNTIME_DIR are not set.",
        "'machinectl --machine=USER@.host --user' goes to the bus of another user.",
    )


def _reason(problem: OSError) -> str:
    return "no answer in time" if isinstance(problem, TimeoutError) else problem.strerror or str(problem)


def adopt(sock: socket.socket, *, fds: bool, interactive: bool) -> Bus:
    """A bus behind a socket somebody else connected (see remote.py). Raises OSError, CommandError.

    The time limit has room for the password ssh may ask for.
    """
    connect_socket(sock, fds=fds, timeout=ASKING_TIMEOUT)
    return Bus(sock, fds=fds, interactive=interactive)


def _unix_paths(addresses: str) -> list[str]:
    """The socket paths in a D-Bus address list, abstract ones with a leading NUL."""
    paths = []
    for address in addresses.split(";"):
        transport, _, rest = address.partition(":")
        settings = dict(pair.partition("=")[::2] for pair in rest.split(","))
        if transport != "unix":
            continue
        for key, prefix in (("path", ""), ("abstract", "\0")):
            if key in settings:
                paths.append(prefix + _unescape(settings[key]))
    return paths


def _unescape(text: str) -> str:
    first, *rest = text.split("%")
    return first + "".join(chr(int(part[:2], 16)) + part[2:] for part in rest)
