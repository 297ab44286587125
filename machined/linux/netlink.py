# SPDX-License-Identifier: LGPL-2.1-or-later
"""Network addresses, of our own network namespace or of the one a given route socket belongs to."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from machined.linux import rtdump

# <linux/if_addr.h>, <linux/rtnetlink.h>
IFA_F_DADFAILED = 0x08
IFA_F_DEPRECATED = 0x20
IFA_F_TENTATIVE = 0x40
RT_SCOPE_UNIVERSE = 0
RT_SCOPE_LINK = 253
RT_SCOPE_HOST = 254
RT_SCOPE_NOWHERE = 255
RTMGRP_LINK = 0x1
RTMGRP_IPV4_IFADDR = 0x10
RTMGRP_IPV6_IFADDR = 0x100

_LENGTH: dict[int, int] = {socket.AF_INET: 4, socket.AF_INET6: 16}


@dataclass(frozen=True, slots=True)
class Address:
    """One address of one interface."""

    family: int
    """AF_INET (2) or AF_INET6 (10)."""
    address: bytes
    """4 or 16 bytes."""
    ifindex: int
    scope: int
    flags: int
    prefixlen: int

    def local(self) -> bool:
        """Whether nobody outside of this host can use it (loopback)."""
        return self.scope in (RT_SCOPE_HOST, RT_SCOPE_NOWHERE)

    def settled(self) -> bool:
        """Whether new connections may use it: not deprecated, not still (or unsuccessfully) probed."""
        return not self.flags & (IFA_F_DEPRECATED | IFA_F_TENTATIVE | IFA_F_DADFAILED)


def open_route_socket() -> socket.socket:
    """A NETLINK_ROUTE socket of our network namespace. SOCK_DGRAM, since asyncio refuses SOCK_RAW."""
    return socket.socket(rtdump.AF_NETLINK, socket.SOCK_DGRAM, rtdump.NETLINK_ROUTE)


def addresses(sock: socket.socket | None = None) -> list[Address]:
    """All addresses, unfiltered and in the kernel's order; of sock's network namespace if one is given.

    sock should not be one that is subscribed to changes: what arrives in between would be lost.
    """
    if sock is not None:
        return [Address(*row) for row in rtdump.dump(sock)]
    with open_route_socket() as own:
        return [Address(*row) for row in rtdump.dump(own)]


def decode(rows: Iterable[Mapping[str, Any]]) -> list[Address]:
    """The addresses in the namespace helper's answer to 'addresses' or 'metadata'.

    ValueError if it is none.
    """
    try:
        found = [Address(**{**row, "address": bytes.fromhex(row["address"])}) for row in rows]
    except (KeyError, TypeError) as error:
        raise ValueError(f"this is no list of addresses: {error}") from None
    for address in found:
        if len(address.address) != _LENGTH.get(address.family):
            raise ValueError(f"'{address}' is no IPv4 or IPv6 address")
    return found


def usable(found: Iterable[Address]) -> list[Address]:
    """What others can reach us by: IPv4 first, then by scope, interface and bytes; no doubles."""
    chosen = {(a.family, a.ifindex, a.address): a for a in found if a.settled() and not a.local()}
    return sorted(chosen.values(), key=lambda a: (a.family, a.scope, a.ifindex, a.address))


def text(address: Address) -> str:
    """As people write it: "192.0.2.1", "2001:db8::1"."""
    return socket.inet_ntop(address.family, address.address)
