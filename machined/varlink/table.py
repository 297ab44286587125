# SPDX-License-Identifier: LGPL-2.1-or-later
"""Varlink interfaces as tables: they check parameters, drive dispatch and print the interface description.

Types follow the varlink interface definition; checking is that of systemd's server: unknown fields and wrong
types are InvalidParameter with the name of the field.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final


class VarlinkError(Exception):
    """An error reply: its qualified name and its parameters."""

    def __init__(self, name: str, **parameters: Any) -> None:
        super().__init__(name)
        self.name = name
        self.parameters = parameters


def invalid_parameter(field: str) -> VarlinkError:
    return VarlinkError("org.varlink.service.InvalidParameter", parameter=field)


@dataclass(frozen=True, slots=True)
class Scalar:
    """bool, int or string."""

    text: str
    accepts: Callable[[Any], bool]


def _is_int(value: Any) -> bool:
    # bool is a subclass of int, and JSON's 1.0 is no integer here.
    return type(value) is int and -(2**63) <= value < 2**64


def _is_text(value: str) -> bool:
    # JSON can spell half a surrogate pair, which is no text and no file's content.
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in value


BOOL: Final = Scalar("bool", lambda value: isinstance(value, bool))
INT: Final = Scalar("int", _is_int)
STRING: Final = Scalar("string", lambda value: isinstance(value, str) and _is_text(value))


@dataclass(frozen=True, slots=True)
class Enumeration:
    """A named set of words."""

    name: str
    words: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Structure:
    """A named type with fields."""

    name: str
    fields: tuple[Field, ...]


@dataclass(frozen=True, slots=True)
class Array:
    item: Type


Type = Scalar | Enumeration | Structure | Array


@dataclass(frozen=True, slots=True)
class Field:
    name: str
    type: Type
    optional: bool = True
    nullable: bool = True


def need(name: str, type_: Type) -> Field:
    """A field that must be there."""
    return Field(name, type_, optional=False)


def may(name: str, type_: Type) -> Field:
    """A field that may be left out or null."""
    return Field(name, type_)


def may_not_null(name: str, type_: Type) -> Field:
    """A field that may be left out, but not be null."""
    return Field(name, type_, nullable=False)


@dataclass(frozen=True, slots=True)
class Method:
    """One method.

    the handler takes (call, parameters) and answers through the call or returns the parameters.
    """

    name: str
    takes: tuple[Field, ...]
    gives: tuple[Field, ...]
    handler: Callable[..., Any]
    since: int = 0


@dataclass(frozen=True, slots=True)
class Error:
    name: str
    fields: tuple[Field, ...] = ()
    since: int = 0


@dataclass(frozen=True, slots=True)
class Interface:
    name: str
    types: tuple[Enumeration | Structure, ...]
    methods: tuple[Method, ...]
    errors: tuple[Error, ...]

    def for_version(self, version: int) -> Interface:
        return Interface(
            self.name,
            self.types,
            tuple(m for m in self.methods if m.since <= version),
            tuple(e for e in self.errors if e.since <= version),
        )

    def method(self, name: str) -> Method | None:
        return next((m for m in self.methods if m.name == name), None)

    def description(self) -> str:
        """The interface definition, as GetInterfaceDescription returns it."""
        parts = [f"interface {self.name}\n"]
        for named in self.types:
            if isinstance(named, Enumeration):
                parts.append(f"type {named.name}(\n" + ",\n".join(f"\t{w}" for w in named.words) + "\n)\n")
            else:
                parts.append(f"type {named.name}{_fields(named.fields)}\n")
        parts += [f"method {m.name}{_fields(m.takes)} -> {_fields(m.gives)}\n" for m in self.methods]
        parts += [f"error {e.name}{_fields(e.fields)}\n" for e in self.errors]
        return "\n".join(parts)


def _fields(fields: tuple[Field, ...]) -> str:
    if not fields:
        return "()"
    rows = (f"\t{f.name}: {'?' if f.optional else ''}{_type(f.type)}" for f in fields)
    return "(\n" + ",\n".join(rows) + "\n)"


def _type(type_: Type) -> str:
    match type_:
        case Scalar():
            return type_.text
        case Array():
            return "[]" + _type(type_.item)
        case Enumeration() | Structure():
            return type_.name


def check(fields: tuple[Field, ...], given: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters without nulls. Raises VarlinkError (InvalidParameter) naming the first bad field."""
    known = {field.name: field for field in fields}
    for name in given:
        if name not in known:
            raise invalid_parameter(name)
    values = {}
    for field in fields:
        value = given.get(field.name)
        if value is None:
            if not field.optional or (field.name in given and not field.nullable):
                raise invalid_parameter(field.name)
            continue
        if not _fits(field.type, value):
            raise invalid_parameter(field.name)
        values[field.name] = value
    return values


def _fits(type_: Type, value: Any) -> bool:
    match type_:
        case Scalar():
            return type_.accepts(value)
        case Enumeration():
            return isinstance(value, str) and value in type_.words
        case Array():
            return isinstance(value, list) and all(_fits(type_.item, item) for item in value)
        case Structure():
            if not isinstance(value, dict):
                return False
            try:
                check(type_.fields, value)
            except VarlinkError:
                return False
            return True
