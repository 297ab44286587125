# SPDX-License-Identifier: LGPL-2.1-or-later

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_interface

import pytest
from hypothesis import given
from hypothesis import strategies as st

from machined.model.errors import MachineError, Problem
from machined.model.network import addresses
from machined.model.network.addresses import Plan

ID = bytes(range(16))
PLAN = Plan(IPv4Network("10.20.30.0/24"), IPv6Network("fd12:3456:789a::/64"))
SMALL = Plan(IPv4Network("10.20.30.0/29"), IPv6Network("fd12:3456:789a::/64"))


def test_the_bridge_is_first() -> None:
    assert [str(interface) for interface in PLAN.interfaces] == ["10.20.30.1/24", "fd12:3456:789a::1/64"]


@given(st.binary(min_size=16, max_size=16), st.text("abc-", min_size=1, max_size=20))
def test_hardware_addresses_are_ones_own(machine_id: bytes, name: str) -> None:
    mac = addresses.machine_mac(machine_id, name)
    first = int(mac[:2], 16)
    assert not first & 1, "one machine's"
    assert first & 2, "made up here"
    assert mac == addresses.machine_mac(machine_id, name)
    assert mac != addresses.machine_mac(machine_id, name + "x")


def test_prefix_is_a_unique_local_one() -> None:
    prefix = addresses.own_prefix(ID)
    assert prefix.prefixlen == 64
    assert prefix.subnet_of(IPv6Network("fd00::/8"))
    assert prefix != addresses.own_prefix(ID[::-1])


def test_eui64() -> None:
    """The example of RFC 4291, appendix A, with its bit turned around."""
    found = addresses.eui64(PLAN.prefix, "34:56:78:9a:bc:de")
    assert str(found) == "fd12:3456:789a:0:3656:78ff:fe9a:bcde"


class TestSubnet:
    POOL = IPv4Network("10.128.0.0/22")

    def test_it_stays_the_same(self) -> None:
        first = addresses.choose_subnet(self.POOL, ID, [])
        assert first == addresses.choose_subnet(self.POOL, ID, [])
        assert first.prefixlen == 24
        assert first.subnet_of(self.POOL)

    def test_what_is_in_use_is_passed_over(self) -> None:
        taken: list[addresses.Interface] = []
        for _ in range(4):
            found = addresses.choose_subnet(self.POOL, ID, taken)
            assert not any(found.overlaps(other.network) for other in taken)
            taken.append(ip_interface(f"{found[7]}/24"))
        with pytest.raises(MachineError, match="Name another pool"):
            addresses.choose_subnet(self.POOL, ID, taken)

    def test_a_wide_route_takes_all(self) -> None:
        with pytest.raises(MachineError):
            addresses.choose_subnet(self.POOL, ID, [ip_interface("10.0.0.0/8")])

    def test_collision(self) -> None:
        assert addresses.collision(PLAN, [ip_interface("10.20.0.1/16")]) == "10.20.0.0/16"
        assert addresses.collision(PLAN, [ip_interface("fd12:3456:789a::5/48")]) == "fd12:3456:789a::/48"
        assert addresses.collision(PLAN, [ip_interface("10.21.0.1/16"), ip_interface("::1/128")]) == ""


class TestAllocation:
    def test_all_are_given_once(self) -> None:
        leased: set[IPv4Address] = set()
        for number in range(4):
            found = addresses.allocate(SMALL, f"m{number}", leased, leased)
            assert addresses.place_of(SMALL, SMALL.interface(found)) == ""
            assert found not in leased
            leased.add(found)
        with pytest.raises(MachineError) as failure:
            addresses.allocate(SMALL, "one-more", leased, leased)
        assert failure.value.problem is Problem.LIMITS_EXCEEDED

    def test_stopped_machines_lose_theirs_last(self) -> None:
        leased = {SMALL.subnet[number] for number in (2, 3, 4, 5)}
        running = leased - {SMALL.subnet[4]}
        assert addresses.allocate(SMALL, "new", leased, running) == SMALL.subnet[4]

    @given(st.text("abcdef", min_size=1))
    def test_a_name_has_its_address(self, name: str) -> None:
        assert addresses.allocate(PLAN, name, [], []) == addresses.allocate(PLAN, name, [], [])


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("10.20.30.5", ""),
        ("10.20.30.5/24", ""),
        ("fd12:3456:789a::5/64", ""),
        ("10.20.31.5", "outside of the managed network"),
        ("fd00::5", "outside of the managed network"),
        ("10.20.30.1", "the host's own"),
        ("10.20.30.254", "the host's own"),
        ("fd12:3456:789a::1", "the host's own"),
        ("10.20.30.0", "the network's"),
        ("10.20.30.255/24", "the network's"),
        ("10.20.30.5/16", "the prefix of that network is /24"),
    ],
)
def test_places(address: str, why: str) -> None:
    found = addresses.place_of(PLAN, ip_interface(address))
    assert why in found
    assert bool(why) == bool(found)
