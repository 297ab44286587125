# SPDX-License-Identifier: LGPL-2.1-or-later
"""Interfaces that are moved into a machine come back, however it ends: S74 of the features."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.integration.driver import UNIT, Driver
from tests.integration.modes_lab import ModesLab

pytestmark = pytest.mark.integration

LENT, PEER = "t-lent0", "t-peer0"
RECORDS = "/run/machined/lent"


@pytest.fixture
def lab(managed: Driver, machine: str) -> Iterator[ModesLab]:
    lab = ModesLab(managed, machine)
    lab.add(LENT, "type", "veth", "peer", PEER)
    yield lab
    settle(lab)
    lab.clear()
    assert pins(lab) == 0
    assert not managed.host.path(RECORDS).exists()


def descriptors(lab: ModesLab) -> list[str]:
    directory = f"/proc/{lab.managed.daemon_pid()}/fd"
    return lab.managed.host.run(
        ["find", directory, "-ignore_readdir_race", "-type", "l", "-printf", "%l\n"]
    ).stdout.splitlines()


def pins(lab: ModesLab) -> int:
    """The network namespaces that the daemon holds."""
    return sum(link.startswith("net:") for link in descriptors(lab))


def kill(lab: ModesLab, name: str) -> None:
    """systemd-nspawn, which can do nothing about it."""
    pid = lab.managed.unit_property(f"machine-{name}.service", "MainPID")
    lab.managed.host.run(["kill", "-KILL", pid])


def settle(lab: ModesLab) -> None:
    """Until nothing is lent any more, which a kill is over before."""
    last = time.monotonic() + 20
    while lab.managed.host.path(RECORDS).exists() and time.monotonic() < last:
        time.sleep(0.02)


def die(lab: ModesLab, name: str) -> None:
    """As kill(), and see all of it through."""
    kill(lab, name)
    lab.managed.wait(name, "stopped")
    settle(lab)


def said(lab: ModesLab) -> str:
    return "\n".join(str(row["MESSAGE"]) for row in lab.managed.journal(f"--unit={UNIT}"))


@pytest.mark.parametrize("restarted", [False, True])
def test_it_survives_a_kill(lab: ModesLab, machine: str, restarted: bool) -> None:
    """Also of a daemon that was not there when it went."""
    managed, before = lab.managed, lab.host()[LENT]
    for _ in range(2):
        lab.start(machine, f"Interface={LENT}:lan\nVirtualEthernet=yes")
        assert set(lab.inside(machine)) == {"lan", "host0"}
        assert LENT not in lab.host()
        if restarted:
            managed.host.run(["systemctl", "restart", UNIT])
        assert pins(lab) == 1
        die(lab, machine)
        after = lab.host()[LENT]
        assert (after["address"], after["link"]) == (before["address"], before["link"])
        assert "UP" not in after["flags"]
        assert pins(lab) == 0
        # The kernel takes it away, when it comes to it.
        managed.host.until(f"! ip link show ve-{machine} >/dev/null 2>&1", 30)
    assert f"Interface '{LENT}' was fetched from machine '{machine}', which was killed" in said(lab)


@pytest.mark.either("trixie")
def test_the_next_start_has_it(lab: ModesLab, machine: str) -> None:
    """Without waiting for anything in between."""
    for _ in range(3):
        lab.start(machine, f"Interface={LENT}")
        kill(lab, machine)
        lab.managed.wait(machine, "stopped")
    settle(lab)
    assert LENT in lab.host()


@pytest.mark.either("trixie")
def test_nothing_is_left_open(lab: ModesLab, machine: str) -> None:
    """Neither after an end in good order nor after a kill."""
    counts: list[int] = []
    for killed in (False, True, False, True):
        lab.start(machine, f"Interface={LENT}:lan")
        if killed:
            die(lab, machine)
        lab.stop(machine)
        assert LENT in lab.host()
        last = time.monotonic() + 10
        while counts and len(descriptors(lab)) > counts[0] and time.monotonic() < last:
            time.sleep(0.05)  # what looked at the machine ends by itself
        counts.append(len(descriptors(lab)))
    assert max(counts) == counts[0], descriptors(lab)


@pytest.mark.either("trixie")
def test_its_name_is_another_s(lab: ModesLab, machine: str) -> None:
    lab.start(machine, f"Interface={LENT}:t-lan0")
    lab.managed.host.run(["ip", "link", "set", PEER, "name", LENT])
    die(lab, machine)
    assert {LENT, "t-lan0"} <= set(lab.host())
    assert f"Interface '{LENT}' is back from machine '{machine}' as 't-lan0'" in said(lab)


def test_a_system_that_reboots(lab: ModesLab, machine: str) -> None:
    """systemd-nspawn brings it back itself, and takes it again; at the end it is the host's."""
    managed = lab.managed
    managed.ctl("start", machine, f"--set=Interface={LENT}:lan", "--set=VirtualEthernet=yes")
    managed.wait(machine, "running")
    leader = managed.leader(machine)
    managed.ctl("reboot", machine)
    managed.wait(machine, "running")
    assert managed.leader(machine) != leader
    assert set(lab.inside(machine)) == {"lan", "host0"}
    assert pins(lab) == 1
    managed.ctl("poweroff", machine)
    assert LENT in lab.host()
    assert pins(lab) == 0


@pytest.mark.either("trixie")
def test_nobody_was_there(lab: ModesLab, machine: str) -> None:
    """A virtual one is gone then, which is said; the next start says what is missing."""
    managed = lab.managed
    lab.start(machine, f"Interface={LENT}:lan")
    pid = managed.unit_property(f"machine-{machine}.service", "MainPID")
    daemon = managed.daemon_pid()
    gone = f"while [ -e /proc/{daemon} ] || [ -e /proc/{pid} ]; do sleep 0.02; done"
    managed.host.run(["sh", "-c", f"kill -KILL {daemon} {pid}; {gone}"])
    managed.wait(machine, "stopped")
    settle(lab)
    assert LENT not in lab.host()
    assert f"Interface '{LENT}' is gone with machine '{machine}'" in said(lab)
    refused = lab.start(machine, f"Interface={LENT}:lan", check=False)
    assert f"the host has no interface '{LENT}'" in refused
