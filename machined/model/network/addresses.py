# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which network the managed machines of a host are in, and which address each one has.

Everything follows from the host's machine id and the machine's name, so that it is the same again after
files were lost; what is written down (store.py) only counts more.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from typing import Final

from machined.model.errors import MachineError, Problem

BRIDGE: Final = "machined0"
SUBNET_BITS: Final = 24
Interface = IPv4Interface | IPv6Interface
Taken = Iterable[Interface]


@dataclass(frozen=True, slots=True)
class Plan:
    """The network: its IPv4 subnet, its IPv6 prefix (/64), and the bridge's addresses, the first of each."""

    subnet: IPv4Network
    prefix: IPv6Network
    bridge: str = BRIDGE

    @property
    def gateway(self) -> IPv4Address:
        return self.subnet[1]

    @property
    def gateway6(self) -> IPv6Address:
        return self.prefix[1]

    @property
    def spare(self) -> IPv4Address:
        """For who comes to the bridge and is no machine of ours (networkd.py)."""
        return self.subnet[-2]

    @property
    def interfaces(self) -> tuple[IPv4Interface, IPv6Interface]:
        """Of the bridge."""
        return self.interface(self.gateway), self.interface6(self.gateway6)

    def interface(self, address: IPv4Address) -> IPv4Interface:
        return IPv4Interface(f"{address}/{self.subnet.prefixlen}")

    def interface6(self, address: IPv6Address) -> IPv6Interface:
        return IPv6Interface(f"{address}/{self.prefix.prefixlen}")

    @property
    def mac(self) -> str:
        """Of the bridge: one that is not set changes with every port."""
        return _mac(_digest(b"bridge", self.subnet.network_address.packed))


def _digest(*parts: bytes) -> bytes:
    return hashlib.sha256(b"machined network\0" + b"\0".join(parts)).digest()


def _mac(data: bytes) -> str:
    """A unicast address of those that everybody may make up (the second lowest bit of the first byte)."""
    return bytes([data[0] & 0xFC | 0x02, *data[1:6]]).hex(":")


def machine_mac(machine_id: bytes, name: str) -> str:
    """The hardware address of a machine that says none itself."""
    return _mac(_digest(machine_id, name.encode()))


def own_prefix(machine_id: bytes) -> IPv6Network:
    """The host's unique local prefix (RFC 4193): fd, 40 bits that nobody else has, subnet 0."""
    return IPv6Network((b"\xfd" + _digest(b"prefix", machine_id)[:5] + bytes(10), 64))


def eui64(prefix: IPv6Network, mac: str) -> IPv6Address:
    """What a machine calls itself by the prefix and its hardware address (RFC 4291, appendix A)."""
    raw = bytes.fromhex(mac.replace(":", ""))
    low = bytes([raw[0] ^ 0x02]) + raw[1:3] + b"\xff\xfe" + raw[3:]
    return prefix[int.from_bytes(low, "big")]


def choose_subnet(pool: IPv4Network, machine_id: bytes, taken: Taken) -> IPv4Network:
    """A /24 of the pool that leads nowhere yet. Raises MachineError when there is none."""
    bits = max(SUBNET_BITS, pool.prefixlen)
    count = 2 ** (bits - pool.prefixlen)
    first = int.from_bytes(_digest(b"subnet", machine_id)[:8], "big") % count
    used = [other.network for other in taken]
    for step in range(count):
        number = (first + step) % count
        network = IPv4Network((int(pool.network_address) + (number << (32 - bits)), bits))
        if not any(_overlap(network, other) for other in used):
            return network
    raise MachineError(
        Problem.FAILED,
        f"No network is left for machines: all of {pool} is in use by addresses and routes of this host. "
        f"Name another pool in /etc/machined/network.conf ([Network] Pool=…).",
    )


def _overlap(one: IPv4Network | IPv6Network, other: IPv4Network | IPv6Network) -> bool:
    if isinstance(one, IPv4Network):
        return isinstance(other, IPv4Network) and one.overlaps(other)
    return isinstance(other, IPv6Network) and one.overlaps(other)


def collision(plan: Plan, taken: Taken) -> str:
    """The network of the host that the plan would cut off, "" without one."""
    for other in taken:
        ours = plan.subnet if other.version == 4 else plan.prefix
        if _overlap(ours, other.network):
            return str(other.network)
    return ""


def _candidates(plan: Plan, name: str) -> Iterator[IPv4Address]:
    """The subnet's addresses in the order in which a machine tries them: from one of its own on, around."""
    count = (
        plan.subnet.num_addresses - 4
    )  # not the network's, the bridge's, the last one, the broadcast address
    first = int.from_bytes(_digest(b"address", name.encode())[:8], "big") % count
    for step in range(count):
        yield plan.subnet[2 + (first + step) % count]


def allocate(
    plan: Plan, name: str, leased: Collection[IPv4Address], in_use: Collection[IPv4Address]
) -> IPv4Address:
    """An address for a machine: one that nobody has, or else one whose machine does not run.

    Raises MachineError when all are in use.
    """
    for barred in (leased, in_use):
        for address in _candidates(plan, name):
            if address not in barred:
                return address
    raise MachineError(
        Problem.LIMITS_EXCEEDED,
        f"All addresses of {plan.subnet} are in use by running machines. Stop some, or name a larger "
        f"network in /etc/machined/network.conf ([Network] Subnet=…).",
    )


def place_of(plan: Plan, address: IPv4Interface | IPv6Interface) -> str:
    """Why an address cannot be a machine's, "" when it can."""
    network = plan.subnet if address.version == 4 else plan.prefix
    if address.ip not in network:
        return f"it is outside of the managed network, {plan.subnet} and {plan.prefix}"
    if address.ip in {plan.gateway, plan.gateway6, plan.spare}:
        return "that is the host's own"
    if address.ip in {
        plan.subnet.network_address,
        plan.subnet.broadcast_address,
        plan.prefix.network_address,
    }:
        return "that is no machine's, but the network's"
    if address.network.prefixlen not in {address.max_prefixlen, network.prefixlen}:
        return f"the prefix of that network is /{network.prefixlen}"
    return ""
