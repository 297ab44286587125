# SPDX-License-Identifier: LGPL-2.1-or-later
"""io.systemd.Resolve.Hook: systemd-resolved asks us for the addresses of machines (259 and later)."""

from __future__ import annotations

import asyncio
import base64
import errno
import os
import re
import socket
import struct
from collections.abc import Mapping, Sequence
from typing import Any, Final

from machined.linux.netlink import Address
from machined.model.core import Core
from machined.model.errors import MachineError, Problem
from machined.model.machine import Machine
from machined.varlink.server import Call
from machined.varlink.table import (
    INT,
    NUMBER,
    OBJECT,
    STRING,
    Array,
    Interface,
    Method,
    Structure,
    invalid_parameter,
    may,
    need,
)

NAME: Final = "io.systemd.Resolve.Hook"
SINCE: Final = 259

# RFC 1035, RFC 3596.
CLASS_IN: Final = 1
FAMILIES: Final = {1: socket.AF_INET, 28: socket.AF_INET6}
RCODE_SUCCESS: Final = 0
RCODE_NXDOMAIN: Final = 3
MAX_LABEL: Final = 63
MAX_NAME: Final = 253
# As many as a message has room for in practice; resolved asks one or two.
MAX_QUESTIONS: Final = 64

# One label in a name's text form: a backslash quotes the next character or a number of three digits.
_LABEL: Final = re.compile(r"(?:[^.\\]|\\[0-9]{3}|\\[^0-9])+")
_QUOTED: Final = re.compile(r"\\(?:[0-9]{3}|.)", re.DOTALL)

_KEY_IN: Final = Structure(
    "ResourceKey", (may("class", NUMBER, null=True), need("type", NUMBER), need("name", STRING))
)
_KEY: Final = Structure("ResourceKey", (may("class", INT), need("type", INT), need("name", STRING)))
_QUESTION: Final = Structure("Question", (need("key", _KEY_IN),))
# The fields of all types of records: the description is that of every hook. RFC 1035 to 9460.
_RECORD: Final = Structure(
    "ResourceRecord",
    (
        need("key", _KEY),
        *(may(name, INT) for name in ("priority", "weight", "port")),
        *(may(name, STRING) for name in ("name", "cpu", "os")),
        may("items", Array(STRING)),
        may("address", Array(INT)),
        *(may(name, STRING) for name in ("mname", "rname")),
        *(may(name, INT) for name in ("serial", "refresh", "retry", "expire", "minimum")),
        may("exchange", STRING),
        *(may(name, INT) for name in ("version", "size", "horiz_pre", "vert_pre")),
        *(may(name, INT) for name in ("latitude", "longitude", "altitude")),
        *(may(name, INT) for name in ("keyTag", "algorithm", "digestType")),
        may("digest", STRING),
        may("fptype", INT),
        may("fingerprint", STRING),
        *(may(name, INT) for name in ("flags", "protocol")),
        *(may(name, STRING) for name in ("dnskey", "signer")),
        *(may(name, INT) for name in ("typeCovered", "labels", "originalTtl", "expiration", "inception")),
        *(may(name, STRING) for name in ("signature", "nextDomain")),
        may("types", Array(INT)),
        may("iterations", INT),
        *(may(name, STRING) for name in ("salt", "hash")),
        *(may(name, INT) for name in ("certUsage", "selector", "matchingType")),
        *(may(name, STRING) for name in ("data", "tag", "value", "target")),
        may("svcparams", OBJECT),
        *(may(name, INT) for name in ("order", "preference")),
        *(may(name, STRING) for name in ("naptrFlags", "services", "regexp", "replacement")),
    ),
)
_ANSWER: Final = Structure("Answer", (may("rr", _RECORD), need("raw", STRING)))

# What a machine that has no addresses of its own is to a resolver.
_NUMBERS: Final = {Problem.NO_PRIVATE_NETWORKING: errno.ENONET, Problem.NOT_SUPPORTED: errno.EOPNOTSUPP}


def labels(name: str) -> list[bytes]:
    """The labels of a domain name in its text form. Raises ValueError for what is none."""
    text = name.removesuffix(".") if not name.endswith("\\.") else name
    found: list[bytes] = []
    position = 0
    while text and position <= len(text):
        match = _LABEL.match(text, position)
        if match is None:
            raise ValueError("a label is empty or ends in a backslash")
        found.append(_unquoted(match.group()))
        position = match.end()
        if position == len(text):
            break
        if text[position] != ".":
            raise ValueError("a backslash quotes nothing")
        position += 1
    if any(len(label) > MAX_LABEL for label in found) or sum(map(len, found)) + len(found) - 1 > MAX_NAME:
        raise ValueError("the name is too long")
    return found


def _unquoted(label: str) -> bytes:
    parts: list[bytes] = []
    position = 0
    for match in _QUOTED.finditer(label):
        parts.append(label[position : match.start()].encode())
        quoted = match.group()[1:]
        # Raises ValueError beyond one byte.
        parts.append(bytes([int(quoted)]) if len(quoted) == 3 else quoted.encode())
        position = match.end()
    parts.append(label[position:].encode())
    return b"".join(parts)


def parents(name: str) -> list[str]:
    """The domains a name is in, as they are spelled in it, the nearest first; without the root."""
    found = []
    while (match := _LABEL.match(name)) is not None:
        name = name[match.end() :].removeprefix(".")
        if name:
            found.append(name)
    return found


class Handlers:
    """The methods, over a Core."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._changes: set[asyncio.Event] = set()
        core.registry.on_new.append(self._changed)
        core.registry.on_removed.append(self._changed)

    def _changed(self, machine: Machine) -> None:
        for change in self._changes:
            change.set()

    def _filter(self) -> dict[str, Any]:
        names = [
            machine.name for machine in self._core.registry if machine.started and not machine.is_host()
        ]
        return {"filterDomains": names}

    async def query_filter(self, call: Call, given: Mapping[str, Any]) -> dict[str, Any]:
        """The names we answer for: once, or for as long as somebody wants to hear of changes."""
        if not call.more:
            return self._filter()
        change = asyncio.Event()
        self._changes.add(change)
        try:
            while True:
                change.clear()
                await call.reply(self._filter())
                await call.while_there(change.wait())
        finally:
            self._changes.discard(change)

    async def resolve_record(self, call: Call, given: Mapping[str, Any]) -> dict[str, Any]:
        keys = self._keys(given["question"])
        answer: dict[bytes, dict[str, Any]] = {}
        known: dict[Machine, Sequence[Address]] = {}
        found = below = False
        for kind, class_, name in keys:
            machine = self._core.registry.get(name)
            if machine is not None:
                found = True
                if class_ == CLASS_IN and kind in FAMILIES:
                    if machine not in known:
                        known[machine] = await self._addresses(machine)
                    for address in known[machine]:
                        if address.family == FAMILIES[kind]:
                            record = _record(kind, machine.name, address.address)
                            answer.setdefault(record[0], record[1])
            below = below or any(self._core.registry.get(parent) is not None for parent in parents(name))
        if found:
            return {"rcode": RCODE_SUCCESS, "answer": list(answer.values())}
        # Machines have no names below theirs; any other name is none of our business.
        return {"rcode": RCODE_NXDOMAIN} if below else {}

    def _keys(self, question: Sequence[Mapping[str, Any]]) -> list[tuple[int, int, str]]:
        if not 0 < len(question) <= MAX_QUESTIONS:
            raise invalid_parameter("question")
        keys = []
        for item in question:
            key = item["key"]
            kind, class_, name = key["type"], key.get("class", CLASS_IN), key["name"]
            try:
                labels(name)
            except ValueError:
                raise invalid_parameter("question") from None
            if not 0 <= kind < 2**16 or not 0 <= class_ < 2**16:
                raise invalid_parameter("question")
            keys.append((kind, class_, name))
        return keys

    async def _addresses(self, machine: Machine) -> Sequence[Address]:
        try:
            return await self._core.guests.addresses(machine)
        except MachineError as error:
            number = _NUMBERS.get(error.problem)
            if number is None:
                raise
            raise OSError(number, os.strerror(number)) from error


def _record(kind: int, name: str, address: bytes) -> tuple[bytes, dict[str, Any]]:
    """An address record on the wire (RFC 1035, 3.2.1), not to be kept by anybody, and in words."""
    owner = b"".join(bytes([len(label)]) + label for label in labels(name)) + b"\0"
    raw = owner + struct.pack("!HHIH", kind, CLASS_IN, 0, len(address)) + address
    words = {
        "rr": {"key": {"class": CLASS_IN, "type": kind, "name": name}, "address": list(address)},
        "raw": base64.b64encode(raw).decode(),
    }
    return raw, words


def table(core: Core) -> Interface:
    """The interface of 259 and later."""
    handlers = Handlers(core)
    filter_ = (
        may("filterDomains", Array(STRING)),
        may("filterLabelsMin", INT),
        may("filterLabelsMax", INT),
    )
    methods = (
        Method("QueryFilter", (), filter_, handlers.query_filter),
        Method(
            "ResolveRecord",
            (need("question", Array(_QUESTION)),),
            (may("rcode", INT), may("answer", Array(_ANSWER))),
            handlers.resolve_record,
        ),
    )
    return Interface(NAME, (_ANSWER, _QUESTION, _KEY, _RECORD), methods, ())
