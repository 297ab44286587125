# SPDX-License-Identifier: LGPL-2.1-or-later
"""A host with a world outside of it: another network namespace, behind a link, that has no route back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from tests.integration.driver import Driver

SERVER: Final = """
use IO::Socket::IP;
my $server = IO::Socket::IP->new(
    Listen => 9, LocalHost => "::", LocalPort => $ARGV[0], V6Only => 0, ReuseAddr => 1) or die "$@";
$SIG{TERM} = "DEFAULT";
system("systemd-notify --ready");
while (my $peer = $server->accept) { print $peer "$ARGV[1] ".$peer->peerhost."\\n"; close $peer }
"""
CLIENT: Final = """
import socket, sys
try:
    with socket.create_connection((sys.argv[1], int(sys.argv[2])), 10) as peer:
        print(peer.makefile().readline().strip())
except OSError as error:
    print(f"failed: {error}")
"""
GUEST_CLIENT: Final = """
use IO::Socket::IP;
my $peer = IO::Socket::IP->new(PeerHost => $ARGV[0], PeerPort => $ARGV[1], Timeout => 10);
print $peer ? <$peer> : "failed: $@\\n";
"""
NAMES: Final = """
import socket, subprocess
server = socket.create_server(("::", 53), family=socket.AF_INET6, dualstack_ipv6=True)
server.close()
server = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
server.bind(("::", 53))
subprocess.run(["systemd-notify", "--ready"])
while True:
    asked, peer = server.recvfrom(4096)
    end = asked.index(0, 12) + 5
    address = asked[end - 4 : end - 2] == b"\\0\\1"
    answer = asked[:2] + b"\\x81\\x80\\0\\1\\0" + bytes([address]) + bytes(4) + asked[12:end]
    if address:
        answer += b"\\xc0\\x0c\\0\\1\\0\\1\\0\\0\\0\\x3c\\0\\4" + socket.inet_aton("203.0.113.77")
    server.sendto(answer, peer)
"""
"""A name server that has one address for everything."""
HERE: Final = {4: "192.0.2.1", 6: "2001:db8::1"}
OUTSIDE: Final = {4: "192.0.2.2", 6: "2001:db8::2"}
_PREPARE: Final = f"""
ip netns add outside
ip link add up0 type veth peer name eth0 netns outside
ip addr add {HERE[4]}/24 dev up0
ip addr add {HERE[6]}/64 dev up0 nodad
ip link set up0 up
ip -n outside addr add {OUTSIDE[4]}/24 dev eth0
ip -n outside addr add {OUTSIDE[6]}/64 dev eth0 nodad
ip -n outside link set eth0 up
ip -n outside link set lo up
"""
_STOP_NETWORKD: Final = """
systemctl mask --runtime --now systemd-networkd.service \
    $(systemctl list-unit-files --no-legend 'systemd-networkd*.socket' | cut -d' ' -f1) 2>/dev/null
systemctl is-active systemd-networkd.service
"""


class Lab:
    """Asks and answers on all sides. `server` is who gives addresses: dnsmasq or networkd."""

    def __init__(self, driver: Driver, server: str) -> None:
        self.driver, self.server = driver, server
        self.sh(_PREPARE)
        if server == "dnsmasq":
            assert self.sh(_STOP_NETWORKD, check=False).strip().endswith("inactive")
        driver.host.path("/root/client.py").write_text(CLIENT, encoding="ascii")
        driver.host.path("/root/server.pl").write_text(SERVER, encoding="ascii")

    def sh(self, script: str, *, check: bool = True) -> str:
        return self.driver.host.run(["sh", "-ec", script], check=check).stdout

    def start(self, name: str, *settings: str) -> None:
        words = [word for setting in ("Network=managed", *settings) for word in ("--set", setting)]
        self.driver.ctl("start", name, *words)
        self.driver.wait(name, "running")

    def refused(self, name: str, *settings: str) -> str:
        """What the start of a machine with these settings is refused with."""
        words = [word for setting in ("Network=managed", *settings) for word in ("--set", setting)]
        done = self.driver.ctl("start", name, *words, check=False)
        assert done.returncode == 1, done
        assert self.driver.state(name) == "stopped"
        return done.stderr

    def network(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.driver.ctl("network", "--json", check=False).stdout)
        return found

    def addresses(self, name: str) -> dict[int, str]:
        (row,) = [row for row in self.network()["machines"] if row["machine"] == name]
        return {4: row["address"], 6: row["address6"]}

    def serve(self, name: str, port: int, word: str) -> None:
        """A server in a machine, that answers with a word and who asks."""
        tree = self.driver.host.path(f"/var/lib/machines/{name}/root/server.pl")
        tree.write_text(SERVER, encoding="ascii")
        command = [
            "systemd-run",
            "--quiet",
            "-M",
            name,
            "--service-type=notify",
            "--property=NotifyAccess=all",
        ]
        self.driver.host.run([*command, "perl", "/root/server.pl", str(port), word])

    def serve_outside(self, port: int, word: str) -> None:
        command = ["systemd-run", "--quiet", "--collect", f"--unit=outside-{port}", "--service-type=notify"]
        inside = ["ip", "netns", "exec", "outside", "perl", "/root/server.pl", str(port), word]
        self.driver.host.run([*command, "--property=NotifyAccess=all", *inside])

    @contextmanager
    def names_outside(self) -> Iterator[None]:
        """The host asks a name server out there: all names are 203.0.113.77."""
        script = self.driver.host.path("/root/names.py")
        script.write_text(NAMES, encoding="ascii")
        run = "systemd-run -q --collect --unit=outside-53 --service-type=notify -p NotifyAccess=all"
        self.sh(f"{run} ip netns exec outside python3 /root/names.py")
        self.sh("mv /etc/resolv.conf /etc/resolv.before")
        try:
            self.sh(f"echo nameserver {OUTSIDE[4]} >/etc/resolv.conf")
            yield
        finally:
            self.sh("mv /etc/resolv.before /etc/resolv.conf; systemctl stop outside-53.service")

    def ask(self, address: str, port: int, *, outside: bool = False) -> str:
        """What a server answers to the host, or to the world outside of it."""
        prefix = ["ip", "netns", "exec", "outside"] if outside else []
        argv = [*prefix, "python3", "/root/client.py", address, str(port)]
        return self.driver.host.run(argv).stdout.strip()

    def ask_from(self, name: str, address: str, port: int) -> str:
        """What it answers to a machine."""
        done = self.driver.guest(name, "perl", "-e", GUEST_CLIENT, address, str(port), check=False)
        return done.stdout.strip()

    def has_address(self, name: str, address: str) -> bool:
        return f" {address}/" in self.driver.guest(name, "ip", "-o", "addr").stdout

    def end(self, *names: str) -> None:
        """End machines, and wait until the network has gone, which may be after the last of them."""
        for name in names:
            self.driver.clear(name)
        self.sh("timeout 30 sh -c 'while [ -e /run/machined/network ]; do sleep 0.05; done'", check=False)

    def left(self) -> list[str]:
        """Everything of the network that is in the host."""
        script = """
        ip -o link | grep -o 'machined0\\|vb-[^@:]*\\|vl-[^@:]*' | sort -u
        nft list ruleset | grep -n machined
        find /run/machined /run/machined-dnsmasq /run/systemd/network -type f 2>/dev/null | grep -v lock
        systemctl list-units --all --no-legend --plain 'machined-dnsmasq*' 'machined-port*'
        [ "$(cat /proc/sys/net/ipv4/ip_forward)" = 0 ] || echo forwarding
        [ "$(cat /proc/sys/net/ipv6/conf/all/forwarding)" = 0 ] || echo forwarding6
        [ "$(cat /proc/sys/net/ipv6/conf/up0/accept_ra)" = 1 ] || echo accept_ra
        """
        return self.sh(script, check=False).split("\n")[:-1]
