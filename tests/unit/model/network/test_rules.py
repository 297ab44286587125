# SPDX-License-Identifier: LGPL-2.1-or-later
"""Rules as data: what nft is told, and what is found of other people's firewalls."""

from __future__ import annotations

import json
from ipaddress import IPv4Network, IPv6Network
from typing import Any

import pytest

from machined.model.network import dnsmasq, firewall, networkd, proxies, ruleset
from machined.model.network.addresses import Plan
from machined.model.network.ports import Port
from machined.model.network.store import Record

PLAN = Plan(IPv4Network("10.20.30.0/24"), IPv6Network("fd12:3456:789a::/64"))
ONE = Record(
    "one", "02:00:00:00:00:01", "10.20.30.5", "fd12:3456:789a::5", ("10.20.30.9",), ("9.9.9.9",),
    ports=(Port("tcp", 8080, 80), Port("udp", 5353, 53, live=True)),
)  # fmt: skip
TWO = Record("two", "02:00:00:00:00:02", "10.20.30.6", "fd12:3456:789a::6")


def rules(chain: str, *records: Record) -> list[str]:
    """The expressions of a chain, as texts."""
    return [
        json.dumps(rule["expr"])
        for command in ruleset.render(PLAN, records)
        if (rule := command.get("add", {}).get("rule")) and rule["chain"] == chain
    ]


class TestOurs:
    def test_it_replaces_itself(self) -> None:
        table = {"table": {"family": "inet", "name": "machined"}}
        assert ruleset.render(PLAN, [])[:3] == [{"add": table}, {"delete": table}, {"add": table}]
        assert ruleset.removal() == [{"add": table}, {"delete": table}]

    def test_nothing_is_published_without_ports(self) -> None:
        assert rules("prerouting", TWO) == rules("output", TWO) == []

    def test_published(self) -> None:
        for chain in ("prerouting", "output"):
            found = rules(chain, ONE, TWO)
            assert len(found) == 4, "two ports, two families"
            assert all('"fib"' in rule for rule in found), "on addresses of the host alone"
            assert '{"dnat": {"family": "ip", "addr": "10.20.30.5", "port": 80}}' in found[0]
            assert '{"dnat": {"family": "ip6", "addr": "fd12:3456:789a::5", "port": 80}}' in found[1]
            assert '"protocol": "udp"' in found[2]
        assert '"right": "::1"' in rules("output", ONE)[1], "which is the proxy's"

    def test_localhost_is_guarded(self) -> None:
        assert len(rules("guard")) == 2
        assert all('"127.0.0.0"' in rule and '"drop"' in rule for rule in rules("guard"))

    def test_ways_out(self) -> None:
        found = rules("postrouting")
        assert sum("masquerade" in rule for rule in found) == 5
        assert any('"10.20.30.0"' in rule and '"!="' in rule for rule in found)


def chain(name: str, hook: str, policy: str = "accept", family: str = "inet", table: str = "filter") -> Any:
    row: dict[str, Any] = {"family": family, "table": table, "name": name, "handle": 1}
    if hook:
        row |= {"type": "filter", "hook": hook, "prio": 0, "policy": policy}
    return {"chain": row}


def rule(name: str, *expressions: Any, family: str = "inet", table: str = "filter", **more: Any) -> Any:
    row = {"family": family, "table": table, "chain": name, "handle": 7, "expr": list(expressions)}
    return {"rule": {**row, **more}}


class TestFirewalls:
    @pytest.mark.parametrize(
        ("rows", "found"),
        [
            ([chain("all", "forward")], []),
            ([chain("all", "forward", "drop")], ["inet filter all"]),
            ([chain("all", "input", "drop")], ["inet filter all"]),
            ([chain("all", "output", "drop")], []),
            ([chain("all", "forward"), rule("all", {"counter": {}}, {"drop": None})], ["inet filter all"]),
            ([chain("all", "forward"), rule("all", {"reject": None})], ["inet filter all"]),
            ([chain("all", "forward"), rule("all", {"match": {}}, {"drop": None})], []),
            ([chain("forward", "forward", "drop", table="machined")], []),
            ([chain("x", "forward", "drop", family="bridge")], []),
            (
                [chain("FORWARD", "forward", "drop", "ip"), chain("DOCKER-USER", "", family="ip")],
                ["ip filter DOCKER-USER"],
            ),
            (
                [chain("INPUT", "input", "drop", "ip"), chain("DOCKER-USER", "", family="ip")],
                ["ip filter INPUT"],
            ),
        ],
    )
    def test_found(self, rows: list[Any], found: list[str]) -> None:
        assert [barrier.name for barrier in firewall.find(rows)] == found

    def test_opened_and_closed(self) -> None:
        barriers = firewall.find([chain("all", "forward", "drop"), chain("in", "input", "drop")])
        opened = firewall.opening(barriers, "machined0")
        assert {command["insert"]["rule"]["chain"] for command in opened} == {"all", "in"}
        assert all(command["insert"]["rule"]["comment"] == firewall.COMMENT for command in opened)
        assert all("machined0" in json.dumps(command) for command in opened), "for the bridge alone"
        there = [rule("all", comment=firewall.COMMENT), rule("all", comment="other"), rule("all")]
        assert firewall.closing(there) == [
            {"delete": {"rule": {"family": "inet", "table": "filter", "chain": "all", "handle": 7}}}
        ]

    def test_what_is_somebodys_own(self) -> None:
        table = {"table": {"family": "inet", "name": "firewalld", "flags": ["owner"]}}
        (barrier,) = firewall.find([table, chain("filter_FORWARD", "forward", "drop", table="firewalld")])
        assert firewall.opening([barrier], "machined0") == []
        text = firewall.advice(barrier, "machined0")
        assert text.endswith("Run: firewall-cmd --zone=trusted --add-interface=machined0")

    def test_advice(self) -> None:
        (barrier,) = firewall.find([chain("all", "forward", "drop")])
        text = firewall.advice(barrier, "machined0")
        assert "its policy is drop" in text
        assert text.endswith(
            "Run: nft insert rule inet filter all iifname machined0 accept; "
            "nft insert rule inet filter all oifname machined0 accept"
        )


class TestServers:
    def test_dnsmasq_tables(self) -> None:
        assert dnsmasq.tables(PLAN, [ONE, TWO]) == {
            "hosts": "10.20.30.5 one\nfd12:3456:789a::5 one\n10.20.30.6 two\nfd12:3456:789a::6 two\n",
            "reserved": "02:00:00:00:00:01,set:m020000000001,10.20.30.5,one,12h\n"
            "02:00:00:00:00:02,set:m020000000002,10.20.30.6,two,12h\n",
            "options": "tag:m020000000001,option:router,10.20.30.9\n"
            "tag:m020000000001,option:dns-server,9.9.9.9\n",
        }

    def test_dnsmasq_is_on_the_bridge_alone(self) -> None:
        words = dnsmasq.command_line("dnsmasq", PLAN, dhcp=True)
        assert {"--interface=machined0", "--bind-interfaces", "--except-interface=lo"} <= set(words)
        assert "--dhcp-range=10.20.30.0,static,255.255.255.0,12h" in words
        assert not any("dhcp" in word for word in dnsmasq.command_line("dnsmasq", PLAN, dhcp=False))

    def test_networkd(self) -> None:
        text = networkd.render(PLAN, [ONE], names=True)
        assert "Name=machined0\n" in text
        assert "[DHCPServerStaticLease]\nMACAddress=02:00:00:00:00:01\nAddress=10.20.30.5\n" in text
        assert "DNS=10.20.30.1\n" in text
        assert "DNS=" not in networkd.render(PLAN, [ONE], names=False)
        assert "PoolOffset=254\nPoolSize=1\n" in text, "of which no machine has the address"
        inside = networkd.render_inside(PLAN, ONE)
        assert "Address=10.20.30.5/24\nAddress=fd12:3456:789a::5/64\n" in inside
        assert "Gateway=10.20.30.9\nGateway=fd12:3456:789a::1\nDNS=9.9.9.9\n" in inside

    def test_proxies_are_for_tcp(self) -> None:
        ((socket, service),) = proxies.wanted([ONE, TWO])
        assert (socket[0], service[0]) == ("machined-port-tcp-8080.socket", "machined-port-tcp-8080.service")
        listen = {row.name: row.value for row in socket[1]}["Listen"]
        assert listen == [["Stream", "[::1]:8080"]]
        argv = {row.name: row.value for row in service[1]}["ExecStart"][0][1]
        assert argv[-1] == "10.20.30.5:80"
