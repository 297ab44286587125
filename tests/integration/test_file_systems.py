# SPDX-License-Identifier: LGPL-2.1-or-later
"""Clones, layers and machines that leave nothing behind, with the pool on different file systems."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.host import layer
from tests.integration.driver import Driver

pytestmark = [pytest.mark.integration, pytest.mark.either("trixie")]

POOL = "/var/lib/machines"
MOUNTS = {
    "btrfs": "truncate -s 1G /srv/pool; mkfs.btrfs -q /srv/pool; mount -o loop /srv/pool",
    "ext4": "truncate -s 1G /srv/pool; mkfs.ext4 -q /srv/pool; mount -o loop /srv/pool",
    "tmpfs": "mount -t tmpfs -o size=1G pool",
}
# What a clone of a plain directory, and one of the first clone, come to.
COSTS = {"btrfs": ("reflink", "snapshot"), "ext4": ("layer", "layer"), "tmpfs": ("layer", "layer")}
TYPES = {"btrfs": "subvolume", "ext4": "mstack", "tmpfs": "mstack"}


@pytest.fixture(scope="module", params=list(MOUNTS))
def pool(suite: str, request: pytest.FixtureRequest) -> Iterator[tuple[Driver, str]]:
    """A host whose pool is on such a file system, with a guest in it that is called `base`."""
    kind: str = request.param
    if f"\t{kind}\n" not in Path("/proc/filesystems").read_text(encoding="ascii"):
        pytest.skip(f"no {kind} in this kernel")
    with layer.machined_host(suite) as host:
        driver = Driver(host.boot())
        host.add_guest("base")
        made = host.run(
            ["sh", "-ec", f"mv {POOL}/base /srv/base; {MOUNTS[kind]} {POOL}; cp -a /srv/base {POOL}/base"],
            check=False,
        )
        if made.returncode:
            pytest.skip(f"no {kind} to be had here: {made.stderr}")
        yield driver, kind


def cost(managed: Driver, name: str, new_name: str) -> str:
    return str(json.loads(managed.call("CloneImage", "ssa{sv}", name, new_name, "0").stdout)["data"][0])


def test_all_of_it(pool: tuple[Driver, str]) -> None:
    managed, kind = pool
    before = managed.host.run(["sh", "-c", f"cd {POOL}/base && find . | sort | sha256sum"]).stdout
    assert cost(managed, "base", "one") == COSTS[kind][0]
    assert cost(managed, "one", "two") == COSTS[kind][1]
    managed.ctl("clone", "--layer", "base", "three")
    managed.ctl("clone", "--copy", "base", "four")
    rows = {row["name"]: row for row in json.loads(managed.ctl("list-images", "--output=json").stdout)}
    assert {rows[name]["type"] for name in ("one", "two")} == {TYPES[kind]}
    assert rows["three"]["type"] == "mstack"
    assert rows["four"]["type"] == ("subvolume" if kind == "btrfs" else "directory")
    names = ["one", "two", "three", "four", "five", "six"]
    managed.ctl("start", *names[:4])
    managed.ctl("start", "base", "--as", "five", "--as", "six")
    for name in names:
        managed.wait(name, "running")
        managed.guest(name, "sh", "-ec", f"echo {name} >/root/mine; mv /etc/dpkg /etc/moved")
    numbers = {managed.guest(name, "cat", "/etc/machine-id").stdout for name in names}
    assert len(numbers) == len(names), "each is a system of its own"
    for name in names:
        assert managed.guest(name, "cat", "/root/mine").stdout.strip() == name
    managed.ctl("poweroff", *names)
    assert managed.host.run(["sh", "-c", f"cd {POOL}/base && find . | sort | sha256sum"]).stdout == before
    managed.ctl("flatten", "three")
    managed.start("three")
    assert managed.guest("three", "cat", "/root/mine").stdout == "three\n"
    managed.ctl("poweroff", "three")
    managed.ctl("remove", *names[:4])
    left = managed.host.run(["ls", "-A", POOL]).stdout.split()
    assert left in (["base"], ["base", "lost+found"])
    mounts = managed.host.run(["findmnt", "--list", "--noheadings", "--output", "TARGET"]).stdout
    assert "/run/machined" not in mounts


def test_a_base_of_any_kind(pool: tuple[Driver, str]) -> None:
    """It is read-only for as long as there are layers over it, and clones of it are not."""
    managed, _ = pool

    def is_read_only(name: str) -> bool:
        rows = json.loads(managed.ctl("list-images", "--output=json").stdout)
        return next(bool(row["ro"]) for row in rows if row["name"] == name)

    managed.ctl("clone", "--copy", "base", "plain")
    managed.ctl("clone", "--layer", "plain", "over")
    assert is_read_only("plain")
    path = f"{POOL}/plain/etc/hostname"
    assert managed.host.run(["touch", f"{POOL}/plain/new"], check=False).returncode != 0
    before = managed.host.run(["sh", "-c", f"cat {path}"], check=False).stdout
    done = managed.call("SetFirstBoot", "sa{sv}", "plain", "1", "hostname", "s", "x", check=False)
    assert "layers over it" in done.stderr
    assert managed.host.run(["sh", "-c", f"cat {path}"], check=False).stdout == before
    clones = [("clone", "plain", "another"), ("clone", "--copy", "plain", "copy")]
    for words in clones:
        managed.ctl(*words)
        assert not is_read_only(words[-1])
        managed.start(words[-1])
        managed.guest(words[-1], "touch", "/root/mine", "/mine")
        managed.ctl("poweroff", words[-1])
    managed.ctl("remove", "over", "another", "copy")
    assert not is_read_only("plain")
    managed.host.run(["touch", f"{POOL}/plain/new"])
    managed.ctl("remove", "plain")
