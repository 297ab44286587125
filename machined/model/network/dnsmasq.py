# SPDX-License-Identifier: LGPL-2.1-or-later
"""dnsmasq on the bridge: addresses and routers (DHCP, RA) unless somebody else gives them, and names (DNS).

It gives each machine the address that we chose, and no other. Its tables are files that it reads again on
SIGHUP.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from machined.linux import sysctl
from machined.model.network import store
from machined.model.network.addresses import Plan
from machined.model.network.store import Record
from machined.model.ports import UnitProperty

UNIT: Final = "machined-dnsmasq.service"
PACKAGE: Final = "dnsmasq-base on Debian, dnsmasq elsewhere"
_LEASE: Final = "12h"
_SEARCHED: Final = "/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"
_PRIVATE: Final = "machined-dnsmasq"  # in /run, its own


def program() -> str | None:
    return shutil.which("dnsmasq", path=_SEARCHED)


def directory() -> Path:
    return store.RUNTIME / "dnsmasq"


def tables(plan: Plan, records: Iterable[Record]) -> dict[str, str]:
    """Its files: names, reserved addresses, and what machines are told that is not as with others."""
    hosts, reserved, options = [], [], []
    for record in records:
        tag = "m" + record.mac.replace(":", "")
        hosts.append(f"{record.address} {record.machine}\n{record.address6} {record.machine}\n")
        reserved.append(f"{record.mac},set:{tag},{record.address},{record.machine},{_LEASE}\n")
        routers = [g for g in record.gateways if ":" not in g]
        if routers:
            options.append(f"tag:{tag},option:router,{','.join(routers)}\n")
        servers = [s for s in record.dns if ":" not in s]
        if servers:
            options.append(f"tag:{tag},option:dns-server,{','.join(servers)}\n")
    return {"hosts": "".join(hosts), "reserved": "".join(reserved), "options": "".join(options)}


def command_line(path: str, plan: Plan, *, dhcp: bool, ipv6: bool = True) -> list[str]:
    """`dhcp`: it gives addresses as well; `ipv6`: the host has it."""
    files = os.fspath(directory())
    words = [
        path,
        "--conf-file=/dev/null",
        f"--pid-file=/run/{_PRIVATE}/pid",
        f"--interface={plan.bridge}",
        "--bind-interfaces",
        "--except-interface=lo",
        "--no-hosts",
        f"--addn-hosts={files}/hosts",
        "--domain-needed",
        "--localise-queries",
        "--cache-size=1000",
    ]
    if dhcp:
        words += [
            f"--dhcp-range={plan.subnet.network_address},static,{plan.subnet.netmask},{_LEASE}",
            "--dhcp-authoritative",
            "--no-ping",
            f"--dhcp-hostsfile={files}/reserved",
            f"--dhcp-optsfile={files}/options",
            f"--dhcp-leasefile=/run/{_PRIVATE}/leases",
        ]
    if dhcp and ipv6:
        range6 = f"{plan.prefix.network_address},ra-only,{plan.prefix.prefixlen},{_LEASE}"
        words += [f"--dhcp-range={range6}", "--enable-ra"]
    return words


def properties(path: str, plan: Plan, *, dhcp: bool) -> list[UnitProperty]:
    """Its unit: no user of the host, no more than the network."""
    argv = command_line(path, plan, dhcp=dhcp, ipv6=sysctl.has_ipv6())
    capabilities = sum(1 << number for number in (10, 12, 13))  # NET_BIND_SERVICE, NET_ADMIN, NET_RAW
    return [
        UnitProperty("Description", "s", f"Addresses and names of machines on {plan.bridge} (machined)"),
        UnitProperty("Type", "s", "forking"),
        UnitProperty("PIDFile", "s", f"/run/{_PRIVATE}/pid"),
        UnitProperty("ExecStart", "a(sasb)", [[path, argv, False]]),
        UnitProperty("Restart", "s", "on-failure"),
        UnitProperty("DynamicUser", "b", True),
        UnitProperty("RuntimeDirectory", "as", [_PRIVATE]),
        UnitProperty("AmbientCapabilities", "t", capabilities),
        UnitProperty("CapabilityBoundingSet", "t", capabilities),
        UnitProperty("ProtectHome", "s", "yes"),
        UnitProperty("CollectMode", "s", "inactive-or-failed"),
    ]
