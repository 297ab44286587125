# SPDX-License-Identifier: LGPL-2.1-or-later
"""Machines that somebody else starts are first-class: by hand, by the template, by registration."""

from __future__ import annotations

import pytest

from tests.integration.driver import NAME, ROOT, Driver, unique_name

pytestmark = pytest.mark.integration


def test_three_ways_side_by_side(managed: Driver, machine: str) -> None:
    """S85: nspawn -bD by hand, the stock template, and our start: all in both lists."""
    by_hand, by_template = unique_name(), unique_name()
    for name in (by_hand, by_template):
        managed.host.add_guest(name)
    with managed.background(
        ["systemd-nspawn", "--quiet", f"--machine={by_hand}", "-bD", f"/var/lib/machines/{by_hand}"]
    ) as nspawn:
        managed.host.run(["systemctl", "start", f"systemd-nspawn@{by_template}"])
        managed.start(machine)
        for name in (by_hand, by_template):
            managed.wait(name, "running")
        ours, stock = managed.listed(), managed.listed(stock=True)
        for name in (by_hand, by_template, machine):
            assert ours[name] == stock[name] == "container"
        for name in (by_hand, by_template, machine):
            managed.ctl("poweroff", name)
            assert name not in managed.listed()
        nspawn.communicate(timeout=60)
    for name in (by_hand, by_template):
        managed.remove(name)


def test_reboot_of_a_machine_in_a_scope(managed: Driver, machine: str) -> None:
    with managed.background(
        ["systemd-nspawn", "--quiet", f"--machine={machine}", "-bD", f"/var/lib/machines/{machine}"]
    ) as nspawn:
        managed.host.run(["busctl", "call", NAME, ROOT, "org.freedesktop.DBus.Peer", "Ping"])
        wait_registered(managed, machine)
        managed.wait(machine, "running")
        before = managed.leader(machine)
        managed.ctl("reboot", machine)
        assert managed.leader(machine) != before
        managed.ctl("poweroff", machine)
        nspawn.communicate(timeout=60)


def wait_registered(managed: Driver, name: str) -> None:
    """Until the record is there: libsystemd's own monitor is inotify on the directory of records."""
    managed.host.run(
        ["timeout", "30", "sh", "-c", f"until test -e /run/systemd/machines/{name}; do sleep 0.05; done"]
    )


def test_create_machine_makes_a_scope(managed: Driver) -> None:
    """A process of no unit is put in a scope and followed to its end, as libvirt and nspawn 257 want it."""
    name = unique_name()
    with managed.background(["sh", "-c", "echo $$; exec sleep 300"]) as process:
        assert process.stdout is not None
        pid = process.stdout.readline().strip()
        managed.host.run(
            [
                *(
                    "busctl",
                    "call",
                    NAME,
                    ROOT,
                    NAME + ".Manager",
                    "CreateMachine",
                    "sayssusa(sv)",
                    name,
                    "0",
                ),
                *("test", "container", pid, "", "1", "Description", "s", "made by a test"),
            ]
        )
        assert managed.listed()[name] == "container"
        scope = managed.stock("show", name, "--property=Unit", "--value").stdout.strip()
        assert scope == f"machine-{name}.scope".replace("-", "\\x2d").replace("machine\\x2d", "machine-", 1)
        assert managed.unit_property(scope, "Description") == "made by a test"
        assert managed.unit_property(scope, "Slice") == "machine.slice"
        managed.host.run(["kill", pid])
        process.communicate(timeout=30)
    managed.host.run(
        ["timeout", "30", "sh", "-c", f"while test -e /run/systemd/machines/{name}; do sleep 0.05; done"]
    )
    assert name not in managed.listed()


def test_record_is_what_libsystemd_reads(managed: Driver, machine: str) -> None:
    managed.start(machine)
    record = managed.host.run(["cat", f"/run/systemd/machines/{machine}"]).stdout.splitlines()
    assert record[0].startswith("#")
    assert f"NAME={machine}" in record
    assert f"SCOPE=machine-{machine}.service" in record
    assert f"LEADER={managed.leader(machine)}" in record
    link = managed.host.run(
        ["readlink", f"/run/systemd/machines/unit:machine-{machine}.service"]
    ).stdout.strip()
    assert link == machine
    assert managed.host.run(["hostnamectl", "-M", machine, "hostname"]).stdout.strip()
    assert "init.scope" in managed.host.run(["systemd-cgls", "--no-pager", "-M", machine]).stdout
    assert machine in managed.host.run(["ps", "-eo", "machine"]).stdout


def test_journal_records(managed: Driver, machine: str) -> None:
    managed.start(machine)
    leader = managed.leader(machine)
    managed.ctl("poweroff", machine)
    started = managed.journal("MESSAGE_ID=24d8d4452573402496068381a6312df2", f"NAME={machine}")
    stopped = managed.journal("MESSAGE_ID=58432bd3bace477cb514b56381b8a758", f"NAME={machine}")
    assert [r["LEADER"] for r in started] == [r["LEADER"] for r in stopped] == [str(leader)]
    assert started[0]["MESSAGE"] == f"New machine {machine}."


def test_log_level_can_be_changed(managed: Driver) -> None:
    unit = "systemd-machined.service"
    assert managed.host.run(["systemctl", "service-log-level", unit]).stdout.strip() == "info"
    managed.host.run(["systemctl", "service-log-level", unit, "debug"])
    assert managed.host.run(["systemctl", "service-log-level", unit]).stdout.strip() == "debug"
    managed.host.run(["systemctl", "service-log-level", unit, "info"])
    assert managed.host.run(["systemctl", "service-log-level", unit, "loud"], check=False).returncode != 0
