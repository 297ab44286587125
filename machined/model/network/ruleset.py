# SPDX-License-Identifier: LGPL-2.1-or-later
"""The rules of the managed network, as nft's JSON: one table of ours, made anew as a whole each time.

- What leaves the network has the host's address.
- A published port of any address of the host leads to the machine, for others, the host itself (output) and
  other machines. From 127.0.0.1 as well: the kernel sends such packets out of the bridge (route_localnet),
  with the bridge's address; what machines send to 127/8 in turn is dropped before anything sees it. IPv6 has
  no such switch: [::1] is served by a proxy (proxies.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from machined.linux.nft import Command
from machined.model.network.addresses import Plan
from machined.model.network.ports import Port
from machined.model.network.store import Record

TABLE: Final = "machined"
_FAMILY: Final = "inet"
# hook, type, priority: names of priorities differ between hooks, numbers do not (nft(8)).
_CHAINS: Final = (
    ("guard", "filter", "prerouting", -300),
    ("prerouting", "nat", "prerouting", -100),
    ("output", "nat", "output", -100),
    ("postrouting", "nat", "postrouting", 100),
    ("forward", "filter", "forward", 0),
    ("input", "filter", "input", 0),
)
Expression = dict[str, Any]


def _match(left: Expression, right: Any, operator: str = "==") -> Expression:
    return {"match": {"op": operator, "left": left, "right": right}}


def meta(key: str, value: str, operator: str = "==") -> Expression:
    return _match({"meta": {"key": key}}, value, operator)


def _field(protocol: str, name: str, value: Any, operator: str = "==") -> Expression:
    return _match({"payload": {"protocol": protocol, "field": name}}, value, operator)


def _prefix(network: Any) -> Expression:
    return {"prefix": {"addr": str(network.network_address), "len": network.prefixlen}}


def _rule(chain: str, *expressions: Expression) -> Command:
    return {"add": {"rule": {"family": _FAMILY, "table": TABLE, "chain": chain, "expr": list(expressions)}}}


_ACCEPT: Final[Expression] = {"accept": None}
_DROP: Final[Expression] = {"drop": None}
_MASQUERADE: Final[Expression] = {"masquerade": None}
_LOOPBACK: Final = {"prefix": {"addr": "127.0.0.0", "len": 8}}
_DNAT: Final = _match({"ct": {"key": "status"}}, "dnat", "in")


def removal() -> list[Command]:
    """Takes the table away, whether it is there or not."""
    table = {"table": {"family": _FAMILY, "name": TABLE}}
    return [{"add": table}, {"delete": table}]


def render(plan: Plan, records: Iterable[Record]) -> list[Command]:
    """All of the table, in place of the one before."""
    commands = [*removal(), {"add": {"table": {"family": _FAMILY, "name": TABLE}}}]
    for name, kind, hook, priority in _CHAINS:
        chain = {"family": _FAMILY, "table": TABLE, "name": name, "type": kind, "hook": hook}
        commands.append({"add": {"chain": {**chain, "prio": priority, "policy": "accept"}}})
    bridge = plan.bridge
    commands += [
        _rule("guard", meta("iifname", bridge), _field("ip", "daddr", _LOOPBACK), _DROP),
        _rule("guard", meta("iifname", bridge), _field("ip", "saddr", _LOOPBACK), _DROP),
        _rule("postrouting", _field("ip", "saddr", _LOOPBACK), meta("oifname", bridge), _MASQUERADE),
    ]
    for protocol, network in (("ip", plan.subnet), ("ip6", plan.prefix)):
        ours = _field(protocol, "saddr", _prefix(network))
        commands += [
            _rule("postrouting", ours, meta("oifname", bridge, "!="), _MASQUERADE),
            # To a published port of the host, by a machine: the answer has to come back through the host.
            _rule("postrouting", ours, meta("oifname", bridge), _DNAT, _MASQUERADE),
        ]
    commands += [
        _rule("forward", meta("iifname", bridge), _ACCEPT),
        _rule("forward", meta("oifname", bridge), _ACCEPT),
    ]
    for record in records:
        for port in record.ports:
            commands += _published(record, port)
    return commands


def _published(record: Record, port: Port) -> list[Command]:
    local = _match({"fib": {"result": "type", "flags": ["daddr"]}}, "local")
    here = _field(port.protocol, "dport", port.host)
    commands = []
    for chain in ("prerouting", "output"):
        for family, address in (("ip", record.address), ("ip6", record.address6)):
            target: Expression = {"dnat": {"family": family, "addr": address, "port": port.machine}}
            of_family = meta("nfproto", "ipv4" if family == "ip" else "ipv6")
            not_lo = [_field("ip6", "daddr", "::1", "!=")] if chain == "output" and family == "ip6" else []
            commands.append(_rule(chain, of_family, *not_lo, local, here, target))
    return commands
