# SPDX-License-Identifier: LGPL-2.1-or-later
"""Settings of the managed network: what may be said, and what cannot be said together."""

from __future__ import annotations

import pytest

from machined.model.settings import layers, managed, merge, rules
from machined.model.settings.managed import Link
from machined.model.settings.merge import Effective


def read(*words: str) -> Effective:
    effective = merge.merge([layers.from_command_line(words, 257)])
    effective.findings += rules.check(effective)
    return effective


@pytest.mark.parametrize("words", [["Network=managed"], ["Managed=yes"], ["Network=managed", "Managed=no"]])
def test_managed(words: list[str]) -> None:
    effective = read(*words)
    assert effective.findings == []
    assert managed.is_managed(effective)


@pytest.mark.parametrize("words", [[], ["Managed=no"], ["Network=own", "Managed=yes"], ["Network="]])
def test_not_managed(words: list[str]) -> None:
    assert not managed.is_managed(read(*words))


def test_values() -> None:
    effective = read(
        "Network=managed", "Address=10.1.2.3/24 fd00:0::5", "DNS=9.9.9.9", "Gateway=10.1.2.1",
        "Link=lan0:bridge=br0,vlan=7,mac=02-00-00-00-00-07,address=192.0.2.7/24,address=fd00::7/64",
        "Link=spare0", "Port=80",
    )  # fmt: skip
    assert effective.findings == []
    assert [value.text for value in effective.all("Network", "Address")] == ["10.1.2.3/24", "fd00::5"]
    assert managed.links(effective) == [
        Link("lan0", "br0", 7, "02:00:00:00:00:07", ("192.0.2.7/24", "fd00::7/64")),
        Link("spare0"),
    ]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("Network=other", "must be one of 'managed', 'own'"),
        ("Managed=perhaps", "'yes' or 'no'"),
        ("Address=10.1.2.300", "must be an IPv4 or IPv6 address"),
        ("Address=127.0.0.1", "the address of one machine"),
        ("Gateway=10.1.2.1/24", "without '/'"),
        ("DNS=name.example", "without '/'"),
        ("Link=:bridge=br0", "must be the name of an interface"),
        ("Link=host0", "is there already"),
        ("Link=lan0:colour=red", "must be one of bridge=, vlan=, mac=, address="),
        ("Link=lan0:vlan=7", "say bridge= as well"),
        ("Link=lan0:bridge=br0,vlan=4095", "from 1 to 4094"),
        ("Link=lan0:mac=01:00:00:00:00:00", "multicast"),
        ("Link=lan0:address=10.1.1.1", "must have its prefix"),
        ("Link=lan0:bridge=a,bridge=b", "twice"),
        ("Network=managed Bridge=br0", "has a bridge of its own"),
        ("Network=managed Zone=z", "has a bridge of its own"),
        ("Network=managed VirtualEthernet=no", "needs a link to the host"),
        ("Network=managed Private=no", "needs a link to the host"),
        ("Network=managed Link=a0 Link=a0", "there is a 'a0' already"),
        ("Address=10.1.2.3", "say Network=managed as well"),
    ],
)
def test_refused(words: str, why: str) -> None:
    assert any(why in str(error) for error in read(*words.split()).errors())


def test_with_values() -> None:
    effective = read("Network=managed", "Port=80")
    changed = managed.with_values(effective, {("Network", "Port"): [], ("Network", "Bridge"): ["machined0"]})
    assert changed.all("Network", "Port") == ()
    assert changed.get("Network", "Bridge") == "machined0"
    assert effective.get("Network", "Port") == "tcp:80:80"
