# SPDX-License-Identifier: LGPL-2.1-or-later
"""Sends any message on D-Bus and varlink, right or wrong, and tells what came back. Runs inside the host."""

from __future__ import annotations

import array
import json
import os
import socket
import stat
import time
from typing import Any, Final

from jeepney import DBusAddress, HeaderFields, MatchRule, Message, MessageType, message_bus, new_method_call
from jeepney.fds import FileDescriptor
from jeepney.io.blocking import open_dbus_connection

SERVICE: Final = "org.freedesktop.machine1"
ROOT: Final = "/org/freedesktop/machine1"
PEER: Final = "org.freedesktop.DBus.Peer"
SECONDS: Final = 10.0

NO_REPLY: Final = 0x1
NO_AUTO_START: Final = 0x2
INTERACTIVE: Final = 0x4


def describe(fd: int) -> str:
    """What a descriptor is open on, and how; closes nothing."""
    kind = stat.filemode(os.fstat(fd).st_mode)
    flags = os.get_blocking(fd)
    target = os.readlink(f"/proc/self/fd/{fd}")
    access = {os.O_RDONLY: "r", os.O_WRONLY: "w", os.O_RDWR: "rw"}.get(_flags(fd) & os.O_ACCMODE, "?")
    return f"<fd {kind} {target} {access} {'blocking' if flags else 'nonblocking'}>"


def _flags(fd: int) -> int:
    with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as file:
        return next(int(line.split()[1], 8) for line in file if line.startswith("flags:"))


def plain(value: Any) -> Any:
    """A body without descriptors: each is described and closed."""
    if isinstance(value, FileDescriptor):
        with value:
            return describe(value.fileno())
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, tuple):
        return tuple(plain(item) for item in value)
    return value


class Bus:
    """A connection that keeps the order in which replies and signals come."""

    def __init__(self) -> None:
        self._connection = open_dbus_connection(bus="SYSTEM", enable_fds=True)
        self._connection.send_and_get_reply(
            message_bus.AddMatch(MatchRule(type="signal", sender=SERVICE)), timeout=SECONDS
        )
        self.name = self._connection.unique_name

    def close(self) -> None:
        self._connection.close()

    def call(
        self,
        path: str,
        interface: str | None,
        member: str,
        signature: str = "",
        body: tuple[Any, ...] = (),
        *,
        flags: int = 0,
        destination: str = SERVICE,
        seconds: float = SECONDS,
    ) -> dict[str, Any]:
        """{"reply": [signature, body]} or {"error": [name, body]}, and "signals" that came before it."""
        message = new_method_call(DBusAddress(path, destination, "x.y"), member, signature or None, body)
        del message.header.fields[HeaderFields.interface]
        if interface is not None:
            message.header.fields[HeaderFields.interface] = interface
        message.header.flags = flags
        serial = next(self._connection.outgoing_serial)
        self._connection.send(message, serial=serial)
        if flags & NO_REPLY:
            answer = self.call(path, PEER, "Ping", seconds=seconds)
            return {"without reply": True, **{key: answer[key] for key in answer if key != "reply"}}
        return self._answer(serial, seconds)

    def _answer(self, serial: int, seconds: float) -> dict[str, Any]:
        signals: list[Any] = []
        extra = 0
        deadline = time.monotonic() + seconds
        answer: dict[str, Any] = {}
        while not answer:
            try:
                message = self._connection.receive(timeout=max(0.0, deadline - time.monotonic()))
            except TimeoutError:
                answer = {"timeout": seconds}
                break
            fields = message.header.fields
            if message.header.message_type is MessageType.signal:
                if (text := signal(message)) is not None:
                    signals.append(text)
            elif fields.get(HeaderFields.reply_serial) != serial:
                extra += 1
            elif message.header.message_type is MessageType.error:
                answer = {"error": [fields.get(HeaderFields.error_name), list(plain(message.body))]}
            else:
                answer = {"reply": [fields.get(HeaderFields.signature, ""), list(plain(message.body))]}
        if signals:
            answer["signals"] = signals
        if extra:
            answer["replies nobody asked for"] = extra
        return answer

    def wait_signal(self, member: str, name: str, seconds: float = SECONDS) -> list[Any]:
        """All signals up to the one of this member about a machine."""
        deadline = time.monotonic() + seconds
        signals: list[Any] = []
        while time.monotonic() < deadline:
            try:
                message = self._connection.receive(timeout=max(0.0, deadline - time.monotonic()))
            except TimeoutError:
                break
            if message.header.message_type is MessageType.signal and (text := signal(message)) is not None:
                signals.append(text)
                if text[2] == member and text[3][0] == name:
                    return signals
        return [*signals, "timeout"]


def signal(message: Message) -> list[Any] | None:
    """[path, interface, member, body] of a signal of the contract; ours that are not in it are left out."""
    fields = message.header.fields
    interface = fields.get(HeaderFields.interface, "")
    about = message.body[0] if message.body else ""
    if interface.startswith("org.machined1.") or str(about).startswith("org.machined1."):
        return None
    if not interface.startswith(("org.freedesktop.machine1.", "org.freedesktop.DBus.Properties")):
        return None
    return [fields[HeaderFields.path], interface, fields[HeaderFields.member], list(plain(message.body))]


FENCE: Final = {"method": "org.varlink.service.GetInfo", "parameters": {}}


def varlink(path: str, frames: list[bytes], fds: list[int], *, fence: bool, seconds: float) -> list[Any]:
    """What a server answers to frames that are sent at once, up to the answer to a last question of ours.

    Without a `fence`, which is this question, the first answer is the last.

    A parsed frame each, then how it ended: "end", "closed" or "timeout".
    """
    answers: list[Any] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as peer:
        peer.settimeout(seconds)
        try:
            peer.connect(path)
        except OSError as error:
            return [f"cannot connect: {error.strerror}"]
        data = b"".join(frames) + (json.dumps(FENCE).encode() + b"\0" if fence else b"")
        try:
            if fds:
                socket.send_fds(peer, [data[:1]], fds)
                data = data[1:]
            peer.sendall(data)
        except OSError as error:
            answers.append(f"cannot send: {error.strerror}")
        received = b""
        while True:
            frame, separator, rest = received.partition(b"\0")
            if separator:
                received = rest
                answer = parsed(frame)
                if fence and isinstance(answer, dict) and "vendor" in answer.get("parameters", {}):
                    return [*answers, "end"]
                answers.append(answer)
                if not fence:
                    return answers
                continue
            try:
                part, extra = receive(peer)
            except TimeoutError:
                return [*answers, "timeout"]
            except OSError:
                return [*answers, "closed"]
            answers += extra
            if not part:
                return [*answers, "closed"]
            received += part


def receive(peer: socket.socket) -> tuple[bytes, list[str]]:
    """Some bytes, and what the descriptors with them are."""
    part, control, _, _ = peer.recvmsg(1 << 20, socket.CMSG_SPACE(64))
    described = []
    for level, kind, data in control:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            numbers = array.array("i")
            numbers.frombytes(data[: len(data) - len(data) % numbers.itemsize])
            for fd in numbers:
                described.append(describe(fd))
                os.close(fd)
    return part, described


def parsed(frame: bytes) -> Any:
    try:
        return json.loads(frame)
    except ValueError:
        return {"not JSON": frame.decode(errors="replace")}
