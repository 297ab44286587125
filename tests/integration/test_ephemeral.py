# SPDX-License-Identifier: LGPL-2.1-or-later
"""Machines that leave nothing behind: several of one tree at once, and what is left after each end."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from machined.linux.locks import holder_conflict
from tests.integration.driver import UNIT, Driver, unique_name

pytestmark = pytest.mark.integration

POOL = "/var/lib/machines"


@pytest.fixture
def names(managed: Driver) -> Iterator[list[str]]:
    """Names for machines, which are ended afterwards."""
    names = [unique_name() for _ in range(5)]
    yield names
    for name in names:
        managed.clear(name)


def hash_of(managed: Driver, name: str) -> str:
    """Of all that is in a tree: names, owners, modes, times of change of files, and their data."""
    script = (
        f"cd {POOL}/{name} && {{ find . -printf '%p %u %g %m %T@ %l\\n' | sort; "
        f"find . -type f -print0 | sort -z | xargs -0 sha256sum; }} | sha256sum"
    )
    return managed.host.run(["sh", "-c", script]).stdout


def left(managed: Driver, name: str) -> str:
    """What there is of a machine outside of its image."""
    script = (
        f"find {POOL} -maxdepth 1 -name '.#ephemeral-{name}*'; find /run/machined/roots -name '*{name}*'; "
        f"findmnt --noheadings --list --output TARGET | grep -F /roots/{name}; ls /var/log/journal"
    )
    return managed.host.run(["sh", "-c", script], check=False).stdout


def test_several_of_one_tree(managed: Driver, machine: str, names: list[str]) -> None:
    before, journals = hash_of(managed, machine), left(managed, names[0])
    managed.ctl("start", machine, *(word for name in names for word in ("--as", name)))
    for name in names:
        managed.wait(name, "running")
    ids = {managed.guest(name, "cat", "/etc/machine-id").stdout for name in names}
    assert len(ids) == len(names)
    assert {managed.guest(name, "hostname").stdout.strip() for name in names} == set(names)
    users = {managed.guest(name, "cat", "/proc/self/uid_map").stdout for name in names}
    assert len(users) == len(names), "each has users of its own"
    for name in names:
        managed.guest(
            name, "sh", "-c", f"echo {name} >/root/mine; chown daemon /root/mine; rm -r /usr/games"
        )
    for name in names:
        assert managed.guest(name, "sh", "-c", "cat /root/mine; stat -c %U /root/mine").stdout.split() == [
            name,
            "daemon",
        ]
    assert set(names) <= set(managed.listed())
    images = managed.ctl("list-images", "--all", "--no-legend").stdout.split()
    assert not set(names) & set(images), "a machine that leaves nothing behind is no image"
    managed.ctl("poweroff", *names)
    for name in names:
        assert left(managed, name) == journals
    assert hash_of(managed, machine) == before
    managed.start(machine)  # nothing holds it any more


def test_it_names_itself(managed: Driver, machine: str) -> None:
    name = managed.ctl("start", "--ephemeral", machine).stdout.strip()
    try:
        assert name.startswith(f"{machine}-")
        managed.wait(name, "running")
    finally:
        managed.ctl("poweroff", name)


def test_a_reboot_keeps_what_it_wrote(managed: Driver, machine: str, names: list[str]) -> None:
    name = names[0]
    managed.ctl("start", machine, "--as", name)
    managed.wait(name, "running")
    managed.guest(name, "touch", "/root/kept")
    number = managed.guest(name, "cat", "/etc/machine-id").stdout
    managed.ctl("reboot", name)
    managed.wait(name, "running")
    assert managed.guest(name, "ls", "/root").stdout.split() == ["kept"]
    assert managed.guest(name, "cat", "/etc/machine-id").stdout == number
    managed.host.run(["systemctl", "restart", f"machine-{name}.service"])
    managed.wait(name, "running")
    assert managed.guest(name, "ls", "/root").stdout.split() == ["kept"]


@pytest.mark.parametrize("daemon", ["there", "gone"])
def test_nothing_is_left_when_nspawn_is_killed(
    managed: Driver, machine: str, names: list[str], daemon: str
) -> None:
    name = names[0]
    managed.ctl("start", machine, "--as", name)
    managed.wait(name, "running")
    before = left(managed, names[1])
    unit = f"machine-{name}.service"
    if daemon == "gone":
        managed.host.run(["systemctl", "stop", UNIT])
    managed.host.run(["systemctl", "kill", "--signal=KILL", unit])
    # The unit's own cleaning is part of its end.
    going = f"systemctl list-units --no-legend --state=active,deactivating {unit}"
    managed.host.run(["sh", "-c", f'while [ -n "$({going})" ]; do sleep 0.1; done'])
    if daemon == "gone":
        assert left(managed, name) == before
        managed.host.run(["systemctl", "start", UNIT])
    assert left(managed, name) == before
    managed.start(machine)  # nothing holds it any more


def test_the_daemon_comes_back(managed: Driver, machine: str, names: list[str]) -> None:
    """What runs goes on, and what it is made of is still held."""
    name = names[0]
    managed.ctl("start", machine, "--as", name)
    managed.wait(name, "running")
    managed.host.run(["systemctl", "kill", "--signal=KILL", UNIT])
    done = managed.ctl("start", machine, check=False)
    assert done.returncode == 1
    assert f"running on it are {name}" in done.stderr
    for words in (["remove", machine], ["rename", machine, "other"], ["read-only", machine]):
        assert managed.ctl(*words, check=False).returncode == 1
    done = managed.host.run(["systemd-nspawn", f"--directory={POOL}/{machine}", "true"], check=False)
    assert "busy" in done.stderr, "systemd-nspawn heeds our locks"
    assert managed.guest(name, "hostname").stdout.strip() == name


def test_settings_of_the_image_are_lent(managed: Driver, machine: str, names: list[str]) -> None:
    settings = managed.host.path(f"/etc/systemd/nspawn/{machine}.nspawn")
    settings.parent.mkdir(exist_ok=True)
    settings.write_text("[Exec]\nEnvironment=LENT=yes\nPrivateUsers=no\n", encoding="ascii")
    try:
        managed.ctl("start", machine, "--as", names[0])
        managed.wait(names[0], "running")
        environment = managed.guest(names[0], "cat", "/proc/1/environ").stdout
        assert "LENT=yes" in environment.split("\0")
        assert managed.guest(names[0], "cat", "/proc/self/uid_map").stdout.split() == [
            "0",
            "0",
            "4294967295",
        ]
        managed.ctl("poweroff", names[0])
        assert not managed.host.path(f"/run/systemd/nspawn/{names[0]}.nspawn").is_symlink()
        settings.write_text("[Exec]\nPrivateUsers=managed\n", encoding="ascii")
        done = managed.ctl("start", machine, "--as", names[0], check=False)
        assert done.returncode == 1
        assert "PrivateUsers=managed" in done.stderr
    finally:
        settings.unlink()


def test_settings_beside_the_image_count(managed: Driver, machine: str, names: list[str]) -> None:
    """Those that an image may bring along, as with every other start of it."""
    settings = managed.host.path(f"{POOL}/{machine}.nspawn")
    settings.write_text("[Exec]\nEnvironment=BESIDE=yes\n", encoding="ascii")
    try:
        managed.ctl("start", machine, "--as", names[0])
        managed.wait(names[0], "running")
        environment = managed.guest(names[0], "cat", "/proc/1/environ").stdout
        assert "BESIDE=yes" in environment.split("\0")
    finally:
        settings.unlink()


def ranges_of(managed: Driver) -> set[str]:
    """The ranges that there are locks of; a systemd-nspawn that was killed has left the file of its own."""
    return set(managed.host.run(["ls", "/run/systemd/nspawn-uid"], check=False).stdout.split())


def test_nothing_is_left_of_one_that_never_came_up(managed: Driver, machine: str, names: list[str]) -> None:
    """Neither what is mounted and locked for it, nor its users."""
    name, before, ranges = names[0], left(managed, names[0]), ranges_of(managed)
    drop_in = managed.host.path(f"/etc/systemd/system/machine-{name}.service.d/fails.conf")
    needed = managed.host.path("/etc/systemd/system/fails.service")
    drop_in.parent.mkdir()
    drop_in.write_text("[Unit]\nRequires=fails.service\nAfter=fails.service\n", encoding="ascii")
    needed.write_text("[Service]\nType=oneshot\nExecStart=false\n", encoding="ascii")
    try:
        done = managed.ctl("start", machine, "--as", name, check=False)
        assert done.returncode == 1
        assert "'dependency'" in done.stderr
        assert left(managed, name) == before
        assert ranges_of(managed) == ranges
    finally:
        needed.unlink()
        drop_in.unlink()
        drop_in.parent.rmdir()
        managed.host.run(["systemctl", "daemon-reload"])
        managed.host.run(["systemctl", "reset-failed"])
    managed.start(machine)  # nothing holds it any more


def test_a_range_is_held(managed: Driver, machine: str, names: list[str]) -> None:
    """In the way that systemd-nspawn asks before it picks one."""
    before = ranges_of(managed)
    managed.ctl("start", machine, "--as", names[0])
    managed.wait(names[0], "running")
    shift = managed.guest(names[0], "cat", "/proc/self/uid_map").stdout.split()[1]
    lock = f"/run/systemd/nspawn-uid/{shift}"
    assert ranges_of(managed) - before == {shift}
    assert holder_conflict(str(managed.host.path(lock)))
    managed.ctl("poweroff", names[0])
    assert not managed.host.path(lock).exists()


def test_the_host_s_own_tree(own_managed: Driver) -> None:
    """Where its file system can be mapped, as those can that hosts are installed on."""
    own_managed.host.plain_root(3 << 30)
    own_managed.host.boot()
    assert "which runs" in own_managed.ctl("start", ".host", check=False).stderr
    own_managed.ctl("start", ".host", "--as", "twin")
    own_managed.wait("twin", "running")
    inside = own_managed.guest("twin", "cat", "/etc/machine-id").stdout
    assert inside != own_managed.host.run(["cat", "/etc/machine-id"]).stdout
    own_managed.guest("twin", "touch", "/root/mine")
    own_managed.ctl("poweroff", "twin")
    assert not own_managed.host.path("/root/mine").exists()
    assert left(own_managed, "twin") == left(own_managed, "other")


def test_bad_wishes(managed: Driver, machine: str, names: list[str]) -> None:
    def refused(*words: str) -> str:
        done = managed.ctl("start", *words, check=False)
        assert done.returncode == 1
        return done.stderr

    assert "no-such" in refused("no-such", "--as", names[0])
    assert "not valid" in refused(machine, "--as", "bad_name")
    assert "one image" in refused(machine, machine, "--as", names[0])
    managed.ctl("start", machine, "--as", names[0])
    managed.wait(names[0], "running")
    assert "running already" in refused(machine, "--as", names[0])
    assert f"there is an image '{machine}'" in refused(".host", "--as", machine)
    assert "which runs" in refused(".host")
    done = managed.call("StartMachine", "sa{sv}", ".host", "0", check=False)
    assert "start --ephemeral .host" in done.stderr
    # The root of these hosts is an overlay, which cannot be mapped.
    assert "such as ext4, XFS and btrfs" in refused(".host", "--ephemeral")
    managed.host.run(["busctl", "status"])  # the bus is alive, and so is the daemon
    done = managed.call("StartMachine", "sa{sv}", names[1], "1", "image", "s", "../../etc", check=False)
    assert "No image" in done.stderr
    done = managed.call("StartMachine", "sa{sv}", names[1], "1", "ephemeral", "s", "yes", check=False)
    assert "expected 'b'" in done.stderr
    assert json.loads(managed.call("ListJobs").stdout)["data"] == [[]]
