# SPDX-License-Identifier: LGPL-2.1-or-later
"""systemd-networkd on the bridge, where it runs: it gives the addresses (DHCP) and is the router (RA).

By a file in /run that it reads when it is told to; the links themselves, ways out and ports are not its
business.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from machined.model.network.addresses import Plan
from machined.model.network.store import Record

UNIT: Final = "systemd-networkd.service"
FILE: Final = Path("/run/systemd/network/10-machined0.network")


INSIDE: Final = "/run/systemd/network/80-container-host0.network"
"""In a machine: instead of the file that systemd-networkd comes with, but not of one of its own."""


def render_inside(plan: Plan, record: Record) -> str:
    """That file: what it would be told by DHCP and RA, without asking.

    It takes addresses away that it knows nothing of, those we have given it among them.
    """
    lines = [
        "# Made by machined.",
        "[Match]",
        "Kind=veth",
        "Name=host0",
        "[Network]",
        f"Address={record.address}/{plan.subnet.prefixlen}",
        f"Address={record.address6}/{plan.prefix.prefixlen}",
        *(f"Gateway={gateway}" for gateway in gateways(plan, record)),
        *(f"DNS={server}" for server in servers(plan, record)),
        "LinkLocalAddressing=yes",
        "IPv6DuplicateAddressDetection=0",
        "LLDP=yes",
        "EmitLLDP=customer-bridge",
        "",
    ]
    return "\n".join(lines)


def gateways(plan: Plan, record: Record) -> list[str]:
    """A machine's ways out, one for each kind of address."""
    usual = (str(plan.gateway), str(plan.gateway6))
    return list({":" in address: address for address in (*usual, *record.gateways)}.values())


def servers(plan: Plan, record: Record) -> list[str]:
    """Who answers for names."""
    return list(record.dns or (str(plan.gateway), str(plan.gateway6)))


def render(plan: Plan, records: Iterable[Record], *, names: bool) -> str:
    """The file. `names`: somebody answers for names on the bridge."""
    lines = [
        "# Made by machined, and gone with the last machine of the managed network.",
        "[Match]",
        f"Name={plan.bridge}",
        "[Link]",
        "RequiredForOnline=no",
        "[Network]",
        *(f"Address={interface}" for interface in plan.interfaces),
        "ConfigureWithoutCarrier=yes",
        "KeepConfiguration=static",
        "LinkLocalAddressing=ipv6",
        "IPv6AcceptRA=no",
        "IPv6DuplicateAddressDetection=0",
        "DHCPServer=yes",
        "IPv6SendRA=yes",
        "[DHCPServer]",
        # The pool is one address (Plan.spare): the others are reserved, below.
        f"PoolOffset={plan.subnet.num_addresses - 2}",
        "PoolSize=1",
        "DefaultLeaseTimeSec=12h",
        *([f"DNS={plan.gateway}"] if names else []),
        "[IPv6SendRA]",
        *([f"DNS={plan.gateway6}"] if names else []),
        "[IPv6Prefix]",
        f"Prefix={plan.prefix}",
    ]
    for record in records:
        lines += ["[DHCPServerStaticLease]", f"MACAddress={record.mac}", f"Address={record.address}"]
    return "\n".join([*lines, ""])
