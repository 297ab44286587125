# SPDX-License-Identifier: LGPL-2.1-or-later
"""Throws messages at machined over the system bus; in a host: `python3 -m tests.fuzz.busfuzz '{"seed": …}'`.

Message number N of a seed is the same each time (on the same host), whatever came before it. A root caller
names nothing that exists: it is the checks that are tried, not what is behind them.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import string
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from dataclasses import dataclass
from typing import Any

from tests.fuzz import wire
from tests.fuzz.wire import Client, Message

ROOT = "/org/freedesktop/machine1"
DBUS = "org.freedesktop.DBus."
# Calls under way on one connection: dbus-daemon allows 128.
OUTSTANDING = 80
# What a root caller could do without naming a machine or an image.
NOT_AS_ROOT = {"CleanPool", "SetPoolLimit", "Set"}

HOSTILE = (
    "",
    ".",
    "..",
    "../../etc",
    "/",
    "//",
    "/etc/../..",
    "-x",
    "a_b",
    "%s%n%d",
    "$(id)",
    "`id`",
    "a\nb",
    "\x7f\x1b[31m",
    "é" * 40,
    "\ufffe\U0010ffff",
    "x" * 65,
    "x" * 300,
    "x" * 5000,
    "a=b",
    "A=\n",
    "/nonexistent",
    "/proc/self/root",
    "'\"\\",
    ":1.0",
    "*",
    "self ",
)
NAMES = (
    ".host",
    "self",
    "vu-x-0",
    "debug",
    "all",
    "leader",
    "hidden",
    "/usr/bin/id",
    "root",
    "/",
    "container",
)
NUMBERS = (
    0,
    1,
    2,
    9,
    15,
    64,
    1000,
    65534,
    2**15,
    2**16,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**63 - 1,
    2**63,
    2**64 - 1,
)
LETTERS = "ybnqiuxtdsogvh"


@dataclass(frozen=True)
class Member:
    path: str
    interface: str
    name: str
    signature: str


class Values:
    """Random arguments of any type."""

    def __init__(self, rng: random.Random, words: tuple[str, ...], fds: int) -> None:
        self._rng = rng
        self._words = words
        self._fds = fds

    def of(self, type_: str, depth: int = 0) -> Any:
        rng, kind = self._rng, type_[0]
        match kind:
            case "y":
                return rng.randrange(256)
            case "b":
                return rng.randrange(2)
            case "n" | "i" | "x":
                bits = {"n": 16, "i": 32, "x": 64}[kind]
                return (rng.choice(NUMBERS) + 2 ** (bits - 1)) % 2**bits - 2 ** (bits - 1)
            case "q" | "u" | "t":
                return rng.choice(NUMBERS) % 2 ** {"q": 16, "u": 32, "t": 64}[kind]
            case "d":
                return rng.choice((0.0, -1.5, 1e308, float("inf"), float("nan")))
            case "h":
                return rng.choice((0, 0, 1, 7, 2**31)) if self._fds else rng.choice((0, 5))
            case "s":
                return self.text()
            case "o":
                return rng.choice(("/", ROOT, ROOT + "/machine/self", "/a/b"))
            case "g":
                return "".join(rng.choice(LETTERS) for _ in range(rng.randrange(5)))
            case "v":
                inner = self.signature(depth + 1)
                return inner, self.of(inner, depth + 1)
            case "(" | "{":
                return [self.of(inner, depth + 1) for inner in wire.split(type_[1:-1])]
            case _:
                if type_ == "ay" and rng.random() < 0.5:
                    return list(rng.randbytes(rng.choice((0, 15, 16, 17, 300))))
                return [self.of(type_[1:], depth + 1) for _ in range(rng.choice((0, 1, 1, 2, 5)))]

    def text(self) -> str:
        rng = self._rng
        if rng.random() < 0.5:
            return rng.choice(self._words)
        if rng.random() < 0.5:
            return rng.choice(HOSTILE)
        # Never a valid name of a machine: it begins with what none may begin with.
        return "-" + "".join(rng.choice(string.printable) for _ in range(rng.randrange(20)))

    def signature(self, depth: int = 0) -> str:
        """One complete type."""
        rng = self._rng
        if depth > 3 or rng.random() < 0.6:
            return rng.choice(LETTERS)
        kind = rng.randrange(3)
        if kind == 0:
            return "a" + self.signature(depth + 1)
        if kind == 1:
            return "(" + "".join(self.signature(depth + 1) for _ in range(rng.randrange(1, 4))) + ")"
        return "a{" + rng.choice("ybqiutsx") + self.signature(depth + 1) + "}"


class Fuzz:
    """All messages of a seed."""

    def __init__(self, seed: str, machines: tuple[str, ...]) -> None:
        self.seed = seed
        self.root = os.geteuid() == 0
        self.words = HOSTILE if self.root else (*machines, *machines, *NAMES)
        self.members, self.properties = explore(self.root)

    def message(self, number: int) -> tuple[Message, random.Random, bool]:
        """The message with this number, what decides about its sending, and whether the bus minds it not."""
        rng = wire.seeded(f"{self.seed}:bus:{number}")
        # Of 64 that wait to be read the bus lets through no more.
        fds = rng.choice((1, 1, 1, 2, 2, 16)) if rng.random() < 0.04 else 0
        values = Values(rng, self.words, fds)
        make = rng.choices(
            (
                self._right,
                self._mistyped,
                self._property,
                self._stray,
                self._nested,
                self._huge,
                self._garbage,
            ),
            (60, 12, 8, 8, 4, 0.3, 4),
        )[0]
        message = make(rng, values)
        message.fds = fds
        message.flags = rng.choice((0, 0, 0, 1, 4, 4, 5, 2, 0xF8))
        message.order = rng.choice("<<<<>")
        return message, rng, make in (self._right, self._mistyped, self._property, self._huge)

    def _right(self, rng: random.Random, values: Values) -> Message:
        member = rng.choice(self.members)
        body = [values.of(type_) for type_ in wire.split(member.signature)]
        interface = member.interface if rng.random() < 0.95 else None
        return Message(member.path, interface, member.name, member.signature, body)

    def _mistyped(self, rng: random.Random, values: Values) -> Message:
        member = rng.choice(self.members)
        signature = "".join(values.signature() for _ in range(rng.randrange(5)))
        body = [values.of(type_) for type_ in wire.split(signature)]
        return Message(member.path, member.interface, member.name, signature, body)

    def _property(self, rng: random.Random, values: Values) -> Message:
        path, interface, name = rng.choice(self.properties)
        verb = rng.choice(("Get", "Get", "GetAll") if self.root else ("Get", "GetAll", "Set"))
        body: list[Any] = [rng.choice((interface, interface, values.text()))]
        body += [rng.choice((name, values.text()))] if verb != "GetAll" else []
        body += [values.of("v")] if verb == "Set" else []
        signature = {"Get": "ss", "GetAll": "s", "Set": "ssv"}[verb]
        return Message(path, DBUS + "Properties", verb, signature, body)

    def _stray(self, rng: random.Random, values: Values) -> Message:
        some = "".join(rng.choice(string.ascii_letters + "_") for _ in range(rng.choice((1, 8, 200))))
        tail = rng.choice(("/machine/", "/image/", "/job/", "/", "/machine/a/"))
        path = rng.choice(
            (ROOT + tail + some, "/" + some, "/", ROOT + tail + rng.choice(("_", "_zz", "__2e")))
        )
        interface = rng.choice((f"org.{some[:200]}", DBUS + "Peer", DBUS + "Introspectable", None))
        member = rng.choice((some, "Ping", "Introspect", "GetMachineId"))
        body = [values.text()] if rng.random() < 0.2 else []
        return Message(path, interface, member, "s" * len(body), body)

    def _nested(self, rng: random.Random, values: Values) -> Message:
        """About as deep as the bus lets through."""
        inner = rng.choice(("s", "ay", "ai", "a(i)", "(i)", "a{ss}", "a{sv}", "aai", "as"))
        value: Any = (inner, values.of(inner))
        for _ in range(rng.choice((1, 20, 59, 60, 61, 62, 63, 64))):
            value = ("v", value)
        member = rng.choice(self.members)
        return Message(member.path, member.interface, member.name, "v", [value])

    def _huge(self, rng: random.Random, values: Values) -> Message:
        member = rng.choice(self.members)
        size = rng.choice((100_000, 1_000_000, 1_900_000, 3_000_000))
        if rng.random() < 0.5:
            return Message(member.path, member.interface, member.name, "s", ["y" * size])
        return Message(member.path, member.interface, member.name, "av", [[("(yy)", (1, 2))] * (size // 20)])

    def _garbage(self, rng: random.Random, values: Values) -> Message:
        """The bus throws most of these senders out."""
        member = rng.choice(self.members)
        message = Message(member.path, member.interface, member.name, member.signature)
        match rng.randrange(4):
            case 0:
                message.raw = rng.randbytes(rng.randrange(200))
            case 1:
                message.signature, message.raw = "", rng.randbytes(8)
            case 2:
                message.type = rng.choice((0, 2, 3, 4, 5, 255))
                message.extra = [(wire.REPLY_SERIAL, "u", rng.randrange(1, 2000))]
                message.signature = ""
            case _:
                message.extra = [(rng.choice((0, 8, 10, 11, 200)), "s", values.text())]
                message.signature = ""
        return message


def explore(root: bool) -> tuple[list[Member], list[tuple[str, str, str]]]:
    """Every method and property that introspection shows, on every object there is."""
    client = Client()
    members: list[Member] = []
    properties: list[tuple[str, str, str]] = []
    paths = ["/"]
    seen = set(paths)
    while paths:
        path = paths.pop()
        answer = client.call(Message(path, DBUS + "Introspectable", "Introspect"))
        if answer.error:
            continue
        node = ElementTree.fromstring(answer.text())
        below = ROOT + "/machine/", ROOT + "/image/"
        # As root on objects that are not there.
        used = path.rpartition("/")[0] + "/_2dnone" if root and path.startswith(below) else path
        for interface in node.findall("interface"):
            of = interface.get("name", "")
            for method in interface.findall("method"):
                name = method.get("name", "")
                arguments = [a.get("type", "") for a in method.findall("arg") if a.get("direction") != "out"]
                if not (root and name in NOT_AS_ROOT):
                    members.append(Member(used, of, name, "".join(arguments)))
            for row in interface.findall("property"):
                properties.append((path, of, row.get("name", "")))
        for child in node.findall("node"):
            inner = path.rstrip("/") + "/" + child.get("name", "")
            if inner not in seen and len(seen) < 60:
                seen.add(inner)
                paths.append(inner)
    client.close()
    # One of each for objects that are alike, but for the manager, whose members count for more.
    members.sort(key=lambda m: (m.path, m.interface, m.name))
    members += [m for m in members if m.path == ROOT]
    return members, sorted(properties)


class Sender:
    """A connection that is made anew when the bus has thrown us out or we have left."""

    def __init__(self) -> None:
        self.answers: Counter[str] = Counter()
        self.thrown_out = self.left = 0
        self._client = Client()
        self._waiting: set[int] = set()

    def send(self, message: Message, leaves: int) -> None:
        """Send a message; `leaves`: and that many bytes of another one, and go away."""
        try:
            serial = self._client.send(message)
            if leaves:
                self._client.sock.send(message.marshal(serial + 1)[:leaves])
                raise ConnectionAbortedError
            if not message.flags & wire.NO_REPLY and message.type == wire.CALL:
                self._waiting.add(serial)
            self._drain(0)
            # Some calls wait on purpose.
            patience = time.monotonic() + 1
            while len(self._waiting) > OUTSTANDING:
                self._drain(0.1)
                if time.monotonic() > patience:
                    raise ConnectionAbortedError
        except ConnectionAbortedError:
            self.left += 1
            self._anew()
        except OSError:
            self.thrown_out += 1
            self._anew()

    def _anew(self) -> None:
        self.close()
        self._waiting.clear()
        self._client = Client()

    def _drain(self, wait: float) -> None:
        while self._client.take(wait):
            wait = 0
        for answer in self._client.answers():
            self._waiting.discard(answer.reply_serial)
            if answer.type in (wire.RETURN, wire.ERROR):
                self.answers[answer.error or "ok"] += 1

    def finish(self) -> None:
        """Take the answers that come before that to a last call."""
        with contextlib.suppress(OSError):
            self._client.call(Message("/", DBUS + "Peer", "Ping"))
        self.close()

    def close(self) -> None:
        self._client.close()


def _answers_still() -> None:
    """Raises ConnectionError when there is no answer to a new client; the bus's queue has time to empty."""
    end = time.monotonic() + 20
    while True:
        client = Client()
        answer = client.call(Message("/", DBUS + "Peer", "Ping"))
        client.close()
        if not answer.error:
            return
        if time.monotonic() > end:
            raise ConnectionError(f"no answer in the end: {answer}")
        time.sleep(0.1)


def run(seed: str, first: int, count: int, machines: tuple[str, ...]) -> dict[str, Any]:
    """Send messages first … first + count - 1; what came back, counted."""
    fuzz = Fuzz(seed, machines)
    began = time.monotonic()
    # What the bus may throw a sender out for comes from another connection.
    polite, rough = Sender(), Sender()
    number = first
    try:
        for number in range(first, first + count):
            message, rng, manners = fuzz.message(number)
            leaves = rng.randrange(1, 40) if rng.random() < 0.004 else 0
            (polite if manners else rough).send(message, leaves)
        polite.finish()
        rough.finish()
        _answers_still()
    except BaseException:
        print(f"seed {seed!r}, message {number}: {fuzz.message(number)[0]}", file=sys.stderr)
        raise
    return {
        "seconds": round(time.monotonic() - began, 1),
        "members": len({(m.interface, m.name) for m in fuzz.members}),
        "answers": dict((polite.answers + rough.answers).most_common()),
        "thrown out": polite.thrown_out + rough.thrown_out,
        "left": polite.left + rough.left,
    }


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    print(json.dumps(run(asked["seed"], asked.get("first", 0), asked["count"], tuple(asked["machines"]))))
