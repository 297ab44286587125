# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is known of the network when the daemon is not there.

On disk, for good: the network and the addresses that machines have had. In /run, while a machine is up: what
it has, one file each, and what the network took on this host, to be given back with the last of them.
"""

from __future__ import annotations

import json
import logging
import os
from dataclasses import asdict, dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from pathlib import Path
from typing import Any, Final

from machined.model.names import is_machine_name
from machined.model.network.addresses import Plan
from machined.model.network.ports import Port

log = logging.getLogger(__name__)

STATE: Final = Path("/var/lib/machined")
RUNTIME: Final = Path("/run/machined/network")
_LEASES: Final = "network.json"
_RECORD: Final = ".machine"
_TAKEN: Final = "taken.json"
FILES: Final = (".resolv", ".network")
"""What a machine sees of ours, beside its record."""


@dataclass(frozen=True, slots=True)
class Nic:
    """One more interface of a machine: its name there and here, and what becomes of it."""

    inside: str
    outside: str
    bridge: str = ""
    vlan: int = 0
    mac: str = ""
    addresses: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Record:
    """What a machine has of the network while its unit is up."""

    machine: str
    mac: str
    address: str
    address6: str
    gateways: tuple[str, ...] = ()
    """Its default routes, where they are not this host."""
    dns: tuple[str, ...] = ()
    ports: tuple[Port, ...] = ()
    nics: tuple[Nic, ...] = ()


@dataclass(slots=True)
class Leases:
    """The network, and the IPv4 address that each machine has had last."""

    plan: Plan | None = None
    addresses: dict[str, IPv4Address] = field(default_factory=dict)


def _write(path: Path, value: object) -> None:
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.new")
    partial.write_text(json.dumps(value, indent=1), encoding="utf-8")
    partial.replace(path)


def _read(path: Path) -> Any:
    """None where there is nothing that can be read: all of it can be found anew."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        log.warning("Cannot read '%s', ignoring: %s", path, error)
        return None


def load_leases() -> Leases:
    try:
        told = _read(STATE / _LEASES) or {}
        plan = Plan(IPv4Network(told["subnet"]), IPv6Network(told["prefix"])) if "subnet" in told else None
        addresses = {str(name): IPv4Address(text) for name, text in told.get("addresses", {}).items()}
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        log.warning("'%s' makes no sense, ignoring it: %s", STATE / _LEASES, error)
        return Leases()
    return Leases(plan, addresses)


def save_leases(leases: Leases) -> None:
    """OSError."""
    assert leases.plan is not None
    _write(
        STATE / _LEASES,
        {
            "subnet": str(leases.plan.subnet),
            "prefix": str(leases.plan.prefix),
            "addresses": {name: str(address) for name, address in sorted(leases.addresses.items())},
        },
    )


def write(record: Record) -> None:
    """OSError."""
    _write(RUNTIME / f"{record.machine}{_RECORD}", asdict(record))


def read(name: str) -> Record | None:
    told = _read(RUNTIME / f"{name}{_RECORD}")
    try:
        return None if told is None else _record(told)
    except (TypeError, KeyError, ValueError) as error:
        log.warning("The network record of machine '%s' makes no sense, ignoring: %s", name, error)
        return None


def _record(told: Any) -> Record:
    return Record(
        machine=str(told["machine"]),
        mac=str(told["mac"]),
        address=str(told["address"]),
        address6=str(told["address6"]),
        gateways=tuple(told["gateways"]),
        dns=tuple(told["dns"]),
        ports=tuple(Port(**row) for row in told["ports"]),
        nics=tuple(Nic(**{**row, "addresses": tuple(row["addresses"])}) for row in told["nics"]),
    )


def forget(name: str) -> None:
    """A machine that is over. The record goes first: without it the rest is nobody's."""
    for kind in (_RECORD, *FILES):
        (RUNTIME / f"{name}{kind}").unlink(missing_ok=True)


def records() -> list[Record]:
    """Of all machines that have some of the network."""
    try:
        entries = sorted(os.listdir(RUNTIME))
    except OSError:
        return []
    names = [entry.removesuffix(_RECORD) for entry in entries if entry.endswith(_RECORD)]
    return [record for name in names if is_machine_name(name) and (record := read(name)) is not None]


def take(what: dict[str, Any]) -> None:
    """Note what the network takes on this host, before it does. OSError."""
    _write(RUNTIME / _TAKEN, what)


def taken() -> dict[str, Any] | None:
    """What it has taken, None when it has taken nothing."""
    path = RUNTIME / _TAKEN
    if not path.exists():
        return None
    told = _read(path)
    return told if isinstance(told, dict) else {}


def forget_taken() -> None:
    """All has been given back."""
    for path in (*RUNTIME.glob("*"), *RUNTIME.glob(".*.new")):
        path.unlink(missing_ok=True)
    try:
        RUNTIME.rmdir()
    except OSError:
        log.debug("%s stays", RUNTIME)
