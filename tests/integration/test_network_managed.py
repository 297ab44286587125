# SPDX-License-Identifier: LGPL-2.1-or-later
"""A network that works by itself, with and without systemd-networkd on the host: rows S67-S70, S75-S77."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Final

import pytest

from tests.host import layer
from tests.integration.driver import UNIT, Driver
from tests.integration.network_lab import HERE, OUTSIDE, Lab

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.either("trixie")]

ONE, TWO = "net-one", "net-two"
LOCAL = {4: "127.0.0.1", 6: "::1"}


@pytest.fixture(scope="module", params=["dnsmasq", "networkd"])
def whole_lab(suite: str, request: pytest.FixtureRequest) -> Iterator[Lab]:
    with layer.machined_host(suite) as host:
        lab = Lab(Driver(host.boot()), request.param)
        for name in (ONE, TWO):
            host.add_guest(name)
        yield lab


@pytest.fixture
def lab(whole_lab: Lab) -> Iterator[Lab]:
    """Both machines are there and stopped; afterwards nothing of the network is."""
    before = whole_lab.driver.host.snapshot()
    assert whole_lab.left() == []
    yield whole_lab
    whole_lab.end(ONE, TWO)
    assert whole_lab.left() == []
    assert whole_lab.driver.host.left_behind(before) == []


@pytest.fixture
def plain(lab: Lab) -> Lab:
    """For what does not depend on who gives addresses."""
    if lab.server != "dnsmasq":
        pytest.skip("once is enough: nobody is asked for an address")
    return lab


def test_everything_reaches_everything(lab: Lab) -> None:
    lab.start(ONE, "Port=tcp:8080:80")
    lab.start(TWO)
    assert lab.network()["server"] == lab.server
    assert lab.network()["advice"] == []
    one, two = lab.addresses(ONE), lab.addresses(TWO)
    assert one[4] != two[4]
    lab.serve(ONE, 80, "one")
    lab.serve_outside(7000, "outside")
    try:
        for version in (4, 6):
            mapped = "::ffff:" if version == 4 else ""
            # From the machine to the world, which knows no way back but to the host.
            assert lab.ask_from(ONE, OUTSIDE[version], 7000) == f"outside {mapped}{HERE[version]}"
            # From the world, the host, the host's localhost, and another machine, to the published port.
            assert lab.ask(HERE[version], 8080, outside=True) == f"one {mapped}{OUTSIDE[version]}"
            assert lab.ask(HERE[version], 8080).startswith("one ")
            assert lab.ask(LOCAL[version], 8080).startswith("one ")
            assert lab.ask_from(TWO, HERE[version], 8080).startswith("one ")
            # Straight.
            assert lab.ask(one[version], 80).startswith("one ")
            assert lab.ask_from(TWO, one[version], 80) == f"one {mapped}{two[version]}"
    finally:
        lab.sh("systemctl stop outside-7000.service")
    # By name: from machine to machine, and from the host.
    assert lab.ask_from(TWO, ONE, 80).startswith("one ")
    assert lab.ask(ONE, 80).startswith("one ")
    names = lab.driver.guest(TWO, "getent", "ahosts", ONE).stdout.split()
    assert {one[4], one[6]} <= set(names)
    # Who asks for an address has the same one.
    lab.driver.guest(
        ONE, "/usr/lib/systemd/systemd-networkd-wait-online", "--interface=host0", "--timeout=60"
    )
    assert lab.has_address(ONE, one[4])
    assert lab.has_address(ONE, one[6])
    # What is on the host's own localhost is not the machines'.
    lab.sh(
        "systemd-run -q --unit=secret --service-type=notify -p NotifyAccess=all perl /root/server.pl 9 no"
    )
    try:
        route = f"ip route replace 127.9.9.9 via {one[4].rpartition('.')[0]}.1"
        lab.driver.guest(ONE, "sh", "-c", route, check=False)
        assert lab.ask_from(ONE, "127.9.9.9", 9).startswith("failed")
    finally:
        lab.sh("systemctl stop secret.service")


def test_ports_come_and_go(lab: Lab) -> None:
    lab.start(ONE, "Port=tcp:8080:80")
    lab.start(TWO)
    lab.serve(ONE, 80, "one")
    ctl = lab.driver.ctl
    assert "port 9000 of this host leads to port 80" in ctl("publish", ONE, "9000:80").stderr
    for address in (*LOCAL.values(), *HERE.values()):
        assert lab.ask(address, 9000).startswith("one ")
    assert ctl("publish", ONE, "tcp:9000:80").returncode == 0  # it is so already
    rows = json.loads(ctl("ports", ONE, "--json").stdout)
    assert [(row["host"], row["port"], row["live"]) for row in rows] == [(8080, 80, False), (9000, 80, True)]
    done = ctl("publish", TWO, "9000", check=False)
    assert done.returncode == 1
    assert f"leads to machine '{ONE}' already" in done.stderr
    # A program of the host is in the way.
    lab.sh(
        "systemd-run -q --unit=taken --service-type=notify -p NotifyAccess=all perl /root/server.pl 9001 no"
    )
    try:
        done = ctl("publish", TWO, "9001:80", check=False)
        assert "a program of this host listens on tcp port 9001" in done.stderr
    finally:
        lab.sh("systemctl stop taken.service")
    for bad in ("0:80", "sctp:80:80", "80:80:80", "99999", "http"):
        done = ctl("publish", TWO, bad, check=False)
        assert done.returncode == 1
        assert "ports from 1 to 65535" in done.stderr
    assert "no published port" in ctl("unpublish", TWO, "9000", check=False).stderr
    ctl("unpublish", ONE, "9000")
    for address in (*LOCAL.values(), *HERE.values()):
        assert lab.ask(address, 9000).startswith("failed")
        assert lab.ask(address, 8080).startswith("one ")
    # UDP as well: the rules are there.
    ctl("publish", ONE, "udp:9002:53")
    assert "udp dport 9002" in lab.sh("nft list table inet machined")
    # They are the machine's, and end with it.
    ctl("publish", ONE, "9003:80")
    ctl("poweroff", ONE)
    assert lab.ask(LOCAL[4], 8080).startswith("failed")
    assert lab.ask(LOCAL[6], 9003).startswith("failed")
    assert json.loads(ctl("ports", "--json").stdout) == []
    assert "does not run with a managed network" in ctl("publish", ONE, "9000", check=False).stderr


def test_who_may_publish(plain: Lab) -> None:
    plain.start(ONE)
    done = plain.driver.ctl("publish", ONE, "9000:80", check=False, user="tester")
    assert done.returncode == 1
    assert "administrator" in done.stderr
    assert plain.driver.ctl("ports", ONE, user="tester").returncode == 0


def test_fixed_address(lab: Lab) -> None:
    lab.start(ONE)
    subnet = lab.addresses(ONE)[4].rpartition(".")[0]
    prefix = lab.network()["prefix"].removesuffix("/64")
    fixed = {4: f"{subnet}.77", 6: f"{prefix}77"}
    # Outside of the network, and taken: refused with the place where it is said.
    file = lab.driver.host.path(f"/etc/machined/machines/{TWO}.conf")
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        file.write_text("[Network]\nManaged=yes\nAddress=203.0.113.5\n", encoding="ascii")
        done = lab.driver.ctl("start", TWO, check=False)
        assert done.returncode == 1
        assert (
            f"{TWO}.conf:3: [Network] Address=203.0.113.5: it is outside of the managed network"
            in done.stderr
        )
        file.write_text(f"[Network]\nManaged=yes\nAddress={lab.addresses(ONE)[4]}/24\n", encoding="ascii")
        done = lab.driver.ctl("start", TWO, check=False)
        assert f"{TWO}.conf:3: " in done.stderr
        assert f"machine '{ONE}' has it" in done.stderr
        mac = "02:ab:cd:00:00:07"
        text = f"[Network]\nManaged=yes\nAddress={fixed[4]} {fixed[6]}/64\nMACAddress={mac}\nPort=8081:81\n"
        file.write_text(text, encoding="ascii")
        lab.driver.start(TWO)
    finally:
        file.unlink()
    assert lab.addresses(TWO) == fixed
    wait = "/usr/lib/systemd/systemd-networkd-wait-online"
    lab.driver.guest(TWO, wait, "--interface=host0", "--timeout=60")
    assert lab.has_address(TWO, fixed[4])
    assert mac in lab.driver.guest(TWO, "ip", "-o", "link", "show", "host0").stdout
    lab.serve(TWO, 81, "two")
    for address in (*HERE.values(), *LOCAL.values(), *fixed.values()):
        port = 81 if address in fixed.values() else 8081
        assert lab.ask(address, port).startswith("two "), address
    # Another start, the same addresses.
    before = lab.addresses(ONE)
    lab.driver.ctl("poweroff", ONE)
    lab.start(ONE)
    assert lab.addresses(ONE) == before


def test_a_guest_that_asks_nobody(plain: Lab) -> None:
    """No DHCP client in it: it has what it needs from its first moment on."""
    tree = plain.driver.host.path(f"/var/lib/machines/{ONE}/etc/systemd/system/systemd-networkd.service")
    tree.symlink_to("/dev/null")
    try:
        plain.start(ONE, "Port=8080:80")
        for address in plain.addresses(ONE).values():
            assert plain.has_address(ONE, address)
        plain.serve(ONE, 80, "one")
        plain.serve_outside(7001, "outside")
        for version in (4, 6):
            assert plain.ask(LOCAL[version], 8080).startswith("one ")
            assert plain.ask(HERE[version], 8080, outside=True).startswith("one ")
            assert plain.ask_from(ONE, OUTSIDE[version], 7001).startswith("outside ")
        # It reboots, and is the same.
        plain.driver.ctl("reboot", ONE)
        plain.driver.wait(ONE, "running")
        for address in plain.addresses(ONE).values():
            assert plain.has_address(ONE, address)
    finally:
        plain.sh("systemctl stop outside-7001.service", check=False)
        plain.driver.ctl("poweroff", ONE)
        tree.unlink()


def test_a_guest_with_its_own_ideas(lab: Lab) -> None:
    """It asks by DHCP and hears the router, as guests of all kinds do: it is told the same."""
    own = lab.driver.host.path(f"/var/lib/machines/{ONE}/etc/systemd/network/10-own.network")
    own.write_text("[Match]\nName=host0\n[Network]\nDHCP=ipv4\nIPv6AcceptRA=yes\n", encoding="ascii")
    try:
        lab.start(ONE, "Port=8080:80")
        wait = "/usr/lib/systemd/systemd-networkd-wait-online"
        lab.driver.guest(ONE, wait, "--interface=host0", "--timeout=60", "--ipv4")
        # A router's word comes when it comes, and is not waited for by that.
        look = f"ip -o addr show dev host0 | grep -qF ' {lab.addresses(ONE)[6]}/'"
        lab.driver.guest(ONE, "timeout", "60", "sh", "-c", f"until {look}; do sleep 0.1; done", check=False)
        told = lab.driver.guest(ONE, "ip", "-o", "addr", "show", "dev", "host0").stdout
        for address in lab.addresses(ONE).values():
            (line,) = [line for line in told.splitlines() if f" {address}/" in line]
            assert "dynamic" in line or "metric" in line, "from somebody who told it so"
        lab.serve(ONE, 80, "one")
        for version in (4, 6):
            assert lab.ask(HERE[version], 8080, outside=True).startswith("one ")
    finally:
        own.unlink()


def test_names_of_the_world(lab: Lab) -> None:
    """S77: what the host can ask for its machines can, in the managed network and in the host's."""
    tree = lab.driver.host.path(f"/var/lib/machines/{ONE}/etc/resolv.conf")
    before = tree.read_text(encoding="ascii")
    ask = ("timeout", "60", "getent", "ahostsv4", "some.where.example")
    with lab.names_outside():
        lab.start(ONE)
        assert "203.0.113.77" in lab.driver.guest(ONE, *ask).stdout
        gateway = lab.addresses(ONE)[4].rpartition(".")[0] + ".1"
        told = lab.driver.guest(ONE, "cat", "/etc/resolv.conf").stdout
        assert told.splitlines()[0] == f"nameserver {gateway}"
        lab.driver.clear(ONE)
        assert tree.read_text(encoding="ascii") == before, "it was mounted over, not changed"
        # With a resolved of its own that is asked, and told whom to ask.
        stub = "../run/systemd/resolve/stub-resolv.conf"
        tree.unlink()
        tree.symlink_to(stub)
        try:
            lab.start(ONE)
            assert lab.driver.guest(ONE, "readlink", "/etc/resolv.conf").stdout.strip() == stub
            network = lab.driver.guest(ONE, "cat", "/run/systemd/network/80-container-host0.network").stdout
            assert f"DNS={gateway}" in network.splitlines()
        finally:
            lab.driver.clear(ONE)
            tree.unlink()
            tree.write_text(before, encoding="ascii")
        # In the host's network, whatever the tree says.
        lab.driver.ctl("start", ONE, "--set=Private=no", "--set=ResolvConf=auto")
        lab.driver.wait(ONE, "running")
        assert "203.0.113.77" in lab.driver.guest(ONE, *ask).stdout


def test_bad_wishes(plain: Lab) -> None:
    refused = plain.refused
    assert "must be an IPv4 or IPv6 address" in refused(ONE, "Address=10.1.2.300")
    assert "has a bridge of its own" in refused(ONE, "Bridge=br0")
    assert "needs a link to the host" in refused(ONE, "VirtualEthernet=no")
    assert "no bridge 'br-none'" in refused(ONE, "Link=eth1:bridge=br-none")
    plain.sh(
        "systemd-run -q --unit=taken --service-type=notify -p NotifyAccess=all perl /root/server.pl 9001 no"
    )
    try:
        assert "a program of this host listens on tcp port 9001" in refused(ONE, "Port=9001:80")
    finally:
        plain.sh("systemctl stop taken.service")
    done = plain.driver.ctl("start", ONE, "--set", "Address=10.0.0.5", check=False)
    assert "say Network=managed as well" in done.stderr
    configuration = plain.driver.host.path("/etc/machined/network.conf")
    configuration.parent.mkdir(exist_ok=True)
    try:
        configuration.write_text("[Network]\nSubnet=10.1.2.3/24\n", encoding="ascii")
        assert "network.conf:2: [Network] Subnet=10.1.2.3/24 is not valid" in refused(ONE)
        configuration.write_text("[Network]\nSubnet=192.0.2.0/25\n", encoding="ascii")
        assert "this host has 192.0.2.0/24 already" in refused(ONE)
        configuration.write_text("[Network]\nSubnet=10.99.0.0/24\nSubnet6=fd00:99::/64\n", encoding="ascii")
        plain.start(ONE)
        assert plain.addresses(ONE)[4].startswith("10.99.0.")
        assert plain.addresses(ONE)[6].startswith("fd00:99:")
        assert f"machine '{ONE}' has it" in refused(TWO, f"Address={plain.addresses(ONE)[4]}")
    finally:
        configuration.unlink()


def test_without_dnsmasq(lab: Lab) -> None:
    lab.sh("mv /usr/sbin/dnsmasq /usr/sbin/dnsmasq.away")
    try:
        if lab.server == "dnsmasq":
            assert "dnsmasq-base" in lab.refused(ONE)
        else:
            lab.start(ONE, "Port=8080:80")
            lab.serve(ONE, 80, "one")
            assert lab.ask(LOCAL[4], 8080).startswith("one ")
    finally:
        lab.sh("mv /usr/sbin/dnsmasq.away /usr/sbin/dnsmasq")


@pytest.mark.parametrize("last", [True, False], ids=["last", "one of two"])
@pytest.mark.parametrize("daemon", ["there", "gone"])
def test_nspawn_is_killed(lab: Lab, daemon: str, last: bool) -> None:
    lab.start(ONE, "Port=8080:80")
    if not last:
        lab.start(TWO, "Port=8081:80")
        lab.serve(TWO, 80, "two")
    unit = f"machine-{ONE}.service"
    if daemon == "gone":
        lab.sh(f"systemctl stop {UNIT}")
    lab.sh(f"systemctl kill --signal=KILL {unit}")
    going = f"systemctl list-units --no-legend --state=active,deactivating {unit}"
    lab.sh(f'while [ -n "$({going})" ]; do sleep 0.1; done')
    if daemon == "there":
        lab.driver.wait(ONE, "failed")
        lab.driver.start(ONE)  # after which it is known to be gone, and has begun anew
        assert [
            row["host"]
            for row in json.loads(lab.driver.ctl("ports", ONE, "--json", check=False).stdout or "[]")
        ] == []
        lab.driver.ctl("poweroff", ONE)
    rules = lab.sh("nft list ruleset")
    assert "8080" not in rules
    assert lab.sh("systemctl list-units --all --no-legend 'machined-port-tcp-8080*'") == ""
    if last:
        assert lab.left() == []
    else:
        for version in (4, 6):
            assert lab.ask(LOCAL[version], 8081).startswith("two ")
    if daemon == "gone":
        lab.sh(f"systemctl start {UNIT}")


def test_the_daemon_is_killed(lab: Lab) -> None:
    lab.start(ONE, "Port=8080:80")
    lab.start(TWO)
    lab.serve(ONE, 80, "one")
    lab.driver.ctl("publish", ONE, "9000:80")
    before = lab.network()
    lab.sh(f"systemctl kill --signal=KILL {UNIT}")
    for address in (*LOCAL.values(), *HERE.values()):
        assert lab.ask(address, 8080).startswith("one ")  # it was not needed for that
    # What is not as it should be is made so.
    lab.sh("nft delete table inet machined; systemctl stop machined-port-tcp-9000.socket")
    lab.sh(f"systemctl kill --signal=KILL {UNIT}", check=False)
    assert lab.network() == before
    lab.driver.ctl("publish", ONE, "9001:80")
    for address in (*LOCAL.values(), *HERE.values()):
        for port in (8080, 9000, 9001):
            assert lab.ask(address, port).startswith("one ")


FIREWALLS: Final = {
    "forward": (
        "forward",
        "inet",
        """table inet filter { chain EVERY {
            type filter hook forward priority 0; policy drop;
            ct state established accept
        }
        }""",
    ),
    "input": (
        "input",
        "inet",
        """table inet filter { chain EVERY {
            type filter hook input priority 0; policy drop;
            iifname "lo" accept
            iifname "up0" accept
            ct state established accept
        }
        }""",
    ),
    "docker": (
        "forward",
        "ip",
        """table ip filter {
            chain DOCKER-USER {
                counter return
            }
            chain FORWARD {
                type filter hook forward priority 0; policy drop;
                jump DOCKER-USER
            }
        }""",
    ),
}


@pytest.mark.parametrize("hook", list(FIREWALLS))
def test_a_firewall_that_drops(lab: Lab, hook: str) -> None:
    """Chains as Docker, ufw and people make them."""
    base, family, rules = FIREWALLS[hook]
    lab.driver.host.run(["nft", "-f", "-"], input=rules)
    before = lab.sh(f"nft list table {family} filter")
    configuration = lab.driver.host.path("/etc/machined/network.conf")
    configuration.parent.mkdir(exist_ok=True)
    try:
        lab.start(ONE, "Port=8080:80")
        assert lab.network()["advice"] == []
        wait = "/usr/lib/systemd/systemd-networkd-wait-online"
        lab.driver.guest(ONE, wait, "--interface=host0", "--timeout=60")
        lab.serve(ONE, 80, "one")
        lab.serve_outside(7002, "outside")
        assert lab.ask_from(ONE, OUTSIDE[4], 7002).startswith("outside ")
        if base == "forward":
            assert lab.ask(HERE[4], 8080, outside=True).startswith("one ")
        lab.driver.ctl("poweroff", ONE)
        assert lab.sh(f"nft list table {family} filter") == before
        # The administrator wants no rules of ours: then they are named.
        configuration.write_text("[Network]\nFirewall=no\n", encoding="ascii")
        lab.start(ONE)
        (advice,) = lab.network()["advice"]
        chain = "DOCKER-USER" if hook == "docker" else "EVERY"
        assert f"nft insert rule {family} filter {chain} iifname machined0 accept" in advice
        assert lab.driver.ctl("network", check=False).returncode == 1
        lab.sh(advice.partition(" Run: ")[2])
        lab.driver.guest(ONE, wait, "--interface=host0", "--timeout=60")
        assert lab.ask_from(ONE, OUTSIDE[4], 7002).startswith("outside ")
    finally:
        lab.sh("systemctl stop outside-7002.service", check=False)
        configuration.unlink(missing_ok=True)
        lab.sh(f"nft delete table {family} filter")


def test_more_interfaces(plain: Lab) -> None:
    for bridge, address in (("br-lan", "198.51.100.1"), ("br-two", "203.0.113.1")):
        plain.sh(f"ip link add {bridge} type bridge; ip addr add {address}/24 dev {bridge}")
        plain.sh(f"ip link set {bridge} up")
    try:
        words = "bridge=br-lan,mac=02:00:00:00:00:09,address=198.51.100.9/24,address=2001:db8:9::9/64"
        other = "bridge=br-two,mac=02:00:00:00:00:0a,address=203.0.113.9/24"
        plain.start(ONE, f"Link=lan0:{words}", f"Link=two0:{other}", "Link=spare0")
        told = json.loads(plain.driver.guest(ONE, "ip", "-j", "addr").stdout)
        links = {row["ifname"]: row for row in told}
        assert {"host0", "lan0", "two0", "spare0"} <= set(links)
        assert links["lan0"]["address"] == "02:00:00:00:00:09"
        assert links["two0"]["address"] == "02:00:00:00:00:0a"
        plain.serve(ONE, 80, "one")
        for link, bridge, address in (("lan0", "br-lan", "198.51.100.9"), ("two0", "br-two", "203.0.113.9")):
            assert address in {row["local"] for row in links[link]["addr_info"]}
            assert plain.ask(address, 80).startswith("one ")
            (port,) = json.loads(plain.sh(f"ip -j link show master {bridge}"))
            assert port["ifname"].startswith("vl-")
            assert port["link_index"] == links[link]["ifindex"]
    finally:
        plain.driver.clear(ONE)
        plain.sh("ip link del br-lan; ip link del br-two")


def test_a_machine_without_it_pays_nothing(plain: Lab) -> None:
    plain.sh(f"systemctl restart {UNIT}")
    plain.driver.start(ONE)
    assert plain.left() == []
    assert "ve-" in plain.sh("ip -o link")
    maps = plain.sh(
        f"ls -l /proc/{plain.driver.daemon_pid()}/map_files /proc/{plain.driver.daemon_pid()}/fd"
    )
    assert "network.lock" not in maps
    assert plain.driver.host.path("/run/machined/network").exists() is False
