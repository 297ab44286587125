# SPDX-License-Identifier: LGPL-2.1-or-later
"""Enabled machines come back with the host, and are powered off in good order before it goes."""

from __future__ import annotations

import pytest

from tests.integration.driver import Driver

pytestmark = pytest.mark.integration

WANTS = "/etc/systemd/system/machines.target.wants"


def boot_ids(managed: Driver, name: str) -> list[str]:
    """The boots that a guest's own journal knows."""
    done = managed.host.run(["journalctl", f"--root=/var/lib/machines/{name}", "--list-boots", "--quiet"])
    return done.stdout.splitlines()


def test_enable_and_disable_are_exact_opposites(managed: Driver, machine: str) -> None:
    def links() -> str:
        return managed.host.run(["find", "/etc/systemd/system", "-printf", "%p %l\\n"]).stdout

    before = links()
    first = managed.ctl("enable", machine)
    assert f"{WANTS}/machined@{machine}.service" in first.stderr + first.stdout
    assert managed.host.path(f"{WANTS}/machined@{machine}.service").is_symlink()
    assert managed.host.run(["systemctl", "is-enabled", "machines.target"]).stdout.strip() == "enabled"
    managed.ctl("enable", machine)
    managed.ctl("disable", machine)
    assert links() == before
    managed.ctl("disable", machine)


def test_the_target_is_given_back(managed: Driver, machine: str) -> None:
    """Where machines.target is not wanted at boot, the first enable does it, the last disable undoes it."""
    managed.host.run(["systemctl", "disable", "--quiet", "machines.target"])
    try:
        managed.ctl("enable", machine)
        assert managed.host.run(["systemctl", "is-enabled", "machines.target"]).stdout.strip() == "enabled"
        managed.ctl("disable", machine)
        state = managed.host.run(["systemctl", "is-enabled", "machines.target"], check=False).stdout.strip()
        assert state == "disabled"
    finally:
        managed.host.run(["systemctl", "enable", "--quiet", "machines.target"])


def test_now_does_both(managed: Driver, machine: str) -> None:
    managed.ctl("enable", "--now", machine)
    assert managed.wait(machine, "running") == "running"
    managed.ctl("disable", "--now", machine)
    assert managed.state(machine) == "stopped"
    assert not managed.host.path(f"{WANTS}/machined@{machine}.service").is_symlink()


def test_reboot_of_the_host(own_managed: Driver) -> None:
    managed = own_managed
    host = managed.host
    host.boot()
    for name in ("back", "away"):
        host.add_guest(name)
        (host.path(f"/var/lib/machines/{name}") / "var/log/journal").mkdir(exist_ok=True)
    managed.ctl("enable", "back")
    managed.start("back")
    managed.start("away")
    assert host.shutdown("reboot") == "reboot"
    host.boot()
    assert managed.wait("back", "running") == "running"
    assert managed.state("away") == "stopped"
    assert managed.ctl("list", "--no-legend").stdout.split()[0] == "back"
    for name in ("back", "away"):
        last = host.run(
            ["journalctl", f"--root=/var/lib/machines/{name}", "--quiet", "--output=cat", "--boot=-1"]
            if name == "back"
            else ["journalctl", f"--root=/var/lib/machines/{name}", "--quiet", "--output=cat"]
        ).stdout
        assert "Reached target poweroff.target" in last or "Reached target halt.target" in last
    # The order at shutdown: guests first, then the daemon.
    order = host.run(
        [
            *("journalctl", "--boot=-1", "--quiet", "--output=cat", "--unit=machine-away.service"),
            *("--unit=machine-back.service", "--unit=systemd-machined.service"),
        ]
    ).stdout.splitlines()
    stops = [line for line in order if line.startswith("Stopped ")]
    assert len(stops) == 3, order
    assert "machined" in stops[-1].lower()
    assert "Stopped systemd-machined.service" in stops[-1]
    managed.ctl("disable", "--now", "back")
    host.shutdown("reboot")
    host.boot()
    assert managed.listed() == {}


def test_loss_of_power(own_managed: Driver) -> None:
    """The host is cut off with machines running: they come back with it, nothing stands in the way."""
    managed = own_managed
    managed.host.boot()
    managed.host.add_guest("back")
    managed.ctl("enable", "--now", "back")
    managed.wait("back", "running")
    managed.host.reboot()
    assert managed.wait("back", "running") == "running"
    managed.ctl("poweroff", "back")
    assert managed.listed() == {}


def test_stop_of_the_target_stops_machines(managed: Driver, machine: str) -> None:
    managed.start(machine)
    managed.host.run(["systemctl", "stop", "machines.target"])
    try:
        assert managed.wait(machine, "stopped") == "stopped"
    finally:
        managed.host.run(["systemctl", "start", "machines.target"])
