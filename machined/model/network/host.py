# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the managed network takes on this host: a bridge, switches of the kernel, rules; taken and given
back.

All of it follows from the records (store.py), so that it can be made again, or taken away, by whoever comes
after a crash. Everything blocks: call it in a thread.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_interface
from pathlib import Path
from typing import Any, Final

from machined.linux import commands, links, nft, sysctl
from machined.linux.locks import FileLock, holder_conflict
from machined.model.network import dnsmasq, firewall, networkd, ruleset, store
from machined.model.network.addresses import Plan
from machined.model.network.firewall import Barrier
from machined.model.network.store import Record

log = logging.getLogger(__name__)

INSIDE: Final = "host0"
LOCK: Final = Path("/run/machined/network.lock")
"""Held by a daemon that manages a network, for as long as it lives: nobody else cleans up then."""
_FORWARDING: Final = (("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1"))


def hold() -> FileLock:
    LOCK.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    return FileLock.acquire(os.fspath(LOCK), nonblocking=False)


def plan_in_force() -> Plan | None:
    """The network that is there now, None without one."""
    taken = store.taken()
    try:
        return Plan(IPv4Network(taken["subnet"]), IPv6Network(taken["prefix"])) if taken else None
    except (KeyError, ValueError):
        return None


def set_up(plan: Plan, server: str) -> None:
    """The bridge, and a kernel that forwards. `server` is who gives addresses. OSError."""
    taken = store.taken() or {"subnet": str(plan.subnet), "prefix": str(plan.prefix), "switches": {}}
    taken["server"] = server
    store.take(taken)
    if not links.exists(plan.bridge):
        links.make_bridge(plan.bridge, plan.mac, plan.interfaces)
    _forward(taken)
    # Packets of 127.0.0.1 may leave by the bridge (ruleset.py), and only there.
    sysctl.write(f"ipv4/conf/{plan.bridge}/route_localnet", "1")


def _forward(taken: dict[str, Any]) -> None:
    """Have the kernel forward, and remember what it did before."""
    switches: dict[str, str] = taken["switches"]
    wanted = list(_FORWARDING)
    with contextlib.suppress(FileNotFoundError):
        if sysctl.read("ipv6/conf/all/forwarding") == "0":
            # A host that forwards hears no router any more, and forgets its way out, unless told to hear.
            names = [f"ipv6/conf/{name}/accept_ra" for name in sysctl.interfaces("ipv6")]
            wanted[:0] = [(name, "2") for name in names if sysctl.read(name) == "1"]
    for name, value in wanted:
        try:
            before = sysctl.read(name)
            if before != value:
                switches.setdefault(name, before)
                store.take(taken)
                sysctl.write(name, value)
        except FileNotFoundError:
            log.debug("The kernel has no switch '%s'", name)


def server() -> str:
    """Who gives addresses in the network that is there."""
    return str((store.taken() or {}).get("server", ""))


def apply(plan: Plan, records: Sequence[Record], *, open_firewall: bool) -> list[str]:
    """Rules and tables for these machines; returns what stands in their way. OSError."""
    nft.apply(ruleset.render(plan, records))
    directory = dnsmasq.directory()
    directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    for name, text in dnsmasq.tables(plan, records).items():
        (directory / name).write_text(text, encoding="utf-8")
    return _pass_firewalls(plan, open_firewall)


def _pass_firewalls(plan: Plan, open_firewall: bool) -> list[str]:
    rules = nft.ruleset()
    barriers = firewall.find(rules)
    ours = [barrier for barrier in barriers if open_firewall and not barrier.owned]
    closing = firewall.closing(rules)
    try:
        # Both at once: what flows goes on.
        nft.apply([*closing, *firewall.opening(ours, plan.bridge)])
    except OSError as error:
        log.debug("Cannot add rules to all of the firewall at once: %s", error)
        nft.apply(closing)
        ours = [barrier for barrier in ours if _open(barrier, plan)]
    return [firewall.advice(barrier, plan.bridge) for barrier in barriers if barrier not in ours]


def _open(barrier: Barrier, plan: Plan) -> bool:
    try:
        nft.apply(firewall.opening([barrier], plan.bridge))
    except OSError as error:
        log.debug("Cannot add rules to '%s': %s", barrier.name, error)
        return False
    return True


def write_networkd(plan: Plan, records: Sequence[Record], *, names: bool) -> None:
    """Tell systemd-networkd of these machines. OSError."""
    text = networkd.render(plan, records, names=names)
    networkd.FILE.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    if networkd.FILE.exists() and networkd.FILE.read_text(encoding="utf-8") == text:
        return
    networkd.FILE.write_text(text, encoding="utf-8")
    commands.run("networkctl", "reload")


def set_up_links(record: Record, namespace: int) -> None:
    """Of a machine, in the network namespace of this descriptor. OSError."""
    plan = plan_in_force()
    if plan is None:
        return
    own = plan.interface(IPv4Address(record.address)), plan.interface6(IPv6Address(record.address6))
    links.give(namespace, INSIDE, own, networkd.gateways(plan, record))
    for nic in record.nics:
        if nic.bridge:
            links.attach(nic.outside, nic.bridge, nic.vlan)
        links.give(namespace, nic.inside, map(ip_interface, nic.addresses), (), nic.mac)


def tear_down() -> None:
    """Give everything back, and go on where something cannot be."""
    taken = store.taken() or {}
    plan = plan_in_force()

    def rules() -> None:
        nft.apply([*ruleset.removal(), *firewall.closing(nft.ruleset())])

    def link() -> None:
        if plan is not None and links.exists(plan.bridge):
            links.remove(plan.bridge)

    def switches() -> None:
        for name, before in dict(taken.get("switches", {})).items():
            ours = "2" if name.endswith("accept_ra") else "1"
            with contextlib.suppress(FileNotFoundError):
                if sysctl.read(name) == ours:
                    sysctl.write(name, before)

    def network_file() -> None:
        if networkd.FILE.exists():
            networkd.FILE.unlink()
            commands.run("networkctl", "reload")

    for step in (rules, link, switches, network_file, _remove_tables):
        _try(step)
    store.forget_taken()


def _remove_tables() -> None:
    directory = dnsmasq.directory()
    if directory.exists():
        for path in directory.iterdir():
            path.unlink()
        directory.rmdir()


def _try(step: Callable[[], None]) -> None:
    try:
        step()
    except OSError as error:
        log.warning(
            "Cannot take the managed network away (%s), ignoring: %s", step.__name__.strip("_"), error
        )


def take_away(name: str) -> list[str]:
    """Without the daemon: what a machine that is over had; returns the units that are to be stopped.

    With one that lives it is left to that.
    """
    record = store.read(name)
    if record is None or holder_conflict(os.fspath(LOCK)):
        return []
    with hold():
        store.forget(name)
        units = [f"machined-port-{p.protocol}-{p.host}.socket" for p in record.ports if p.protocol == "tcp"]
        units += [unit.replace(".socket", ".service") for unit in units]
        rest, plan = store.records(), plan_in_force()
        if rest and plan is not None:
            _try(lambda: nft.apply(ruleset.render(plan, rest)))
            return units
        tear_down()
        return [*units, dnsmasq.UNIT]
