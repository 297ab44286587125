# SPDX-License-Identifier: LGPL-2.1-or-later
"""Networks on a kernel of their own: what a shared one may not have are VLANs, IPVLAN, dummies, hardware."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.host.image import GUEST
from tests.host.vm import VirtualMachine

pytestmark = [pytest.mark.integration, pytest.mark.vm, pytest.mark.slow]

PATIENCE = 180


def links_of(machine: VirtualMachine) -> list[dict[str, Any]]:
    """What the guest has, but for its loopback."""
    leader = machine.check(f"machinectl show {GUEST} --property=Leader --value").strip()
    told = json.loads(machine.check(f"nsenter --target={leader} --net ip -json -details link"))
    return [link for link in told if link["ifname"] != "lo"]


def host_links(machine: VirtualMachine) -> dict[str, dict[str, Any]]:
    return {row["ifname"]: row for row in json.loads(machine.check("ip -json -details link"))}


def kill(machine: VirtualMachine, before: str = "true") -> None:
    """systemd-nspawn, right after something else, and wait until nothing of the guest is left."""
    unit = f"machine-{GUEST}.service"
    machine.check(f"pid=$(systemctl show -P MainPID {unit}); {before}; kill -KILL $pid")
    machine.check("systemctl start systemd-machined", PATIENCE)  # if it was the daemon
    machine.check(f"machinectl wait --for=stopped --timeout={PATIENCE} {GUEST}", PATIENCE * 2)
    gone = "while [ -e /run/machined/lent ]; do sleep 0.1; done"
    machine.check(f"timeout {PATIENCE} sh -c '{gone}'; systemctl reset-failed", PATIENCE * 2)


def test_links_of_the_host(virtual: VirtualMachine) -> None:
    """S73, S74: a station on a link, a virtual one that is lent, and the host's hardware."""
    virtual.check("ip link add park0 type dummy && ip link set park0 up")
    command = "--set Boot=no --set ProcessTwo=yes --set 'Parameters=sleep infinity'"
    start = f"machinectl start {GUEST} {command}"
    virtual.check(f"{start} --set IPVLAN=park0:lan", PATIENCE * 2)
    (link,) = links_of(virtual)
    assert (link["ifname"], link["linkinfo"]["info_kind"]) == ("lan", "ipvlan")
    assert link["address"] == host_links(virtual)["park0"]["address"]
    virtual.check(f"machinectl terminate {GUEST}", PATIENCE)
    virtual.check(f"machinectl wait --for=stopped --timeout={PATIENCE} {GUEST}", PATIENCE * 2)

    before = host_links(virtual)
    lend = "--set Interface=park0:lan --set Interface=eth0:card"
    virtual.check(f"{start} {lend}", PATIENCE * 2)
    assert {link["ifname"] for link in links_of(virtual)} == {"lan", "card"}
    kill(virtual)
    after = host_links(virtual)
    for name in ("park0", "eth0"):
        assert after[name]["address"] == before[name]["address"]
    virtual.check(f"{start} --set Interface=eth0:card", PATIENCE * 2)
    # Nobody holds the namespace now: the kernel returns the card, as "card".
    kill(virtual, "kill -KILL $(systemctl show -P MainPID systemd-machined)")
    after = host_links(virtual)
    assert after["eth0"]["address"] == before["eth0"]["address"]
    assert "card" not in after


def test_a_vlan_of_a_bridge(virtual: VirtualMachine) -> None:
    virtual.check("ip link add br-lan type bridge vlan_filtering 1 && ip link set br-lan up")
    virtual.check("ip link add link br-lan name lan7 type vlan id 7 && ip link set lan7 up")
    virtual.check("bridge vlan add dev br-lan vid 7 self && ip addr add 198.51.100.1/24 dev lan7")
    virtual.check("ip link add br-two type bridge && ip addr add 203.0.113.1/24 dev br-two")
    virtual.check("ip link set br-two up")
    link = "Link=lan0:bridge=br-lan,vlan=7,mac=02:00:00:00:00:07,address=198.51.100.9/24"
    other = "Link=two0:bridge=br-two,mac=02:00:00:00:00:02,address=203.0.113.9/24"
    virtual.check(
        f"machinectl start {GUEST} --set Network=managed --set {link} --set {other} && "
        f"machinectl wait --timeout={PATIENCE} {GUEST}",
        PATIENCE * 2,
    )
    told = json.loads(virtual.check("bridge -j vlan show"))
    masters = {row["ifname"]: row.get("master") for row in json.loads(virtual.check("ip -j link"))}
    ours = {masters[row["ifname"]]: row["vlans"] for row in told if row["ifname"].startswith("vl-")}
    assert ours["br-lan"] == [{"vlan": 7, "flags": ["PVID", "Egress Untagged"]}]
    assert {vlan["vlan"] for vlan in ours.get("br-two", [])} <= {1}
    inside = {row["ifname"]: row["address"] for row in links_of(virtual)}
    assert (inside["lan0"], inside["two0"]) == ("02:00:00:00:00:07", "02:00:00:00:00:02")
    for address in ("198.51.100.9", "203.0.113.9"):
        assert " 0% packet loss" in virtual.check(f"ping -c 1 -W 20 {address}")
    (row,) = json.loads(virtual.check("machinectl network --json"))["machines"]
    assert " 0% packet loss" in virtual.check(f"ping -c 1 -W 20 {row['address']}")
    virtual.check(f"machinectl poweroff {GUEST}", PATIENCE)
    assert virtual.run("ip link show machined0")[0] != 0
    assert "machined" not in virtual.check("nft list ruleset")
