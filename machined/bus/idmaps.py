# SPDX-License-Identifier: LGPL-2.1-or-later
"""MapFrom/MapToMachineUser and …Group of org.freedesktop.machine1.Manager."""

from __future__ import annotations

from machined.bus.call import Call
from machined.bus.names import machine_path
from machined.model.core import Core
from machined.model.errors import invalid
from machined.model.idmaps import HOST_RANGE, Kind, check_container, is_id, no_group, no_user


def from_user(call: Call, core: Core, name: str, uid: int) -> int:
    return _from(core, Kind.USER, name, uid)


def from_group(call: Call, core: Core, name: str, gid: int) -> int:
    return _from(core, Kind.GROUP, name, gid)


def to_user(call: Call, core: Core, uid: int) -> tuple[str, str, int]:
    return _to(core, Kind.USER, uid)


def to_group(call: Call, core: Core, gid: int) -> tuple[str, str, int]:
    return _to(core, Kind.GROUP, gid)


def _word(kind: Kind) -> str:
    return "user" if kind is Kind.USER else "group"


def _from(core: Core, kind: Kind, name: str, inner: int) -> int:
    _check_id(kind, inner)
    machine = core.registry.find(name)
    check_container(machine)
    outer = core.idmaps.outside(machine, kind, inner)
    if outer is None:
        # Also for groups: clients of systemd-machined know no other error here.
        raise no_user(f"Machine '{name}' has no matching {_word(kind)} mappings.")
    return outer


def _to(core: Core, kind: Kind, outer: int) -> tuple[str, str, int]:
    _check_id(kind, outer)
    missing = no_user if kind is Kind.USER else no_group
    if outer < HOST_RANGE:
        raise missing(f"{_word(kind).title()} {outer} belongs to host {kind.upper()} range")
    found = core.idmaps.inside(kind, outer)
    if found is None:
        raise missing(f"No matching {_word(kind)} mapping for {outer}.")
    machine, inner = found
    return machine.name, machine_path(machine.name), inner


def _check_id(kind: Kind, number: int) -> None:
    if not is_id(number):
        raise invalid(f"Invalid {_word(kind)} ID {number}")
