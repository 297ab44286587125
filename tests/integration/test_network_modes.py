# SPDX-License-Identifier: LGPL-2.1-or-later
"""Each way to have a network, from inside and from the host: S31, S64-S66, S71-S74, S78 of the features."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.integration.driver import Driver, unique_name
from tests.integration.modes_lab import ModesLab as Lab

pytestmark = [pytest.mark.integration, pytest.mark.either("sid")]


@pytest.fixture
def lab(managed: Driver, machine: str) -> Iterator[Lab]:
    lab = Lab(managed, machine)
    yield lab
    lab.clear()


def test_the_hosts(lab: Lab, machine: str) -> None:
    """S64."""
    lab.start(machine, "Private=no")
    own = lab.managed.host.run(["readlink", "/proc/1/ns/net"]).stdout
    assert lab.managed.host.run(["readlink", f"/proc/{lab.managed.leader(machine)}/ns/net"]).stdout == own


def test_none_at_all(lab: Lab, machine: str) -> None:
    """S65."""
    lab.start(machine, "Private=yes")
    assert lab.inside(machine) == {}


@pytest.mark.parametrize("said", ["", "VirtualEthernet=yes", "Port=47001"])
def test_a_link_to_the_host(lab: Lab, machine: str, said: str) -> None:
    """S66, S83: also where the section says something else, or nothing."""
    lab.start(machine, said)
    inside = lab.inside(machine)
    assert list(inside) == ["host0"]
    (peer,) = [link for name, link in lab.host().items() if name == f"ve-{machine}"]
    assert peer["ifindex"] == inside["host0"]["link_index"]
    address = inside["host0"]["address"]
    lab.stop(machine)
    assert f"ve-{machine}" not in lab.host()
    lab.start(machine, said)
    assert lab.inside(machine)["host0"]["address"] == address, "S78: it has the name's address"


def test_long_names(lab: Lab, managed: Driver) -> None:
    """S66: two that begin alike, each found by all of its name."""
    names = [f"machine-with-a-long-name-{unique_name()}" for _ in range(2)]
    for name in names:
        lab.start(name, "VirtualEthernet=yes")
        assert list(lab.inside(name)) == ["host0"]
        found = managed.host.run(["ip", "-json", "link", "show", f"ve-{name}"]).stdout
        assert len(json.loads(found)[0]["ifname"]) <= 15


def test_an_address_of_hardware(lab: Lab, machine: str) -> None:
    """S78, P11."""
    lab.start(machine, "MACAddress=02:11:22:33:44:55")
    assert lab.inside(machine)["host0"]["address"] == "02:11:22:33:44:55"


def test_more_links(lab: Lab, machine: str) -> None:
    lab.start(machine, "VirtualEthernetExtra=t-one\nVirtualEthernetExtra=t-two:lan")
    assert set(lab.inside(machine)) == {"host0", "t-one", "lan"}
    assert {"t-one", "t-two"} <= set(lab.host())


def test_a_bridge(lab: Lab, machine: str) -> None:
    """S71."""
    said = lab.start(machine, "Bridge=t-br0", check=False)
    assert "Bridge=t-br0: the host has no such bridge" in said
    lab.add("t-br0", "type", "bridge")
    lab.start(machine, "Bridge=t-br0")
    assert set(lab.inside(machine)) == {"host0"}
    assert lab.host()[f"vb-{machine}"]["master"] == "t-br0"


def test_a_zone(lab: Lab, machine: str) -> None:
    """S72: made by the first, gone with the last."""
    names = [unique_name() for _ in range(2)]
    for name in names:
        lab.start(name, "Zone=t-lab")
    links = lab.host()
    assert {links[f"vb-{name}"]["master"] for name in names} == {"vz-t-lab"}
    lab.stop(names[0])
    assert "vz-t-lab" in lab.host()
    lab.stop(names[1])
    assert "vz-t-lab" not in lab.host()


def test_a_station_of_its_own(lab: Lab, machine: str) -> None:
    """S73."""
    lab.add("t-dummy0", "type", "veth", "peer", "t-other0")
    lab.start(machine, "MACVLAN=t-dummy0:lan")
    inside = lab.inside(machine)
    assert list(inside) == ["lan"], "no other link than the one that is named"
    assert inside["lan"]["linkinfo"]["info_kind"] == "macvlan"
    assert inside["lan"]["address"] != lab.host()["t-dummy0"]["address"]


def test_a_link_that_is_lent(lab: Lab, machine: str) -> None:
    """S74: the machine's while it runs, the host's under its own name before and after."""
    said = lab.start(machine, "Interface=t-dummy1:lan", check=False)
    assert "the host has no interface 't-dummy1'" in said
    lab.add("t-dummy1", "type", "veth", "peer", "t-other1")
    for _ in range(2):
        lab.start(machine, "Interface=t-dummy1:lan")
        assert list(lab.inside(machine)) == ["lan"]
        assert "t-dummy1" not in lab.host()
        lab.stop(machine)
        assert "t-dummy1" in lab.host()


def test_somebody_elses(lab: Lab, machine: str) -> None:
    """S31: the network of a namespace that is there."""
    host = lab.managed.host
    said = lab.start(machine, "NamespacePath=/run/netns/t-space", check=False)
    assert "there is no such namespace" in said
    host.run(["ip", "netns", "add", "t-space"])
    try:
        host.run(["ip", "-netns", "t-space", "link", "add", "t-inner", "type", "bridge"])
        lab.start(machine, "NamespacePath=/run/netns/t-space")
        assert list(lab.inside(machine)) == ["t-inner"]
        lab.stop(machine)
    finally:
        host.run(["ip", "netns", "del", "t-space"])
        host.run(["umount", "--lazy", "/run/netns"])  # made by the first `ip netns add` of a boot
        host.run(["rm", "-rf", "/run/netns"])


def test_what_is_taken(lab: Lab, machine: str) -> None:
    """A port that a program of the host listens on."""
    listen = "import socket, time; s=socket.create_server(('', 47002)); print('up', flush=1); time.sleep(99)"
    with lab.managed.background(["python3", "-c", listen]) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "up\n"
        said = lab.start(machine, "Port=47002:80", check=False)
    assert (
        f"{machine}.conf:7: [Network] Port=tcp:47002:80: a program of the host listens on tcp port 47002"
        in said
    )
