# SPDX-License-Identifier: LGPL-2.1-or-later
"""Firewalls that drop what the managed network needs, found among the rules of the host, and what to do.

An accept of ours in our own table ends nothing: each table has its say, and one drop is enough. So rules for
the bridge, and for nothing else, are put at the head of the chain that drops, marked by a comment; they go
with the last machine. Where that is not ours to do (a table that belongs to a daemon, network.conf's
Firewall=no) the rule to add is named. Docker has a chain for such rules, DOCKER-USER.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from machined.linux.nft import Command
from machined.model.network.ruleset import TABLE, Expression, meta

COMMENT: Final = "machined"
_HOOKS: Final = ("forward", "input")
_FAMILIES: Final = ("inet", "ip", "ip6")
_DOCKER: Final = "DOCKER-USER"
# What machines ask of the host: DHCP, names, and the neighbours and routers of IPv6.
_UDP: Final = (53, 67)


@dataclass(frozen=True, slots=True)
class Barrier:
    """A chain in which packets of machines come to an end."""

    family: str
    table: str
    chain: str
    hook: str
    why: str
    owned: bool
    """By a program that keeps others out of its table."""

    @property
    def name(self) -> str:
        return f"{self.family} {self.table} {self.chain}"


def find(ruleset: Iterable[Command]) -> list[Barrier]:
    """The chains at the hooks that machines' packets pass, with a policy of drop or a drop at their end."""
    rows = list(ruleset)
    tables = {(t["family"], t["name"]): t for row in rows if (t := row.get("table"))}
    chains = [c for row in rows if (c := row.get("chain"))]
    rules = [r for row in rows if (r := row.get("rule"))]
    names = {(c["family"], c["table"], c["name"]) for c in chains}
    found = []
    for chain in chains:
        family, table, name = chain["family"], chain["table"], chain["name"]
        if chain.get("hook") not in _HOOKS or family not in _FAMILIES or (family, table) == ("inet", TABLE):
            continue
        own = [r for r in rules if (r["family"], r["table"], r["chain"]) == (family, table, name)]
        why = "its policy is drop" if chain.get("policy") == "drop" else _last_word(own)
        if not why:
            continue
        if chain["hook"] == "forward" and (family, table, _DOCKER) in names:
            name = _DOCKER
        owned = "owner" in _flags(tables.get((family, table), {})) or table == "firewalld"
        found.append(Barrier(family, table, name, chain["hook"], why, owned))
    return found


def _flags(table: dict[str, Any]) -> list[str]:
    flags = table.get("flags", [])
    return [flags] if isinstance(flags, str) else list(flags)


def _last_word(rules: list[dict[str, Any]]) -> str:
    """What the last rule does to all that comes so far."""
    expressions = [e for e in (rules[-1].get("expr", []) if rules else []) if "counter" not in e]
    if len(expressions) == 1 and ("drop" in expressions[0] or "reject" in expressions[0]):
        return f"its last rule is {next(iter(expressions[0]))}"
    return ""


def _needed(hook: str, bridge: str, family: str) -> Iterator[list[Expression]]:
    if hook == "forward":
        yield [meta("iifname", bridge)]
        yield [meta("oifname", bridge)]
        return
    for port in _UDP:
        yield [meta("iifname", bridge), _dport("udp", port)]
    yield [meta("iifname", bridge), _dport("tcp", 53)]
    if family != "ip":
        yield [meta("iifname", bridge), meta("l4proto", "ipv6-icmp")]


def _dport(protocol: str, port: int) -> Expression:
    left = {"payload": {"protocol": protocol, "field": "dport"}}
    return {"match": {"op": "==", "left": left, "right": port}}


def opening(barriers: Iterable[Barrier], bridge: str) -> list[Command]:
    """Lets the bridge's packets through those that are nobody's own."""
    return [
        {
            "insert": {
                "rule": {
                    "family": barrier.family, "table": barrier.table, "chain": barrier.chain,
                    "comment": COMMENT, "expr": [*match, {"counter": None}, {"accept": None}],
                }
            }
        }
        for barrier in barriers
        if not barrier.owned
        for match in _needed(barrier.hook, bridge, barrier.family)
    ]  # fmt: skip


def closing(ruleset: Iterable[Command]) -> list[Command]:
    """Takes away what opening() added, wherever it still is."""
    return [
        {"delete": {"rule": {key: rule[key] for key in ("family", "table", "chain", "handle")}}}
        for row in ruleset
        if (rule := row.get("rule")) and rule.get("comment") == COMMENT and rule["table"] != TABLE
    ]


def advice(barrier: Barrier, bridge: str) -> str:
    """What a person has to know, with the exact command."""
    if barrier.table == "firewalld":
        remedy = f"firewall-cmd --zone=trusted --add-interface={bridge}"
    else:
        insert = f"nft insert rule {barrier.name}"
        words = ("iifname", "oifname") if barrier.hook == "forward" else ("iifname",)
        remedy = "; ".join(f"{insert} {word} {bridge} accept" for word in words)
    what = (
        "machines reach nothing beyond this host, and published ports lead nowhere"
        if barrier.hook == "forward"
        else "machines get no address and no names from this host"
    )
    chain = f"The firewall's chain '{barrier.name}' drops what is not allowed ({barrier.why})"
    return f"{chain}: {what}. Run: {remedy}"
