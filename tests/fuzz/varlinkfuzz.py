# SPDX-License-Identifier: LGPL-2.1-or-later
"""Throws messages at every varlink socket of machined: `python3 -m tests.fuzz.varlinkfuzz '{"seed": …}'`.

Message number N of a seed is the same each time (on the same host), whatever came before it. A root caller
names nothing that exists, as in busfuzz.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import select
import socket
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.fuzz import wire
from tests.fuzz.busfuzz import HOSTILE, NAMES, NUMBERS

# Sockets are found by the last part of their path: what they are for is the part before it.
SOCKETS = "io.systemd.Machine*"
SERVICE = "org.varlink.service"
FIELD = re.compile(r"([A-Za-z_0-9]+)\s*:\s*(\??)\s*((?:\[\w*\])*)\s*(\(|\w+)")
METHOD = re.compile(r"^method\s+(\w+)\s*\((.*?)\)\s*->", re.MULTILINE | re.DOTALL)
RAW_NUMBERS = ("1e999", "-0", "1.0", "9" * 400, "9" * 5000, "NaN", "Infinity", "1E400", "0x1", "01", "true")
RAW_TEXTS = (r'"\ud800"', r'"\u0000"', r'"\udfff\ud800"', '"\ufffe"', r'"\x41"', '"' + "x" * 100_000 + '"')


class Peer:
    """One connection; what comes is read and counted, not understood."""

    def __init__(self, path: str) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(10)
        self.sock.connect(path)

    def take(self, timeout: float) -> bytes:
        """What has arrived, nothing when nothing has. Raises EOFError at the end of the connection."""
        if not select.select([self.sock], [], [], timeout)[0]:
            return b""
        data, fds, _, _ = socket.recv_fds(self.sock, 1 << 20, 253)
        for fd in fds:
            os.close(fd)
        if not data:
            raise EOFError
        return data

    def call(self, method: str, parameters: dict[str, Any]) -> dict[str, Any]:
        """Raises EOFError, TimeoutError."""
        self.sock.sendall(json.dumps({"method": method, "parameters": parameters}).encode() + b"\0")
        data, end = b"", time.monotonic() + 30
        while not data.endswith(b"\0"):
            if time.monotonic() > end:
                raise TimeoutError(f"no answer to {method}")
            data += self.take(1)
        return dict(json.loads(data[:-1]))

    def close(self) -> None:
        self.sock.close()


def sockets() -> list[str]:
    """Every varlink socket of machined that we may connect to."""
    found = []
    for path in sorted(Path("/run/systemd").glob(f"*/{SOCKETS}")):
        if path.is_socket() and os.access(path, os.W_OK):
            found.append(str(path))
    return found


def explore(path: str) -> list[tuple[str, dict[str, str]]]:
    """The methods of a socket, with the types of their parameters as the description has them."""
    peer = Peer(path)
    methods: list[tuple[str, dict[str, str]]] = []
    try:
        info = peer.call(f"{SERVICE}.GetInfo", {})["parameters"]
        for interface in info["interfaces"]:
            reply = peer.call(f"{SERVICE}.GetInterfaceDescription", {"interface": interface})
            text = re.sub(r"#.*", "", reply["parameters"]["description"])
            for name, fields in METHOD.findall(text):
                types = {m[1]: m[3] + m[4] for m in FIELD.finditer(fields)}
                methods.append((f"{interface}.{name}", types))
    finally:
        peer.close()
    return methods


class Fuzz:
    """All messages of a seed."""

    def __init__(self, seed: str, machines: tuple[str, ...]) -> None:
        self.seed = seed
        self.words = HOSTILE if os.geteuid() == 0 else (*machines, *machines, *NAMES)
        self.paths = sockets()
        self.methods = {path: explore(path) for path in self.paths}

    def path(self, number: int) -> str:
        """The socket of a message: by turns of fifty, which pipelining needs."""
        return self.paths[number // 50 % len(self.paths)]

    def message(self, number: int) -> tuple[bytes, random.Random]:
        """The message with this number, and what decides about its sending."""
        rng = wire.seeded(f"{self.seed}:varlink:{number}")
        method, fields = rng.choice(self.methods[self.path(number)])
        parameters = {name: self._value(rng, type_) for name, type_ in fields.items() if rng.random() < 0.6}
        if rng.random() < 0.15:
            parameters[rng.choice(HOSTILE[:20])] = self._value(rng, "any")
        message: dict[str, Any] = {"method": method, "parameters": parameters}
        if rng.random() < 0.1:
            message[rng.choice(("method", "parameters", "more", "oneway", "upgrade", "x"))] = self._value(
                rng, "any"
            )
        for flag in ("more", "oneway", "upgrade"):
            if rng.random() < 0.15:
                message[flag] = rng.choice((True, True, False, 1, None))
        text = json.dumps(message, ensure_ascii=rng.random() < 0.5)
        if rng.random() < 0.1:
            text = re.sub(r"\d+|true", lambda _: rng.choice(RAW_NUMBERS), text, count=1)
        if rng.random() < 0.1:
            text = re.sub(r': ("[^"\\]*")', lambda _: ": " + rng.choice(RAW_TEXTS), text, count=2)
        data = text.encode("utf-8", "surrogatepass") + b"\0"
        return self._mutated(rng, data) if rng.random() < 0.2 else data, rng

    def _value(self, rng: random.Random, type_: str, depth: int = 0) -> Any:
        if depth < 3 and rng.random() < 0.12:
            type_ = rng.choice(("int", "string", "bool", "[]string", "[string]int", "float", "null", "any"))
        if type_.startswith("["):
            inner = type_.partition("]")[2]
            items = [self._value(rng, inner, depth + 1) for _ in range(rng.choice((0, 1, 3, 40)))]
            return {str(i): item for i, item in enumerate(items)} if type_[1] != "]" else items
        match type_:
            case "int":
                return rng.choice(NUMBERS) * rng.choice((1, 1, 1, -1))
            case "bool":
                return rng.random() < 0.5
            case "float":
                return rng.choice((0.5, 1e300, -0.0))
            case "null":
                return None
            case "string":
                return rng.choice(self.words) if rng.random() < 0.6 else rng.choice(HOSTILE)
            case _:
                # A named type: a word of an enumeration, or an object, most likely a process.
                kind = rng.randrange(3)
                if kind == 0:
                    return rng.choice(("no", "yes", "graceful", "tty", "login", "shell", "any", "container"))
                if kind == 1:
                    return {"pid": rng.choice((0, 1, -1, 2, 2**31, 4)), "pidfdId": rng.choice(NUMBERS)}
                return {"a": {"b": [{}] * rng.randrange(9)}}

    def _mutated(self, rng: random.Random, data: bytes) -> bytes:
        changed = bytearray(data)
        match rng.randrange(7):
            case 0:
                for _ in range(rng.randrange(1, 6)):
                    changed[rng.randrange(len(changed))] = rng.randrange(256)
            case 1:
                del changed[rng.randrange(len(changed)) :]
                changed += b"\0"
            case 2:
                changed[rng.randrange(len(changed)) :] = b"\0" * rng.randrange(1, 4)
            case 3:
                changed = bytearray(b"[" * rng.choice((100, 3000, 100_000)) + b"\0")
            case 4:
                changed = bytearray(b'{"method":' * rng.choice((10, 50_000)) + b"\0")
            case 5:
                changed = bytearray(rng.randbytes(rng.randrange(100)) + b"\0")
            case _:
                changed = bytearray(b'{"method":"a.B","method":"org.varlink.service.GetInfo","method":7}\0')
        return bytes(changed)


class Flood:
    """Sends a seed's messages in all manners of sending."""

    def __init__(self, fuzz: Fuzz) -> None:
        self._fuzz = fuzz
        self.answers: Counter[str] = Counter()
        self.ends: Counter[str] = Counter()
        self._peer: Peer | None = None
        self._path = ""

    def send(self, number: int) -> None:
        """One message, and what its number says to do with the connection afterwards."""
        data, rng = self._fuzz.message(number)
        path = self._fuzz.path(number)
        if self._peer is None or path != self._path:
            self.end("turn")
            self._peer, self._path = Peer(path), path
            # Behind a question that waits for changes nothing is read any more.
            self._peer.sock.settimeout(2)
        peer = self._peer
        try:
            if rng.random() < 0.05:
                self._with_fds(peer, data, rng.choice((1, 3, 200)))
            elif rng.random() < 0.1:
                cut = rng.randrange(len(data))
                peer.sock.sendall(data[:cut])
                time.sleep(0.001)
                peer.sock.sendall(data[cut:])
            else:
                peer.sock.sendall(data)
            manner = rng.random()
            if manner < 0.03:
                return self.end("vanished")
            if manner < 0.06:
                peer.sock.shutdown(socket.SHUT_WR)
                end = time.monotonic() + 1
                while time.monotonic() < end:
                    self._count(peer.take(0.5))
            if manner < 0.07 and manner >= 0.06:
                peer.sock.sendall(b'{"method":"org.varlink.ser')
                return self.end("in the middle")
            # Most are sent before the one before has been answered.
            self._count(peer.take(0.02 if manner < 0.4 else 0))
        except EOFError:
            self.end("closed")
        except OSError as error:
            self.end(type(error).__name__)

    def _with_fds(self, peer: Peer, data: bytes, count: int) -> None:
        fds = [os.open("/dev/null", os.O_RDONLY) for _ in range(count)]
        try:
            sent = socket.send_fds(peer.sock, [data], fds)
            peer.sock.sendall(data[sent:])
        finally:
            for fd in fds:
                os.close(fd)

    def _count(self, data: bytes) -> None:
        for word in re.findall(rb'"error":"([^"]*)"', data):
            self.answers[word.decode()] += 1
        self.answers["replies"] += data.count(b"\0")

    def end(self, how: str) -> None:
        """Close the connection, if there is one."""
        if self._peer is not None:
            self.ends[how] += 1
            if how == "turn":
                with contextlib.suppress(OSError, EOFError):
                    self._peer.sock.shutdown(socket.SHUT_WR)
                    end = time.monotonic() + 1
                    while time.monotonic() < end:
                        self._count(self._peer.take(0.5))
            self._peer.close()
            self._peer = None


def run(seed: str, first: int, count: int, machines: tuple[str, ...]) -> dict[str, Any]:
    """Send messages first … first + count - 1; what came back, counted."""
    fuzz = Fuzz(seed, machines)
    flood = Flood(fuzz)
    began = time.monotonic()
    number = first
    try:
        for number in range(first, first + count):
            flood.send(number)
        flood.end("turn")
        for path in fuzz.paths:
            last = Peer(path)
            last.call(f"{SERVICE}.GetInfo", {})
            last.close()
    except BaseException:
        print(f"seed {seed!r}, message {number}: {fuzz.message(number)[0][:2000]!r}", file=sys.stderr)
        raise
    return {
        "seconds": round(time.monotonic() - began, 1),
        "sockets": fuzz.paths,
        "methods": {path: len(methods) for path, methods in fuzz.methods.items()},
        "answers": dict(flood.answers.most_common()),
        "ends": dict(flood.ends),
    }


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    print(json.dumps(run(asked["seed"], asked.get("first", 0), asked["count"], tuple(asked["machines"]))))
