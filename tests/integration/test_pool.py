# SPDX-License-Identifier: LGPL-2.1-or-later
"""The pool in a file: made, used, grown and taken back on whole hosts, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration import pools
from tests.integration.driver import OURS, Driver
from tests.integration.pools import (
    FILE,
    MEBIBYTE,
    POOL,
    go,
    held,
    images,
    is_filed,
    is_plain,
    listing,
    reached,
    refused,
    told,
)  # fmt: skip

pytestmark = [pytest.mark.integration, pytest.mark.either("sid")]


@pytest.fixture
def pool(own_managed: Driver) -> Iterator[Driver]:
    with pools.booted(own_managed) as driver:
        yield driver


# -- the good way ------------------------------------------------------------------------------------------


def test_a_pool_lives(pool: Driver) -> None:
    host = pool.host
    before = listing(pool)
    assert told(pool)["type"] == "directory"
    answer = pool.ctl("pool", "create", "--size=1G").stderr
    assert f"has 1G in the file {FILE}" in answer
    assert listing(pool) == before
    assert is_filed(pool)
    assert images(pool) == {
        ".hidden": "subvolume", ".host": "directory", "disk": "raw", "fixed": "subvolume", "g1": "subvolume",
        "many": "subvolume", "odd": "subvolume", "same": "raw",
    }  # fmt: skip
    found = told(pool)
    assert (found["type"], found["file"], found["size"]) == ("file", FILE, 1024 * MEBIBYTE)
    assert found["allocated"] < 512 * MEBIBYTE
    assert refused(pool, "pool", "create").count("btrfs already, in the file") == 1

    # A clone shares everything with its original.
    pool.ctl("clone", "g1", "g2")
    host.run(["btrfs", "filesystem", "sync", POOL])
    assert images(pool)["g2"] == "subvolume"
    assert told(pool)["used"] - found["used"] < 20 * MEBIBYTE
    pool.ctl("set-limit", "g2", "150M")
    host.run(["btrfs", "quota", "rescan", "-W", POOL])  # no limit holds while usage is counted anew
    write = ["dd", "if=/dev/urandom", f"of={POOL}/g2/big", "bs=1M", "count=200", "conv=fsync"]
    done = host.run(write, check=False)
    assert "Disk quota exceeded" in done.stderr
    pool.ctl("remove", "g2")

    # It grows under a machine that runs, by its own verb and by its limit.
    pool.start("g1")
    leader = pool.leader("g1")
    pool.ctl("pool", "grow", "1536M")
    assert told(pool)["size"] == 1536 * MEBIBYTE
    pool.ctl("set-limit", "2G")
    assert (told(pool)["size"], told(pool)["limit"]) == (2048 * MEBIBYTE, 2048 * MEBIBYTE)
    pool.ctl("set-limit", "1G")
    assert (told(pool)["size"], told(pool)["limit"]) == (2048 * MEBIBYTE, 1024 * MEBIBYTE)
    assert pool.leader("g1") == leader
    assert "Machine 'g1' runs from the pool" in refused(pool, "pool", "remove")

    # It comes back with the host, after a clean end and after a rude one.
    assert host.shutdown("reboot") == "reboot"
    host.boot()
    assert is_filed(pool)
    host.reboot()
    assert is_filed(pool)
    assert told(pool)["limit"] == 1024 * MEBIBYTE
    pool.start("g1")
    pool.ctl("poweroff", "g1")

    before = listing(pool)
    assert "is a plain directory" in pool.ctl("pool", "remove").stderr
    assert listing(pool) == before
    assert is_plain(pool)
    assert images(pool)["g1"] == "directory"
    row = pool.stock("list-images", "--no-legend").stdout.splitlines()
    assert [line.split()[2] for line in row if line.startswith("fixed ")] == ["yes"]
    pool.start("g1")


def test_it_outlives_machined(pool: Driver) -> None:
    host = pool.host
    pool.ctl("pool", "create", "--size=1G")
    host.run(["make", "-C", "/root/machined-src", "uninstall"], timeout=120)
    assert host.shutdown("reboot") == "reboot"
    host.boot()
    assert is_filed(pool)
    assert images(pool)["g1"] == "subvolume"
    pool.stock("clone", "g1", "g2")
    assert images(pool)["g2"] == "subvolume"


def test_a_host_whose_systemd_has_no_unit_for_it(pool: Driver) -> None:
    host = pool.host
    host.run(
        ["sh", "-ec", "find /usr/lib/systemd -name var-lib-machines.mount -delete; systemctl daemon-reload"]
    )
    before = listing(pool)
    pool.ctl("pool", "create", "--size=1G")
    assert host.shutdown("reboot") == "reboot"
    host.boot()
    assert is_filed(pool)
    assert listing(pool) == before
    pool.ctl("pool", "remove")
    assert is_plain(pool)
    assert "var-lib-machines" not in host.run(["find", "/etc/systemd/system"]).stdout


# -- what is refused ---------------------------------------------------------------------------------------


def test_what_is_refused_changes_nothing(pool: Driver) -> None:
    host = pool.host
    before = listing(pool)
    for words, why in {
        ("pool", "create", "--size=10M"): "too small: a pool",
        ("pool", "create", "--size=0"): "of no size",
        ("pool", "create", "--size=1X"): "Failed to parse size",
        ("pool", "create", "--size=900T"): "a tenth of the disk",
        ("pool", "create", "--size=8E"): "out of range",
        ("pool", "create", "more"): "does not go with",
        ("pool", "grow", "2G"): "is a plain directory",
        ("pool", "remove"): "nothing to remove",
        ("pool", "shrink"): "Unknown operation",
    }.items():
        assert why in refused(pool, *words), words
    assert "interactive authentication" in refused(pool, "pool", "create", user="tester").lower()

    host.run(["mv", "/usr/sbin/mkfs.btrfs", "/usr/sbin/mkfs.away"])
    assert "apt install btrfs-progs" in refused(pool, "pool", "create")
    host.run(["mv", "/usr/sbin/mkfs.away", "/usr/sbin/mkfs.btrfs"])

    host.run(["mount", "-t", "tmpfs", "tmpfs", f"{POOL}/odd/etc"])
    assert f"mounted at '{POOL}/odd/etc' is a part of the pool" in refused(pool, "pool", "create")
    host.run(["umount", f"{POOL}/odd/etc"])
    overlay = f"mkdir -p /mnt/o /mnt/up /mnt/work; mount -t overlay -o lowerdir={POOL}/odd,upperdir=/mnt/up"
    host.run(["sh", "-ec", f"mount -t tmpfs tmpfs /mnt; {overlay},workdir=/mnt/work overlay /mnt/o"])
    assert "mounted at '/mnt/o' is a part of the pool" in refused(pool, "pool", "create")
    host.run(["umount", "/mnt/o", "/mnt"])
    host.run(["sh", "-ec", f"mkdir -p /mnt/b; mount --bind {POOL}/odd/etc /mnt/b"])
    assert "mounted at '/mnt/b' is a part of the pool" in refused(pool, "pool", "create")
    host.run(["umount", "/mnt/b"])
    device = host.run(["losetup", "--find", "--show", f"{POOL}/disk.raw"]).stdout.strip()
    try:
        assert f"in use, by the loop device {device} over" in refused(pool, "pool", "create")
    finally:
        host.run(["losetup", "--detach", device])
    inside = f"cd {POOL}/odd && echo ready && exec sleep infinity"
    with pool.background(["sh", "-c", inside]) as shell:
        assert shell.stdout is not None
        assert shell.stdout.readline() == "ready\n"
        assert "in use, by process 'sleep'" in refused(pool, "pool", "create")
    assert listing(pool) == before
    assert is_plain(pool)
    # A machine that nobody registered holds the locks of its image.
    nspawn = ["systemd-nspawn", "-q", "--register=no", "--keep-unit", "-D", f"{POOL}/g1"]
    with pool.background(
        ["systemd-run", "-q", "--pipe", *nspawn, "sh", "-c", "echo ready; sleep infinity"]
    ) as guest:
        assert guest.stdout is not None
        assert guest.stdout.readline() == "ready\n"
        assert "Image 'g1' is in use" in refused(pool, "pool", "create")
        guest.kill()
    host.run(["sh", "-c", "systemctl stop 'run-*.service'"])
    pool.start("g1")
    assert "Machine 'g1' runs from the pool" in refused(pool, "pool", "create")
    assert is_plain(pool)


def test_a_disk_that_is_too_small(own_managed: Driver) -> None:
    host = own_managed.host
    host.plain_pool(300 * MEBIBYTE)
    host.add_guest("g1")
    host.boot()
    before = listing(own_managed)
    assert "lie on the disk twice while they are moved" in refused(own_managed, "pool", "create")
    assert listing(own_managed) == before
    assert is_plain(own_managed)


def test_a_disk_that_fills_up_meanwhile(own_managed: Driver) -> None:
    host = own_managed.host
    host.plain_pool(800 * MEBIBYTE)
    host.add_guest("g1")
    host.boot()
    before = listing(own_managed)
    with held(host, "/usr/bin/cp", "*"), own_managed.background([OURS, "pool", "create"]) as client:
        reached(host)
        host.run(["sh", "-c", "dd if=/dev/zero of=/var/lib/full bs=1M status=none"], check=False)
        go(host, "/usr/bin/cp")
        _, errors = client.communicate(timeout=120)
    assert client.returncode == 1
    assert "left as it is" in errors
    host.run(["rm", "/var/lib/full"])
    assert listing(own_managed) == before
    assert is_plain(own_managed)
