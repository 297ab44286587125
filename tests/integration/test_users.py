# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whose users machines have: picked once, kept, nobody else's, and given back to the tree by chown."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.integration.configured import COMMAND, POOL, Configured
from tests.integration.driver import UNIT, Driver, unique_name

pytestmark = pytest.mark.integration

PICK = COMMAND.replace("PrivateUsers=no\n", "")
LOCKS = "/run/systemd/nspawn-uid"
KEPT = "/var/lib/machined/ranges"
# As systemd-nspawn locks what it has picked.
HOLD = """
import fcntl, struct, sys, time
file = open(sys.argv[1], "w")
fcntl.fcntl(file, fcntl.F_OFD_SETLK, struct.pack("hhqqi0q", fcntl.F_WRLCK, 0, 0, 0, 0))
print("held", flush=True)
time.sleep(600)
"""


def base_of(box: Configured) -> int:
    first, base, count = box.proc("uid_map").split()
    assert (first, count) == ("0", "65536")
    return int(base)


def end(box: Configured) -> None:
    """As stop(), to the very end: nothing of it is held any more."""
    box.managed.ctl("poweroff", box.name, "--timeout=1")  # nothing obeys in there


def kept(managed: Driver, name: str) -> int | None:
    """What is written down for a machine."""
    link = managed.host.path(f"{KEPT}/{name}")
    return int(os.readlink(link).partition(":")[0]) if link.is_symlink() else None


def is_locked(managed: Driver, base: int) -> bool:
    return managed.host.path(f"{LOCKS}/{base}").exists()


def owner(managed: Driver, path: str) -> tuple[int, int]:
    user, group = managed.host.run(["stat", "--format=%u %g", f"{POOL}/{path}"]).stdout.split()
    return int(user), int(group)


@pytest.fixture
def other(managed: Driver, fresh_machine: str) -> Iterator[Configured]:
    """One more machine."""
    yield from Configured(managed, fresh_machine).lifetime()


def test_a_range_is_kept(box: Configured, managed: Driver) -> None:
    planned = managed.ctl("explain", box.name).stdout
    box.start(PICK)
    base = base_of(box)
    assert f"--private-users={base}:65536" in planned
    assert kept(managed, box.name) == base
    assert is_locked(managed, base)
    assert box.inside("stat", "--format=%u", "/usr") == "0"
    assert owner(managed, f"{box.name}/usr") == (0, 0), "the tree is mapped, not changed"
    managed.host.run(["systemctl", "restart", UNIT])
    assert is_locked(managed, base), "by who adopts the machine"
    assert f"--private-users={base}:65536" in managed.ctl("explain", box.name).stdout
    end(box)
    assert not is_locked(managed, base)
    box.start(PICK)
    assert base_of(box) == base
    end(box)
    # Somebody else has it, for once.
    with managed.background(["python3", "-c", HOLD, f"{LOCKS}/{base}"]) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        box.start(PICK)
        assert base_of(box) != base
        end(box)
    assert kept(managed, box.name) == base
    new = unique_name()
    managed.ctl("rename", box.name, new)
    try:
        assert kept(managed, box.name) is None
        assert kept(managed, new) == base
        renamed = Configured(managed, new)
        renamed.start(PICK)
        assert base_of(renamed) == base
        renamed.stop()
    finally:
        managed.ctl("rename", new, box.name)
    assert kept(managed, box.name) == base


def test_a_range_is_one_machines(box: Configured, other: Configured, managed: Driver) -> None:
    box.start(PICK)
    base = base_of(box)
    box.stop()
    # What is kept for one is not picked for another, which would begin with the very same.
    place = managed.host.path(KEPT)
    (place / other.name).unlink(missing_ok=True)
    other.start(PICK)
    theirs = base_of(other)
    assert theirs != base
    box.start(PICK)
    assert base_of(box) == base
    for one in (box, other):
        end(one)
    managed.ctl("remove", other.name)
    assert kept(managed, other.name) is None
    assert kept(managed, box.name) == base


def test_a_chown_is_undone(other: Configured, managed: Driver) -> None:
    name = other.name
    managed.host.run(["chmod", "4755", f"{POOL}/{name}/usr/bin/stat"])
    other.start(f"{PICK}[Files]\nPrivateUsersOwnership=chown\n")
    base = base_of(other)
    refused = managed.ctl("chown", name, check=False)
    assert refused.returncode == 1
    assert f"machine '{name}' runs" in refused.stderr
    assert "Power it off first" in refused.stderr
    other.stop()
    assert owner(managed, name) == owner(managed, f"{name}/usr") == (base, base)
    # Shifted on the disk, and so the range is clear; nothing is to be done.
    other.start(PICK)
    assert base_of(other) == base
    assert other.inside("stat", "--format=%u", "/usr") == "0"
    other.stop()
    done = managed.ctl("chown", name)
    assert "Changed the owners of" in done.stderr + done.stdout
    assert owner(managed, name) == owner(managed, f"{name}/usr") == (0, 0)
    host = managed.host
    found = host.run(["find", f"{POOL}/{name}", "-uid", "+65535", "-o", "-gid", "+65535"]).stdout
    assert found == ""
    mode = host.run(["stat", "--format=%a", f"{POOL}/{name}/usr/bin/stat"]).stdout.strip()
    assert mode == "4755"
    again = managed.ctl("chown", name)
    assert "Changed the owners of 0 files" in again.stderr + again.stdout
    other.start(PICK)
    assert base_of(other) == base
    assert other.inside("stat", "--format=%u", "/usr") == "0"
    other.inside("touch", "/root/x")
    assert owner(managed, f"{name}/root/x") == owner(managed, f"{name}/usr") == (0, 0), "mapped again"
    other.stop()
    managed.ctl("chown", name, "--shift=131072", "--quiet")
    assert owner(managed, f"{name}/usr") == (131072, 131072)


def test_ranges_that_overlap(box: Configured, other: Configured, managed: Driver) -> None:
    box.start(PICK)
    base = base_of(box)
    for users in (f"{base}:65536", f"{base + 32768}:65536", f"{base - 65536}:131072"):
        other.file.write_text(f"{PICK}[Exec]\nPrivateUsers={users}\n", encoding="ascii")
        done = managed.ctl("start", other.name, check=False)
        assert done.returncode == 1
        line = len(PICK.splitlines()) + 2
        assert f"{other.name}.conf:{line}: [Exec] PrivateUsers={users}: machine '{box.name}'" in done.stderr
        assert f"the users {base} to {base + 65535}" in done.stderr
    done = managed.ctl("check", other.name, check=False)
    assert f"machine '{box.name}', which runs" in done.stdout + done.stderr
    box.stop()
    # On purpose.
    both = f"{PICK}[Exec]\nPrivateUsers=1310720:65536\n[Files]\nPrivateUsersOwnership=map\n"
    box.start(both)
    other.start(both)
    assert base_of(box) == base_of(other) == 1310720
    other.stop()
    managed.host.run(["systemctl", "restart", UNIT])
    other.file.write_text(both.replace("1310720", "1310721"), encoding="ascii")
    assert f"machine '{box.name}'" in managed.ctl("start", other.name, check=False).stderr
    end(box)


def test_what_chown_does_not_do(managed: Driver, fresh_machine: str) -> None:
    name, raw = unique_name(), unique_name()
    managed.ctl("clone", "--layer", fresh_machine, name)
    managed.host.run(["truncate", "--size=1M", f"{POOL}/{raw}.raw"])
    try:
        for image, text in (
            (name, "made of layers"), (raw, "a disk image"), (fresh_machine, "are layers over it"),
            (".host", "belongs to the host"), ("none", "No image 'none' known"),
        ):  # fmt: skip
            done = managed.ctl("chown", image, check=False)
            assert (done.returncode, text in done.stderr) == (1, True), done.stderr
        assert "No range of users begins" in managed.ctl("chown", raw, "--shift=7", check=False).stderr
        managed.ctl("remove", name)
        managed.ctl("read-only", fresh_machine)
        assert "is read-only" in managed.ctl("chown", fresh_machine, check=False).stderr
        managed.ctl("read-only", fresh_machine, "no")
    finally:
        managed.ctl("remove", name, check=False)
        managed.ctl("remove", raw, check=False)
