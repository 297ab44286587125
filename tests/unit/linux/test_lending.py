# SPDX-License-Identifier: LGPL-2.1-or-later
"""Links that go to another network namespace and are fetched, in namespaces of the test's own: root only."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from machined.linux.lending import Lent

ROOT = Path(__file__).resolve().parents[3]

PREPARE = """
import os, subprocess
from dataclasses import replace
from machined.linux import lending, links
def ip(*words): subprocess.run(["ip", *words], check=True)
def names(*prefix):
    told = subprocess.run([*prefix, "ip", "-o", "link"], capture_output=True, text=True, check=True).stdout
    return sorted(line.split(":")[1].split("@")[0].strip() for line in told.splitlines())
child = subprocess.Popen(["unshare", "--net", "sh", "-c", "echo; read x"], stdin=-1, stdout=-1)
child.stdout.readline()
inside = ["nsenter", f"--net=/proc/{child.pid}/ns/net"]
namespace = os.open(f"/proc/{child.pid}/ns/net", os.O_RDONLY)
ip("link", "add", "out0", "type", "veth", "peer", "name", "peer0")
ip("link", "set", "out0", "up")
def lend(wanted="lan"):
    (link,) = lending.look([("out0", wanted)])
    ip("link", "set", "out0", "netns", str(child.pid), "name", wanted)
    (link,) = lending.seen(namespace, [link])
    return link
"""


@pytest.fixture
def run() -> Callable[[str], list[str]]:
    """Runs a program of ours in a new network namespace; the lines it prints."""
    if os.geteuid() != 0 or shutil.which("unshare") is None or shutil.which("ip") is None:
        pytest.skip("only root has network namespaces, and iproute2 is needed")

    def run(program: str) -> list[str]:
        command = [
            "unshare",
            "--net",
            sys.executable,
            "-c",
            PREPARE + program + 'child.communicate(b"\\n")\n',
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
        if "Operation not permitted" in done.stderr and "unshare" in done.stderr:
            pytest.skip("network namespaces are denied")
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    return run


def test_there_and_back(run: Callable[[str], list[str]]) -> None:
    """Whatever it is called there meanwhile, and with no descriptor left."""
    program = """
before = len(os.listdir("/proc/self/fd"))
print(lending.look([("none", "x")]))
link = lend()
print(link.kind, lending.left(namespace, [link]) == [link], names())
subprocess.run([*inside, "ip", "link", "set", "lan", "name", "mine"], check=True)
print(lending.fetch(namespace, link), names(), names(*inside), lending.left(namespace, [link]))
print("DOWN" in subprocess.run(["ip", "link", "show", "out0"], capture_output=True, text=True).stdout)
print(lending.recover(link), len(os.listdir("/proc/self/fd")) - before)
"""
    assert run(program) == [
        "[]",
        "veth True ['lo', 'peer0']",
        "out0 ['lo', 'out0', 'peer0'] ['lo'] []",
        "True",
        "out0 0",
    ]


def test_its_name_is_another_s(run: Callable[[str], list[str]]) -> None:
    """Then it has the one that it had there, and where that is another's as well one of its own."""
    program = """
for more in ([], ["lan"]):
    link = lend()
    for name in ("out0", *more):
        ip("link", "add", name, "type", "veth", "peer", "name", f"x-{name}")
    name = lending.fetch(namespace, link)
    print(name == "lan", name == link.passing, names())
    for one in ("out0", *more):
        ip("link", "del", one)
    print(lending.recover(replace(link, inside=name, index=links.socket.if_nametoindex(name))))
"""
    lines = run(program)
    assert lines[:2] == ["True False ['lan', 'lo', 'out0', 'peer0', 'x-out0']", "out0"]
    assert lines[2].startswith("False True")
    assert lines[3] == "out0"


def test_others_are_left_where_they_are(run: Callable[[str], list[str]]) -> None:
    """One that was made there under the number of one that was removed; and here one of the same name."""
    program = """
link = lend()
try:
    lending.fetch(namespace, replace(link, kind="wireguard"))
except OSError as error:
    print(error.strerror)
subprocess.run([*inside, "ip", "link", "del", "lan"], check=True)
print(lending.left(namespace, [link]), repr(lending.recover(link)))
ip("link", "add", "lan", "type", "veth", "peer", "name", "b")
print(repr(lending.recover(link)), names())
"""
    assert run(program) == ["it is not there any more", "[] ''", "'' ['b', 'lan', 'lo']"]


def test_alternative_names(run: Callable[[str], list[str]]) -> None:
    program = """
ip("link", "property", "add", "dev", "out0", "altname", "a-very-long-name-of-an-interface")
(link,) = lending.look([("a-very-long-name-of-an-interface", "lan")])
print(link.host, link.inside)
"""
    assert run(program) == ["out0 lan"]


def test_a_name_on_the_way() -> None:
    one, two = Lent("eth0", "eth0"), Lent("eth1", "eth0")
    assert one.passing != two.passing
    assert len(one.passing) == 15
