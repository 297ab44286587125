# SPDX-License-Identifier: LGPL-2.1-or-later
"""MapFrom and MapTo of io.systemd.Machine: users and groups of containers as those of the host, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from machined.model.core import Core
from machined.model.idmaps import HOST_RANGE, Kind, is_id
from machined.model.machine import Machine, MachineClass
from machined.varlink.handlers import Authorize, Handlers
from machined.varlink.server import Call
from machined.varlink.table import INT, STRING, Error, Field, Method, VarlinkError, invalid_parameter, may

INTERFACE = "io.systemd.Machine."
ERRORS = tuple(
    Error(name, since=258) for name in ("NoSuchUser", "NoSuchGroup", "UserInHostRange", "GroupInHostRange")
)
_IDS = (may("uid", INT), may("gid", INT))


def rows(core: Core, authorize: Authorize, lookup: tuple[Field, ...]) -> tuple[Method, ...]:
    """The methods, in the order of the interface; `lookup` are the fields that name a machine."""
    handlers = MapHandlers(core, authorize)
    # Nobody is asked, and systemd-machined does not take what it describes.
    refused = frozenset({"allowInteractiveAuthentication"})
    found = (*_IDS, may("machineName", STRING))
    return (
        Method("MapFrom", (*lookup, *_IDS), _IDS, handlers.map_from, since=258, refused=refused),
        Method("MapTo", _IDS, found, handlers.map_to, since=258),
    )


class MapHandlers(Handlers):
    """What they do."""

    def map_from(self, call: Call, given: Mapping[str, Any]) -> dict[str, Any]:
        asked = _asked(given)
        machine = self._lookup(call, given)
        if machine.cls is not MachineClass.CONTAINER:
            raise VarlinkError(INTERFACE + "NotSupported")
        result = {}
        for kind, number in asked.items():
            outer = self._core.idmaps.outside(machine, kind, number)
            if outer is None:
                raise _no_such(kind)
            result[kind.value] = outer
        return result

    def map_to(self, call: Call, given: Mapping[str, Any]) -> dict[str, Any]:
        asked = _asked(given)
        for kind, number in asked.items():
            if number < HOST_RANGE:
                raise VarlinkError(
                    INTERFACE + ("UserInHostRange" if kind is Kind.USER else "GroupInHostRange")
                )
        result: dict[str, Any] = {}
        machines: set[Machine] = set()
        for kind, number in asked.items():
            found = self._core.idmaps.inside(kind, number)
            if found is None:
                raise _no_such(kind)
            machines.add(found[0])
            result[kind.value] = found[1]
        if len(machines) != 1:
            # Nothing was asked for, or the user is of one machine and the group of another.
            raise VarlinkError(INTERFACE + "NoSuchMachine")
        return {**result, "machineName": machines.pop().name}


def _asked(given: Mapping[str, Any]) -> dict[Kind, int]:
    """The ids that are asked for, the user first. Raises VarlinkError (InvalidParameter)."""
    for key in given:
        if key in set(Kind) and not is_id(given[key]):
            raise invalid_parameter(key)
    return {kind: given[kind.value] for kind in Kind if kind.value in given}


def _no_such(kind: Kind) -> VarlinkError:
    return VarlinkError(INTERFACE + ("NoSuchUser" if kind is Kind.USER else "NoSuchGroup"))
