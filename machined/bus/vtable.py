# SPDX-License-Identifier: LGPL-2.1-or-later
"""Interfaces as tables: rows in wire order that drive dispatch, introspection, privilege and the reference.

A row names its arguments the way the reference prints them: "s name, u leader". A handler is called with the
Call, the target object and one Python argument for each D-Bus argument; it returns the out arguments
(nothing, the value, or a tuple). Arity and signatures are checked when the table is made, so a wrong row
cannot start.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from typing import Any

from dbus_fast import SignatureTree

# Handlers differ in their targets and arguments; the check at import stands in for a static type.
type_handler = Callable[..., Any]


class Access(Enum):
    """Who gets past the dispatcher."""

    OPEN = "open"  # anybody; the handler asks polkit where it must
    PRIVILEGED = "privileged"  # the root user alone, before the arguments are looked at


class Emits(StrEnum):
    """The EmitsChangedSignal annotation of a property."""

    CONST = "const"
    FALSE = "false"
    TRUE = "true"


@dataclass(frozen=True, slots=True)
class Arg:
    type: str
    name: str


@dataclass(frozen=True, slots=True)
class Method:
    """One method. `since` is the first systemd version that has it (0: all we support)."""

    name: str
    in_args: tuple[Arg, ...]
    out_args: tuple[Arg, ...]
    handler: type_handler
    access: Access
    since: int = 0
    doc: str = ""

    @property
    def in_signature(self) -> str:
        return "".join(arg.type for arg in self.in_args)

    @property
    def out_signature(self) -> str:
        return "".join(arg.type for arg in self.out_args)


@dataclass(frozen=True, slots=True)
class Property:
    """One property. The getter takes (call, target); a hidden one answers Get but is not listed."""

    name: str
    type: str
    getter: type_handler
    emits: Emits
    setter: type_handler | None = None
    hidden: bool = False
    since: int = 0
    doc: str = ""


@dataclass(frozen=True, slots=True)
class Signal:
    name: str
    args: tuple[Arg, ...]
    since: int = 0
    doc: str = ""

    @property
    def signature(self) -> str:
        return "".join(arg.type for arg in self.args)


Row = Method | Property | Signal


def parse_args(text: str) -> tuple[Arg, ...]:
    """Parse "s name, ay id"; raises ValueError for a bad row."""
    args = []
    for part in filter(None, (p.strip() for p in text.split(","))):
        signature, _, name = part.partition(" ")
        if not name.strip():
            raise ValueError(f"argument '{part}' has no name")
        SignatureTree(signature)
        args.append(Arg(signature, name.strip()))
    return tuple(args)


def method(
    name: str,
    args: str,
    result: str,
    handler: type_handler,
    access: Access = Access.OPEN,
    *,
    since: int = 0,
    doc: str = "",
) -> Method:
    """A row for a method; checks that the handler takes what it promises. `doc` is for the reference."""
    row = Method(name, parse_args(args), parse_args(result), handler, access, since, doc)
    expected = 2 + len(row.in_args)
    try:
        inspect.signature(handler).bind(*range(expected))
    except TypeError as error:
        raise TypeError(f"handler of {name} does not take {expected} arguments: {error}") from None
    return row


def prop(
    name: str,
    type: str,  # noqa: A002 - the field's own term
    getter: type_handler,
    emits: Emits = Emits.CONST,
    *,
    setter: type_handler | None = None,
    hidden: bool = False,
    since: int = 0,
    doc: str = "",
) -> Property:
    """A row for a property."""
    SignatureTree(type)
    return Property(name, type, getter, emits, setter, hidden, since, doc)


def signal(name: str, args: str, *, since: int = 0, doc: str = "") -> Signal:
    """A row for a signal."""
    return Signal(name, parse_args(args), since, doc)


@dataclass(frozen=True, slots=True)
class Interface:
    """An interface's table. `for_version` leaves out the rows that a host's systemd does not have.

    `extra` marks what is ours on an object of machine1: GetAll of all interfaces at once leaves it out, as
    the stock tools print whatever comes. `bare`: systemd's table has no names for the arguments.
    """

    name: str
    rows: tuple[Row, ...]
    extra: bool = False
    bare: bool = False
    _methods: dict[str, Method] = field(init=False, repr=False, compare=False)
    _properties: dict[str, Property] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_methods", {r.name: r for r in self.rows if isinstance(r, Method)})
        object.__setattr__(self, "_properties", {r.name: r for r in self.rows if isinstance(r, Property)})

    def for_version(self, version: int) -> Interface:
        return Interface(self.name, tuple(row for row in self.rows if row.since <= version), bare=self.bare)

    def method(self, name: str) -> Method | None:
        return self._methods.get(name)

    def property(self, name: str) -> Property | None:
        return self._properties.get(name)

    def signal(self, name: str) -> Signal:
        return next(row for row in self.rows if isinstance(row, Signal) and row.name == name)

    def properties(self) -> Iterator[Property]:
        """The listed properties, in wire order."""
        return (row for row in self._properties.values() if not row.hidden)


Find = Callable[[Any, str], Any]


@dataclass(frozen=True, slots=True)
class Fixed:
    """Interfaces at one path, over one target that is always there."""

    path: str
    target: Any
    interfaces: tuple[Interface, ...]


@dataclass(frozen=True, slots=True)
class Fallback:
    """One interface for every path below a prefix; `find(call, label)` gives the target, None, or awaits it.

    `enumerate` gives the labels that introspection of the prefix lists; empty for tables that share a prefix
    with another one that lists them.
    """

    prefix: str
    interface: Interface
    find: Find
    enumerate: Callable[[], Sequence[str]]
