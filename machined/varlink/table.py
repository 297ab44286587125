# SPDX-License-Identifier: LGPL-2.1-or-later
"""Varlink interfaces as tables: they check parameters, drive dispatch and print the interface description.

Types follow the varlink interface definition; checking is that of systemd's server: wrong types and unknown
fields are InvalidParameter with the name of the field. It takes 5.0 for 5, and for some fields "5" as well.
"""

from __future__ import annotations

import re
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
    """bool, int, string or object. `convert` raises ValueError for what does not fit."""

    text: str
    convert: Callable[[Any], Any]


def _bool(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("not a boolean")
    return value


def _int(value: Any) -> int:
    # bool is a subclass of int. A float that is not finite raises OverflowError or ValueError by itself.
    if type(value) is float and abs(value) < 2**64 and value == int(value):
        value = int(value)
    if type(value) is not int or not -(2**63) <= value < 2**64:
        raise ValueError("not an integer of 64 bits")
    return value


def _number(value: Any) -> int:
    if isinstance(value, str) and _DECIMAL.fullmatch(value):
        value = int(value)
    return _int(value)


def _string(value: Any) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise ValueError("not a text")
    # JSON can spell half a surrogate pair, which is no text and no file's content: UnicodeError.
    value.encode()
    return value


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("not an object")
    return value


def _signal(value: Any) -> int | str:
    return _string(value) if isinstance(value, str) else _int(value)


def _anything(value: Any) -> Any:
    return value


_DECIMAL: Final = re.compile(r"-?[0-9]{1,20}")

BOOL: Final = Scalar("bool", _bool)
INT: Final = Scalar("int", _int)
# A number that may come as a text, as systemd's server has it for pids, signals and CIDs.
NUMBER: Final = Scalar("int", _number)
STRING: Final = Scalar("string", _string)
OBJECT: Final = Scalar("object", _object)
# Likewise, or the name of a signal.
SIGNAL: Final = Scalar("int", _signal)
# What is described as a number and looked at by nobody.
IGNORED_INT: Final = Scalar("int", _anything)


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
    nullable: bool = False


def need(name: str, type_: Type) -> Field:
    """A field that must be there."""
    return Field(name, type_, optional=False)


def may(name: str, type_: Type, *, null: bool = False) -> Field:
    """A field that may be left out, or be null where systemd's server does not mind."""
    return Field(name, type_, nullable=null)


@dataclass(frozen=True, slots=True)
class Method:
    """One method.

    the handler takes (call, parameters) and answers through the call or returns the parameters. Without one
    the method is described and cannot be called.
    """

    name: str
    takes: tuple[Field, ...]
    gives: tuple[Field, ...]
    handler: Callable[..., Any] | None
    since: int = 0
    # Fields that are described, and refused all the same.
    refused: frozenset[str] = frozenset()


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
    """The parameters as they were given, without nulls.

    Raises VarlinkError (InvalidParameter) naming the first bad field: those of the table, then unknown ones.
    """
    values: dict[str, Any] = {}
    for field in fields:
        if field.name not in given:
            if not field.optional:
                raise invalid_parameter(field.name)
            continue
        value = given[field.name]
        if value is None and field.nullable:
            continue
        try:
            values[field.name] = _convert(field.type, value)
        except (ValueError, OverflowError, VarlinkError):
            raise invalid_parameter(field.name) from None
    known = {field.name for field in fields}
    for name in given:
        if name not in known:
            raise invalid_parameter(name)
    return {name: values[name] for name in given if name in values}


def _convert(type_: Type, value: Any) -> Any:
    match type_:
        case Scalar():
            return type_.convert(value)
        case Enumeration():
            if value not in type_.words:
                raise ValueError("not one of the words")
            return value
        case Array():
            if not isinstance(value, list):
                raise ValueError("not an array")
            return [_convert(type_.item, item) for item in value]
        case Structure():
            return check(type_.fields, _object(value))
