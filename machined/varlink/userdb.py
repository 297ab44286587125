# SPDX-License-Identifier: LGPL-2.1-or-later
"""io.systemd.UserDatabase: names for users and groups of containers (systemd.io/USER_GROUP_API).

nss-systemd asks for every name and number that the host's files do not have: nothing here may wait.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from machined.model.core import Core
from machined.model.idmaps import HOST_RANGE, Kind, is_id
from machined.model.machine import MachineClass
from machined.model.names import is_user_name
from machined.varlink.server import Call
from machined.varlink.table import (
    BOOL,
    INT,
    OBJECT,
    STRING,
    Array,
    Error,
    Field,
    Interface,
    Method,
    VarlinkError,
    invalid_parameter,
    may,
    need,
)

NAME: Final = "io.systemd.UserDatabase"
# What we are called in there: the name of the socket.
SERVICE: Final = "io.systemd.Machine"

GID_NOBODY: Final = 65534
NOLOGIN: Final = "/usr/sbin/nologin"

# What a user or group of ours may be called: useradd(8) takes no more than UT_NAMESIZE - 1 characters.
_STRICT: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,30}")
_NUMBER: Final = re.compile(r"0|[1-9][0-9]{0,9}")

_PREFIX: Final = {Kind.USER: "vu-", Kind.GROUP: "vg-"}


class Handlers:
    """The methods, over a Core."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def user(self, call: Call, given: Mapping[str, Any]) -> dict[str, Any]:
        name, uid, text = self._find(Kind.USER, given, "uid", "userName")
        record = {
            "userName": name,
            "uid": uid,
            "gid": GID_NOBODY,
            "realName": text,
            "homeDirectory": "/",
            "shell": NOLOGIN,
            "locked": True,
            "service": SERVICE,
            "disposition": "container",
        }
        return {"record": record}

    def group(self, call: Call, given: Mapping[str, Any]) -> dict[str, Any]:
        name, gid, text = self._find(Kind.GROUP, given, "gid", "groupName")
        record = {
            "groupName": name,
            "gid": gid,
            "description": text,
            "service": SERVICE,
            "disposition": "container",
        }
        return {"record": record}

    def memberships(self, call: Call, given: Mapping[str, Any]) -> dict[str, Any]:
        self._check(given)
        raise _error("NoRecordFound")

    def _check(self, given: Mapping[str, Any]) -> None:
        for key, value in given.items():
            if key in {"userName", "groupName"} and not is_user_name(value):
                raise invalid_parameter(key)
            if key in {"uid", "gid"} and not is_id(value):
                raise invalid_parameter(key)
        if given["service"] != SERVICE:
            raise _error("BadService")

    def _find(
        self, kind: Kind, given: Mapping[str, Any], id_key: str, name_key: str
    ) -> tuple[str, int, str]:
        """The name, the number on the host, and the text. Raises VarlinkError, OSError (EINVAL)."""
        self._check(given)
        if id_key in given:
            found = self._by_id(kind, given[id_key])
        elif name_key in given:
            found = self._by_name(kind, given[name_key])
        else:
            raise _error("EnumerationNotSupported")
        if found is None:
            raise _error("NoRecordFound")
        if given.get(name_key, found[0]) != found[0]:
            raise _error("ConflictingRecordFound")
        return found

    def _by_id(self, kind: Kind, number: int) -> tuple[str, int, str] | None:
        if number < HOST_RANGE:
            return None
        found = self._core.idmaps.inside(kind, number)
        if found is None:
            return None
        machine, inner = found
        name = f"{_PREFIX[kind]}{machine.name}-{inner}"
        return (name, number, _text(kind, inner, machine.name)) if _STRICT.fullmatch(name) else None

    def _by_name(self, kind: Kind, name: str) -> tuple[str, int, str] | None:
        if not _STRICT.fullmatch(name) or not name.startswith(_PREFIX[kind]):
            return None
        of, _, number = name.removeprefix(_PREFIX[kind]).rpartition("-")
        machine = self._core.registry.get(of)
        if machine is None or machine.cls is not MachineClass.CONTAINER or not _NUMBER.fullmatch(number):
            return None
        inner = int(number)
        if not is_id(inner):
            return None
        try:
            outer = self._core.idmaps.outside(machine, kind, inner)
        except ProcessLookupError:
            return None
        return (name, outer, _text(kind, inner, machine.name)) if outer is not None else None


def _text(kind: Kind, inner: int, machine: str) -> str:
    return f"{kind.upper()} {inner} of Container {machine}"


def _error(name: str) -> VarlinkError:
    return VarlinkError(f"{NAME}.{name}")


def table(core: Core) -> Interface:
    """The interface as the host's systemd version has it."""
    handlers = Handlers(core)
    modern = core.version >= 258
    record = (need("record", OBJECT), may("incomplete", BOOL))

    def keys(id_key: str, name_key: str, low: str, high: str) -> tuple[Field, ...]:
        filters = (
            may("fuzzyNames", Array(STRING)),
            may("dispositionMask", Array(STRING)),
            may(low, INT),
            may(high, INT),
            may("uuid", STRING),
        )
        return may(id_key, INT), may(name_key, STRING), *(filters if modern else ()), need("service", STRING)

    # Described, since all user databases share one description; for databases that can be searched.
    refused = frozenset({"fuzzyNames", "dispositionMask", "uidMin", "uidMax", "gidMin", "gidMax", "uuid"})
    membership = (need("userName", STRING), need("groupName", STRING))
    methods = (
        Method(
            "GetUserRecord", keys("uid", "userName", "uidMin", "uidMax"), record, handlers.user,
            refused=refused,
        ),
        Method(
            "GetGroupRecord", keys("gid", "groupName", "gidMin", "gidMax"), record, handlers.group,
            refused=refused,
        ),
        Method(
            "GetMemberships",
            (may("userName", STRING), may("groupName", STRING), need("service", STRING)),
            membership,
            handlers.memberships,
        ),
    )  # fmt: skip
    errors = (
        Error("NoRecordFound"),
        Error("BadService"),
        Error("ServiceNotAvailable"),
        Error("ConflictingRecordFound"),
        Error("NonMatchingRecordFound", since=258),
        Error("EnumerationNotSupported"),
    )
    return Interface(NAME, (), methods, errors).for_version(core.version)
