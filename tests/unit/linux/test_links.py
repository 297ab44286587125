# SPDX-License-Identifier: LGPL-2.1-or-later
"""Links, in a network namespace of the test's own: root only."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from ipaddress import ip_interface
from pathlib import Path

import pytest

from machined.linux import links

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def run() -> Callable[[str], str]:
    """Runs a program of ours in a new network namespace."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("only root has network namespaces")

    def run(program: str) -> str:
        command = ["unshare", "--net", sys.executable, "-c", program]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
        if "Operation not permitted" in done.stderr and "unshare" in done.stderr:
            pytest.skip("network namespaces are denied")
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_exists() -> None:
    assert links.exists("lo")
    assert not links.exists("no-such-link")


def test_a_bridge(run: Callable[[str], str]) -> None:
    program = """
from ipaddress import ip_interface
from machined.linux import links
addresses = [ip_interface("10.9.8.1/24"), ip_interface("fd00:9::1/64")]
for _ in range(2):  # what is there already stays
    links.make_bridge("br9", "02:00:00:00:00:09", addresses)
print([str(used.network) for used in links.used_networks() if used.link == "br9"])
try:
    links.make_bridge("lo", "02:00:00:00:00:09", addresses)
except FileExistsError as error:
    print(error.strerror)
try:
    links.attach("lo", "br-none")
except OSError as error:
    print(error.strerror)
links.remove("br9")
links.remove("br9")
print(links.exists("br9"))
"""
    lines = run(program).splitlines()
    assert "10.9.8.1/24" in lines[0]
    assert lines[1] == "there is an interface 'lo' that is no bridge"
    assert lines[2] == "there is no interface 'br-none'"
    assert lines[3] == "False"


def test_a_link_in_another_namespace(run: Callable[[str], str]) -> None:
    program = """
import os, subprocess
from ipaddress import ip_interface
from machined.linux import links
child = subprocess.Popen(["unshare", "--net", "sh", "-c", "echo; read x"], stdin=-1, stdout=-1)
child.stdout.readline()
ip = ["nsenter", f"--net=/proc/{child.pid}/ns/net", "ip"]
subprocess.run(["ip", "link", "add", "out", "type", "veth", "peer", "name", "in", "netns", str(child.pid)])
subprocess.run(["ip", "link", "set", "out", "up"])
namespace = os.open(f"/proc/{child.pid}/ns/net", os.O_RDONLY)
for _ in range(2):
    links.give(namespace, "in", [ip_interface("10.9.8.2/24")], ["10.9.8.1"], "02:00:00:00:00:07")
print(subprocess.run([*ip, "-j", "addr", "show", "in"], capture_output=True, text=True).stdout)
print(subprocess.run([*ip, "-j", "route"], capture_output=True, text=True).stdout)
print(links.exists("in"))
child.communicate(b"\\n")
"""
    if shutil.which("ip") is None or shutil.which("nsenter") is None:
        pytest.skip("iproute2 is not installed")
    address, routes, here = filter(None, map(str.strip, run(program).splitlines()))
    (row,) = [row for row in json.loads(address) if row]
    assert row["address"] == "02:00:00:00:00:07"
    assert "10.9.8.2" in {found["local"] for found in row["addr_info"]}
    assert "10.9.8.1" in {route.get("gateway") for route in json.loads(routes)}
    assert here == "False", "the thread that went there has not taken us along"


def test_addresses_are_interfaces() -> None:
    assert links.Used(ip_interface("10.0.0.1/8"), "lo").network.network.prefixlen == 8
