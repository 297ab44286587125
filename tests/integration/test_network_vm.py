# SPDX-License-Identifier: LGPL-2.1-or-later
"""The managed network on a kernel of its own, for what a shared one may not have: VLANs of a bridge."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.host import layer, vm
from tests.host.image import GUEST
from tests.host.probe import why_not
from tests.host.vm import VirtualMachine

pytestmark = [pytest.mark.integration, pytest.mark.vm, pytest.mark.slow]

PATIENCE = 180


@pytest.fixture
def machine() -> Iterator[VirtualMachine]:
    if (reason := why_not() or vm.why_not()) is not None:
        pytest.skip(reason)
    with VirtualMachine("trixie", layer=layer.with_machined("trixie")) as machine:
        yield machine.boot()


def test_a_vlan_of_a_bridge(machine: VirtualMachine) -> None:
    machine.check("ip link add br-lan type bridge vlan_filtering 1 && ip link set br-lan up")
    machine.check("ip link add link br-lan name lan7 type vlan id 7 && ip link set lan7 up")
    machine.check("bridge vlan add dev br-lan vid 7 self && ip addr add 198.51.100.1/24 dev lan7")
    link = "Link=lan0:bridge=br-lan,vlan=7,address=198.51.100.9/24"
    machine.check(
        f"machinectl start {GUEST} --set Network=managed --set {link} && "
        f"machinectl wait --timeout={PATIENCE} {GUEST}",
        PATIENCE * 2,
    )
    told = json.loads(machine.check("bridge -j vlan show"))
    (ours,) = [row for row in told if row["ifname"].startswith("vl-")]
    assert ours["vlans"] == [{"vlan": 7, "flags": ["PVID", "Egress Untagged"]}]
    assert " 0% packet loss" in machine.check("ping -c 1 -W 20 198.51.100.9")
    (row,) = json.loads(machine.check("machinectl network --json"))["machines"]
    assert " 0% packet loss" in machine.check(f"ping -c 1 -W 20 {row['address']}")
    machine.check(f"machinectl poweroff {GUEST}", PATIENCE)
    assert machine.run("ip link show machined0")[0] != 0
    assert "machined" not in machine.check("nft list ruleset")
    machine.shutdown(PATIENCE)
