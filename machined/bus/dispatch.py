# SPDX-License-Identifier: LGPL-2.1-or-later
"""From a message to a handler and back, with the answers sd-bus gives where something does not fit."""

from __future__ import annotations

import asyncio
import inspect
import logging
import re
import sys
from collections import Counter
from collections.abc import Coroutine
from typing import Any, Final

from dbus_fast import Message, MessageType, Variant

from machined.bus import introspection
from machined.bus.call import Authority, Call
from machined.bus.callers import Callers
from machined.bus.connection import Bus
from machined.bus.errors import wire_error
from machined.bus.prepared import Prepared
from machined.bus.tree import Tree
from machined.bus.vtable import Access, Emits, Fallback, Fixed, Interface, Method, Property
from machined.linux.fds import FdSet

log = logging.getLogger(__name__)

PEER: Final = "org.freedesktop.DBus.Peer"
INTROSPECTABLE: Final = "org.freedesktop.DBus.Introspectable"
PROPERTIES: Final = "org.freedesktop.DBus.Properties"
ERROR: Final = "org.freedesktop.DBus.Error."

# How the arguments of the methods of Properties begin (sd-bus looks no further), and what else is answered.
EXPECTED: Final = {
    "Get": ("ss", "Expected interface and member parameters"),
    "GetAll": ("s", "Expected interface parameter"),
    "Set": ("ss", "Expected interface and member parameters"),
}

# Calls one sender may have under way; the reference dbus-daemon allows 128 replies pending by default, and
# any number of calls that want none.
MAX_CALLS_PER_SENDER: Final = 1024
# Calls under way in all, some 7 kB each: beyond it a sender may have no more than FEW_CALLS. So who asks
# for one thing is served whatever others do.
MAX_CALLS: Final = 2048
FEW_CALLS: Final = 8


# What sd-bus of 258 and later escapes in the text of an error (line breaks and tabs it leaves).
_CONTROL: Final = re.compile("[\x01-\x08\x0b-\x1f\x7f-\x9f]")


def _escaped(match: re.Match[str]) -> str:
    return "".join(f"\\x{byte:02x}" for byte in match[0].encode())


class Refusal(Exception):
    """An answer of the dispatcher itself: error name (without its prefix) and text."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(text)
        self.name = ERROR + name
        self.text = text


def unknown_object(path: str) -> Refusal:
    return Refusal("UnknownObject", f"Unknown object '{path}'.")


def spawn(coroutine: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
    """A task that runs at once up to its first wait, where Python can do that (3.12).

    most calls never wait.
    """
    loop = asyncio.get_running_loop()
    if sys.version_info >= (3, 12):
        return asyncio.Task(coroutine, loop=loop, name=name, eager_start=True)
    return loop.create_task(coroutine, name=name)


class Dispatcher:
    """Serves the objects it is given on one connection."""

    def __init__(self, bus: Bus, authority: Authority, version: int = 257) -> None:
        """`version` is that of the systemd whose answers are given."""
        self._bus = bus
        self._modern = version >= 258
        self._authority = authority
        self._callers = Callers(bus)
        self._tree = Tree()
        self._tasks: set[asyncio.Task[None]] = set()
        self._in_flight: Counter[str] = Counter()
        self._of_sender: dict[str, dict[asyncio.Task[None], Call]] = {}

    def add(self, entry: Fixed | Fallback) -> None:
        """Serve these objects from now on; the order of adding is the order in the introspection."""
        self._tree.add(entry)

    def start(self) -> None:
        """Take the connection's incoming calls."""
        self._bus.on_call = self._incoming
        self._bus.refuses = self._refuses

    async def close(self) -> None:
        """End every call that is still being served."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._callers.close()

    # -- emitting ------------------------------------------------------------------------------------------

    def emit(self, path: str, interface: Interface, member: str, *args: Any) -> None:
        """Broadcast a signal of a table."""
        row = interface.signal(member)
        self._bus.emit(path, interface.name, member, row.signature, args)

    def properties_changed(self, path: str, interface: Interface, target: Any, names: list[str]) -> None:
        """Emit PropertiesChanged with the current values of `names`."""
        changed = {}
        for name in names:
            row = interface.property(name)
            assert row is not None and row.emits is Emits.TRUE, name
            changed[name] = Variant(row.type, row.getter(None, target))
        self._bus.emit(path, PROPERTIES, "PropertiesChanged", "sa{sv}as", [interface.name, changed, []])

    # -- serving -------------------------------------------------------------------------------------------

    def _incoming(self, message: Message, fds: FdSet) -> None:
        if not {"h", "v"} & set(message.signature or ""):
            # Nothing in the body can mean them: they are not kept for as long as the call takes.
            fds.close()
        call = Call(self._bus, self._authority, self._callers, message, fds)
        if self._refuses(call.sender):
            fds.close()
            self._reply_error(call, ERROR + "LimitsExceeded", "Too many calls are under way already.")
            return
        self._in_flight[call.sender] += 1
        task = spawn(self._serve(call), f"call {message.member}")
        if not task.done():
            self._tasks.add(task)
            self._of_sender.setdefault(call.sender, {})[task] = call
            task.add_done_callback(lambda done: self._forget(call.sender, done))

    def _refuses(self, sender: str) -> bool:
        allowed = MAX_CALLS_PER_SENDER if len(self._tasks) < MAX_CALLS else FEW_CALLS
        return self._in_flight[sender] >= allowed

    def _forget(self, sender: str, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        tasks = self._of_sender.get(sender)
        if tasks is not None:
            tasks.pop(task, None)
            if not tasks:
                del self._of_sender[sender]

    def sender_left(self, sender: str) -> None:
        """Give up what only the sender waited for; what it has begun goes on."""
        self._callers.left(sender)
        for task, call in list(self._of_sender.get(sender, {}).items()):
            if call.only_waits:
                task.cancel()

    async def _serve(self, call: Call) -> None:
        try:
            signature, body = await self._answer(call)
            if call.wants_reply:
                self._reply(call, signature, body)
        except asyncio.CancelledError:
            self._reply_error(call, ERROR + "NoReply", "The manager is going down.")
            raise
        except Refusal as refusal:
            self._reply_error(call, refusal.name, refusal.text)
        except Exception as error:
            name, text = wire_error(error)
            if name is None:
                log.exception("Serving %s.%s failed", call.message.interface, call.message.member)
                name = ERROR + "Failed"
            self._reply_error(call, name, text)
        finally:
            call.fds.close()
            if call.reply_fds is not None:
                call.reply_fds.close()
            self._in_flight[call.sender] -= 1
            if not self._in_flight[call.sender]:
                del self._in_flight[call.sender]

    def _reply(self, call: Call, signature: str, body: list[Any]) -> None:
        fds, call.reply_fds = call.reply_fds, None
        if body and isinstance(body[0], Prepared):
            self._bus.send_prepared(body[0], call.message.serial, call.sender)
            return
        self._bus.send_message(
            Message(
                message_type=MessageType.METHOD_RETURN,
                reply_serial=call.message.serial,
                destination=call.sender or None,
                signature=signature,
                body=body,
                validate=False,
            ),
            fds,
        )

    def _reply_error(self, call: Call, name: str, text: str) -> None:
        if call.wants_reply:
            if self._modern:
                text = _CONTROL.sub(_escaped, text)
            self._bus.send_message(
                Message(
                    message_type=MessageType.ERROR,
                    reply_serial=call.message.serial,
                    destination=call.sender or None,
                    error_name=name,
                    signature="s",
                    body=[text.replace("\0", "").encode(errors="replace").decode()],
                    validate=False,
                )
            )

    async def _answer(self, call: Call) -> tuple[str, list[Any]]:
        message = call.message
        path, interface, member = message.path or "/", message.interface, message.member or ""
        if not interface:
            # The specification lets a call leave it out; sd-bus finds no object for one that does.
            raise unknown_object(path)
        if interface == PEER:
            return self._peer(member)
        if interface == INTROSPECTABLE and member == "Introspect":
            return "s", [await self._introspect(call, path)]
        if interface == PROPERTIES and member in EXPECTED:
            return await self._properties(call, path, member)
        for table, find in self._tree.tables(path):
            row = table.method(member) if table.name == interface else None
            if row is None:
                continue
            if row.access is Access.PRIVILEGED and not await call.privileged():
                raise Refusal("AccessDenied", f"Access to {table.name}.{row.name}() not permitted.")
            target = await find(call)
            if target is None:
                # The object may be there by another interface of ours: not for this one.
                raise unknown_object(path)
            return row.out_signature, await self._invoke(call, table, row, target)
        if not (self._tree.is_prefix(path) or await self._tree.targets(call, path)):
            raise unknown_object(path)
        raise Refusal("UnknownMethod", f"Unknown method {member} or interface {interface}.")

    async def _invoke(self, call: Call, table: Interface, row: Method, target: Any) -> list[Any]:
        signature = call.message.signature or ""
        if signature != row.in_signature:
            raise Refusal(
                "InvalidArgs",
                f"Invalid arguments '{signature}' to call {table.name}.{row.name}(), "
                f"expecting '{row.in_signature}'.",
            )
        result = row.handler(call, target, *call.message.body)
        if inspect.isawaitable(result):
            result = await result
        if not row.out_args:
            return []
        return [result] if len(row.out_args) == 1 else list(result)

    # -- what every object has -----------------------------------------------------------------------------

    def _peer(self, member: str) -> tuple[str, list[Any]]:
        """Of every path, whether an object is there or not; sd-bus does not look at the arguments."""
        if member == "Ping":
            return "", []
        if member == "GetMachineId":
            with open("/etc/machine-id", encoding="ascii") as file:
                return "s", [file.read(33).strip()]
        raise Refusal("UnknownMethod", f"Unknown method '{member}' on interface '{PEER}'.")

    async def _introspect(self, call: Call, path: str) -> str:
        if call.message.signature:
            raise Refusal("InvalidArgs", "Expected no parameters")
        targets = await self._tree.targets(call, path)
        children = self._tree.children(path)
        if not targets and children is None:
            raise unknown_object(path)
        return introspection.node([table for table, _ in targets], children or [])

    # -- properties ----------------------------------------------------------------------------------------

    async def _properties(self, call: Call, path: str, member: str) -> tuple[str, list[Any]]:
        start, complaint = EXPECTED[member]
        signature = call.message.signature or ""
        if not signature.startswith(start):
            raise Refusal("InvalidArgs", complaint)
        targets = await self._tree.targets(call, path)
        if not targets and not self._tree.is_prefix(path):
            raise unknown_object(path)
        name = call.message.body[0]
        served = {table.name for table, _ in targets}
        if name not in served and any(table.name == name for table, _ in self._tree.tables(path)):
            raise unknown_object(path)
        if member == "GetAll":
            return "a{sv}", [self._all(call, targets, name)]
        wanted = call.message.body[1]
        for table, target in targets:
            row = table.property(wanted)
            if table.name == name and row is not None:
                if member == "Get":
                    return "v", [Variant(row.type, row.getter(call, target))]
                await self._set(call, table, row, target)
                return "", []
        raise Refusal("UnknownProperty", f"Unknown interface {name} or property {wanted}.")

    def _all(self, call: Call, targets: list[tuple[Interface, Any]], name: str) -> dict[str, Variant]:
        # An empty name means every interface of the object: stock machinectl asks for status and
        # show like that.
        if (
            name
            and name not in {PEER, INTROSPECTABLE, PROPERTIES}
            and all(t.name != name for t, _ in targets)
        ):
            raise Refusal("UnknownInterface", f"Unknown interface '{name}'.")
        return {
            row.name: Variant(row.type, row.getter(call, target))
            for table, target in targets
            if table.name == name or not (name or table.extra)
            for row in table.properties()
        }

    async def _set(self, call: Call, table: Interface, row: Property, target: Any) -> None:
        if row.setter is None:
            raise Refusal("PropertyReadOnly", f"Property '{row.name}' is not writable.")
        if not await call.privileged():
            raise Refusal("AccessDenied", f"Access to {table.name}.{row.name}() not permitted.")
        if call.message.signature != "ssv":
            raise Refusal(
                "InvalidArgs",
                f"Invalid arguments '{call.message.signature}' to call {PROPERTIES}.Set(), expecting 'ssv'.",
            )
        value: Variant = call.message.body[2]
        if value.signature != row.type:
            raise Refusal(
                "InvalidArgs",
                f"Incorrect parameters for property '{row.name}', "
                f"expected '{row.type}', got '{value.signature}'.",
            )
        row.setter(call, target, value.value)
