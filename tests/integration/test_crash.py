# SPDX-License-Identifier: LGPL-2.1-or-later
"""Nothing is lost when the daemon is killed, and nothing stays when nspawn is."""

from __future__ import annotations

import pytest

from tests.integration.driver import UNIT, Driver

pytestmark = pytest.mark.integration


def kill_daemon(managed: Driver) -> None:
    managed.host.run(["kill", "-KILL", str(managed.daemon_pid())])


def test_daemon_is_killed_again_and_again(managed: Driver, machine: str) -> None:
    managed.start(machine)
    leader, since = managed.leader(machine), managed.stock("show", machine, "-p", "Timestamp").stdout
    for _ in range(10):
        kill_daemon(managed)
        assert managed.listed()[machine] == "container"
    assert managed.leader(machine) == leader
    assert managed.stock("show", machine, "-p", "Timestamp").stdout == since
    assert managed.wait(machine, "running") == "running"
    assert "works" in managed.guest(machine, "echo", "works").stdout


@pytest.mark.parametrize("moment", [0.0, 0.03, 0.08, 0.2])
def test_daemon_is_killed_during_a_start(managed: Driver, machine: str, moment: float) -> None:
    """PID 1 goes on with the start; nspawn waits for the daemon that the bus starts anew."""
    with managed.background(["/usr/local/bin/machinectl", "start", machine]) as client:
        managed.host.run(["sleep", str(moment)])
        kill_daemon(managed)
        client.communicate(timeout=90)
    # Either the wish had been passed on to PID 1 and it runs and is known, or it was never begun.
    # (PID 1 has read what the dead daemon sent before it reads our question; the job may still wait.)
    if managed.unit_property(f"machine-{machine}.service", "LoadState") == "loaded":
        assert managed.wait(machine, "running") == "running"
        assert machine in managed.listed()
    else:
        assert machine not in managed.listed()
        managed.start(machine)


def test_daemon_is_killed_during_a_stop(managed: Driver, machine: str) -> None:
    managed.start(machine)
    with managed.background(["/usr/local/bin/machinectl", "poweroff", machine]) as client:
        managed.host.run(["sleep", "0.05"])
        kill_daemon(managed)
        client.communicate(timeout=90)
    if managed.state(machine) in {"running", "degraded"}:
        managed.ctl("poweroff", machine)
    assert managed.wait(machine, "stopped") == "stopped"


def test_guest_ends_while_nobody_watches(managed: Driver, machine: str) -> None:
    managed.start(machine)
    managed.host.run(["systemctl", "kill", "--signal=STOP", UNIT])
    managed.host.run(["systemctl", "kill", "--signal=KILL", f"machine-{machine}.service"])
    managed.host.run(["systemctl", "kill", "--signal=KILL", UNIT])
    assert machine not in managed.listed()
    assert managed.wait(machine, "stopped") in {"stopped", "failed"}


def test_killed_nspawn_leaves_nothing_in_the_way(managed: Driver, machine: str) -> None:
    for _ in range(2):
        managed.start(machine)
        managed.host.run(["kill", "-KILL", managed.unit_property(f"machine-{machine}.service", "MainPID")])
        assert managed.wait(machine, "stopped") == "failed"
        mounts = managed.host.run(["findmnt", "--noheadings", "--output=TARGET"]).stdout
        assert f"/run/systemd/nspawn/unix-export/{machine}" not in mounts
        assert f"/run/systemd/nspawn/{machine}" not in mounts


def test_leftovers_of_others_are_cleaned_before_a_start(managed: Driver, machine: str) -> None:
    """What a killed nspawn of the stock template left; 257's template has no way to clean it."""
    stock = f"systemd-nspawn@{machine}.service"
    managed.host.run(["systemctl", "start", stock])
    managed.host.run(["kill", "-KILL", managed.unit_property(stock, "MainPID")])
    managed.wait(machine, "stopped")
    managed.start(machine)
    assert machine in managed.listed()


def test_reload_and_reexec_of_pid_1(managed: Driver, machine: str) -> None:
    managed.start(machine)
    managed.host.run(["systemctl", "daemon-reload"])
    managed.host.run(["systemctl", "daemon-reexec"])
    assert machine in managed.listed()
    managed.ctl("poweroff", machine)
    assert managed.state(machine) == "stopped"
