# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a machine is to have of the managed network, by its settings; nothing is changed by finding that out.

It looks at the host's routes and files and so blocks: call it in a thread.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv6Interface
from pathlib import Path
from typing import Final

from machined.linux import links
from machined.model.configured import check
from machined.model.errors import MachineError, Problem
from machined.model.network import addresses, configuration, host, store
from machined.model.network.addresses import Plan
from machined.model.network.configuration import FILE, Configuration
from machined.model.network.ports import Port, check_free
from machined.model.network.store import Leases, Nic, Record
from machined.model.settings import managed
from machined.model.settings.layers import Finding, Severity
from machined.model.settings.merge import Effective, Value
from machined.model.settings.section_managed import interface_of

MACHINE_ID: Final = Path("/etc/machine-id")


@dataclass(frozen=True, slots=True)
class Draft:
    """What would be written down for a machine."""

    plan: Plan
    record: Record
    leases: Leases
    configuration: Configuration


def machine_id() -> bytes:
    try:
        return bytes.fromhex(MACHINE_ID.read_text(encoding="ascii").strip())
    except (OSError, ValueError):
        return b""


def make(name: str, settings: Effective, others: Sequence[Record]) -> Draft:
    """`others` are the machines that have some of the network now. Raises MachineError, OSError."""
    said = configuration.load()
    leases = store.load_leases()
    plan = _plan(said, leases)
    leases.plan = plan
    leases.addresses = {n: a for n, a in leases.addresses.items() if a in plan.subnet}
    fixed = _fixed(name, settings, plan, others)
    in_use = {IPv4Address(other.address): other.machine for other in others if other.machine != name}
    address = _address(name, plan, leases, fixed, in_use)
    leases.addresses = {n: a for n, a in leases.addresses.items() if a != address} | {name: address}
    mac = settings.get("Network", "MACAddress") or addresses.machine_mac(machine_id(), name)
    address6 = fixed[6].ip if 6 in fixed else addresses.eui64(plan.prefix, mac)
    _check_double(name, settings, others, mac, str(address6))
    record = Record(
        name,
        mac,
        str(address),
        str(address6),
        gateways=tuple(value.text for value in settings.all("Network", "Gateway")),
        dns=tuple(value.text for value in settings.all("Network", "DNS")),
        ports=tuple(_ports(name, settings, others)),
        nics=tuple(_nics(name, settings)),
    )
    return Draft(plan, record, leases, said)


def _refuse(name: str, value: Value | None, text: str) -> None:
    check(name, [Finding(Severity.ERROR, value.place if value else None, text)])


def _plan(said: Configuration, leases: Leases) -> Plan:
    if (now := host.plan_in_force()) is not None:
        return now
    used = [u.network for u in links.used_networks() if u.link != addresses.BRIDGE]
    prefix = said.subnet6 or addresses.own_prefix(machine_id())
    before = leases.plan.subnet if leases.plan is not None else None
    if said.subnet is not None:
        plan = Plan(said.subnet, prefix)
        if other := addresses.collision(plan, used):
            raise MachineError(
                Problem.INVALID_SETTINGS,
                f"{FILE}: the networks {plan.subnet} and {plan.prefix} cannot be those of machines: this "
                f"host has {other} already.",
            )
        return plan
    if (
        before is not None
        and before.subnet_of(said.pool)
        and not addresses.collision(Plan(before, prefix), used)
    ):
        return Plan(before, prefix)
    return Plan(addresses.choose_subnet(said.pool, machine_id(), used), prefix)


def _fixed(
    name: str, settings: Effective, plan: Plan, others: Sequence[Record]
) -> dict[int, IPv4Interface | IPv6Interface]:
    found: dict[int, IPv4Interface | IPv6Interface] = {}
    for value in settings.all("Network", "Address"):
        address, said = interface_of(value.text), f"[Network] Address={value.text}"
        if why := addresses.place_of(plan, address):
            _refuse(name, value, f"{said}: {why}.")
        if address.version in found:
            _refuse(
                name,
                value,
                f"{said}: one IPv{address.version} address, and {found[address.version].ip} is it.",
            )
        for other in others:
            if other.machine != name and str(address.ip) in {other.address, other.address6}:
                _refuse(name, value, f"{said}: machine '{other.machine}' has it, and runs.")
        found[address.version] = address
    return found


def _address(
    name: str,
    plan: Plan,
    leases: Leases,
    fixed: dict[int, IPv4Interface | IPv6Interface],
    in_use: dict[IPv4Address, str],
) -> IPv4Address:
    if 4 in fixed:
        return IPv4Address(str(fixed[4].ip))
    leased = leases.addresses.get(name)
    if leased is not None and leased not in in_use and not addresses.place_of(plan, plan.interface(leased)):
        return leased
    return addresses.allocate(plan, name, set(leases.addresses.values()) | set(in_use), set(in_use))


def _check_double(name: str, settings: Effective, others: Sequence[Record], mac: str, address6: str) -> None:
    values = settings.all("Network", "MACAddress")
    for other in others:
        if other.machine != name and (other.mac == mac or other.address6 == address6):
            what = f"[Network] MACAddress={mac}" if other.mac == mac else address6
            _refuse(
                name, values[-1] if values else None, f"{what}: machine '{other.machine}' has it, and runs."
            )


def _ports(name: str, settings: Effective, others: Sequence[Record]) -> Iterator[Port]:
    published = [(o.machine, port) for o in others if o.machine != name for port in o.ports]
    for value in settings.all("Network", "Port"):
        port = Port.parse(value.text)
        try:
            check_free(port, published, f"[Network] Port={value.text}")
        except MachineError as error:
            _refuse(name, value, error.text)
        yield port


def _nics(name: str, settings: Effective) -> Iterator[Nic]:
    values = settings.all("Network", "Link")
    for value, link in zip(values, managed.links(settings), strict=True):
        if link.bridge and not links.exists(link.bridge):
            _refuse(
                name, value,
                f"[Network] Link={value.text}: this host has no bridge '{link.bridge}'. Make it first: "
                f"ip link add {link.bridge} type bridge; ip link set {link.bridge} up",
            )  # fmt: skip
        outside = "vl-" + hashlib.sha256(f"{name}\0{link.name}".encode()).hexdigest()[:12]
        yield Nic(link.name, outside, link.bridge, link.vlan, link.mac, link.addresses)


Drafter = Callable[[str, Effective, Sequence[Record]], Draft]
