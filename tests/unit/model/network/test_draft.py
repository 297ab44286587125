# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a machine is to have, by its settings and those of the others."""

from __future__ import annotations

from ipaddress import IPv4Address, ip_interface

import pytest

from machined.linux import links, listening
from machined.model.errors import MachineError, Problem
from machined.model.network import addresses, configuration, draft, host, store
from machined.model.network.draft import Draft
from machined.model.network.store import Record
from machined.model.settings import layers, merge
from machined.model.settings.merge import Effective
from tests.fakes.sandbox import Sandbox


@pytest.fixture(autouse=True)
def _host(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host with one network, a web server, and a bridge."""
    monkeypatch.setattr(draft, "machine_id", lambda: bytes(16))
    used = [
        links.Used(ip_interface("10.200.0.1/16"), "eth0"),
        links.Used(ip_interface("10.3.0.1/24"), "machined0"),
    ]
    monkeypatch.setattr(links, "used_networks", lambda: used)
    monkeypatch.setattr(links, "exists", lambda name: name == "br0")
    monkeypatch.setattr(listening, "ports", lambda protocol: {80} if protocol == "tcp" else set())


def settings(*words: str) -> Effective:
    return merge.merge([layers.from_command_line(("Network=managed", *words), 257)])


def make(name: str, *words: str, others: tuple[Record, ...] = ()) -> Draft:
    return draft.make(name, settings(*words), others)


def refused(*words: str, others: tuple[Record, ...] = ()) -> str:
    with pytest.raises(MachineError) as failure:
        make("web", *words, others=others)
    assert failure.value.problem is Problem.INVALID_SETTINGS
    return failure.value.text


def configure(text: str) -> None:
    configuration.FILE.parent.mkdir(parents=True, exist_ok=True)
    configuration.FILE.write_text(f"[Network]\n{text}\n", encoding="ascii")


def test_it_is_always_the_same_and_nothing_is_written() -> None:
    first = make("web")
    assert first.record == make("web").record
    assert first.plan.subnet.subnet_of(configuration.Configuration().pool)
    assert not first.plan.subnet.overlaps(ip_interface("10.200.0.0/16").network)
    assert IPv4Address(first.record.address) in first.plan.subnet
    assert first.record.address6 == str(addresses.eui64(first.plan.prefix, first.record.mac))
    assert not store.STATE.exists()
    assert not store.RUNTIME.exists()


def test_a_lease_counts_more() -> None:
    first = make("web")
    other = next(first.plan.subnet[n] for n in (7, 8) if str(first.plan.subnet[n]) != first.record.address)
    first.leases.addresses["web"] = other
    store.save_leases(first.leases)
    assert make("web").record.address == str(other)
    # Somebody who runs has it.
    taken = Record("mail", "02:00:00:00:00:01", str(other), "fd00::1")
    assert make("web", others=(taken,)).record.address != str(other)


def test_the_network_that_is_there_stays() -> None:
    store.take({"subnet": "10.9.9.0/24", "prefix": "fd00:9::/64"})
    configure("Subnet=10.8.8.0/24")
    assert str(make("web").plan.subnet) == "10.9.9.0/24"
    assert host.plan_in_force() == make("web").plan


def test_a_network_of_the_administrators() -> None:
    configure("Subnet=10.8.8.0/24\nSubnet6=fd00:8::/64")
    plan = make("web").plan
    assert (str(plan.subnet), str(plan.prefix)) == ("10.8.8.0/24", "fd00:8::/64")
    configure("Subnet=10.3.0.0/24")  # of our own bridge, which a crash has left
    assert str(make("web").plan.subnet) == "10.3.0.0/24"
    configure("Subnet=10.200.7.0/24")
    assert "this host has 10.200.0.0/16 already" in refused()


def test_fixed_addresses() -> None:
    configure("Subnet=10.8.8.0/24\nSubnet6=fd00:8::/64")
    made = make("web", "Address=10.8.8.9/24 fd00:8::9", "MACAddress=02:00:00:00:00:09", "DNS=9.9.9.9")
    assert (made.record.address, made.record.address6) == ("10.8.8.9", "fd00:8::9")
    assert (made.record.mac, made.record.dns) == ("02:00:00:00:00:09", ("9.9.9.9",))
    # Whoever had it before, and does not run, gets another one.
    store.save_leases(made.leases)
    assert make("mail", "Address=10.8.8.9").leases.addresses == {"mail": IPv4Address("10.8.8.9")}
    assert "outside of the managed network" in refused("Address=10.8.9.9")
    assert "one IPv4 address, and 10.8.8.7 is it" in refused("Address=10.8.8.7 10.8.8.8")
    other = Record("mail", "02:00:00:00:00:01", "10.8.8.9", "fd00:8::9")
    for words in ("Address=10.8.8.9", "Address=fd00:8::9", "MACAddress=02:00:00:00:00:01"):
        assert "machine 'mail' has it, and runs" in refused(words, others=(other,))
    assert make("mail", "Address=10.8.8.9", others=(other,)).record.address == "10.8.8.9", "itself"


def test_ports() -> None:
    assert [str(port) for port in make("web", "Port=8080:80").record.ports] == ["tcp:8080:80"]
    assert "a program of this host listens on tcp port 80" in refused("Port=80:80")
    assert make("web", "Port=udp:80:80").record.ports
    other = make("mail", "Port=8080:25").record
    assert "leads to machine 'mail' already" in refused("Port=8080:80", others=(other,))


def test_more_interfaces() -> None:
    (nic,) = make("web", "Link=lan0:bridge=br0,vlan=7").record.nics
    assert (nic.inside, nic.bridge, nic.vlan) == ("lan0", "br0", 7)
    assert len(nic.outside) <= 15
    assert "this host has no bridge 'br1'" in refused("Link=lan0:bridge=br1")
