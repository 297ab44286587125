# SPDX-License-Identifier: LGPL-2.1-or-later
"""Nothing is lost when the daemon is killed, and nothing stays when nspawn is."""

from __future__ import annotations

import pytest

from tests.integration.driver import NAME, OURS, UNIT, Done, Driver

pytestmark = pytest.mark.integration


# Run by the installed Python: says when the bus has passed on a call of this member to the daemon.
SPY = """
import sys
from jeepney import DBusAddress, HeaderFields, MessageType, new_method_call
from jeepney.io.blocking import open_dbus_connection
name, member = sys.argv[1:]
driver = DBusAddress("/org/freedesktop/DBus", "org.freedesktop.DBus", "org.freedesktop.DBus.Monitoring")
rule = f"type='method_call',destination='{name}',member='{member}'"
bus = open_dbus_connection("SYSTEM")
bus.send(new_method_call(driver, "BecomeMonitor", "asu", ([rule], 0)))
while True:
    message = bus.receive()
    if message.header.message_type is MessageType.method_return:
        print("ready", flush=True)
    elif message.header.fields.get(HeaderFields.member) == member:
        print("asked", flush=True)
"""


def killed_while_asked(managed: Driver, member: str, *command: str) -> Done:
    """Run our machinectl; the daemon has got its call and has not answered when it is killed."""
    spy = ["timeout", "60", "/usr/local/lib/machined/bin/python3", "-c", SPY, NAME, member]
    with managed.background(spy) as watcher:
        assert watcher.stdout is not None
        assert watcher.stdout.readline() == "ready\n"
        managed.host.run(["systemctl", "kill", "--signal=STOP", UNIT])
        try:
            with managed.background([OURS, *command]) as client:
                assert watcher.stdout.readline() == "asked\n"
                managed.host.run(["systemctl", "kill", "--signal=KILL", UNIT])
                out, err = client.communicate(timeout=60)
        finally:
            managed.host.run(["systemctl", "kill", "--signal=CONT", UNIT], check=False)
    return Done(client.args, client.returncode, out, err)


def kill_daemon(managed: Driver) -> None:
    pid = managed.daemon_pid()
    assert pid > 1, "it does not run; and 0 would be the process group of these tests"
    managed.host.run(["kill", "-KILL", str(pid)])


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


def test_a_question_is_put_to_the_next_daemon(managed: Driver, machine: str) -> None:
    managed.start(machine)
    listed = killed_while_asked(managed, "ListAll", "list", "--no-legend")
    assert (listed.returncode, listed.stderr) == (0, "")
    assert machine in listed.stdout.split()
    waited = killed_while_asked(managed, "WaitMachine", "wait", machine, "--timeout=60")
    assert (waited.returncode, waited.stderr) == (0, "")


def test_an_order_is_not_given_twice(managed: Driver, machine: str) -> None:
    managed.start(machine)
    leader = managed.leader(machine)
    done = killed_while_asked(managed, "KillMachine", "kill", "--signal=KILL", machine)
    assert done.returncode == 1
    assert "disconnected" in done.stderr
    assert managed.leader(machine) == leader


@pytest.mark.parametrize("moment", [0.0, 0.03, 0.08, 0.2])
def test_daemon_is_killed_during_a_start(managed: Driver, machine: str, moment: float) -> None:
    """PID 1 goes on with the start; nspawn waits for the daemon that the bus starts anew."""
    assert machine not in managed.listed()
    began = managed.host.run(["date", "+%s"]).stdout.strip()
    with managed.background(["/usr/local/bin/machinectl", "start", machine]) as client:
        managed.host.run(["sleep", str(moment)])
        kill_daemon(managed)
        client.communicate(timeout=90)
    # (PID 1 has read what the dead daemon sent before it reads our question; the job may still wait.)
    unit = f"machine-{machine}.service"
    busy = f"systemctl show {unit} -P Job -P ActiveState | grep -q -e '[1-9]' -e activating"
    managed.host.until(f"! {{ {busy}; }}")
    # Either the wish had been passed on to PID 1 and it runs and is known, or it was never begun, or the
    # daemon was killed over nspawn's own call: then nspawn gives up, under systemd-machined as well.
    if managed.unit_property(unit, "ActiveState") == "active":
        assert managed.wait(machine, "running") == "running"
        assert machine in managed.listed()
    else:
        # (Of a process that is dead when its record is read the journal does not know the unit.)
        told = [str(record.get("MESSAGE")) for record in managed.journal("-u", unit)]
        if told:
            told += [
                str(record.get("MESSAGE"))
                for record in managed.journal("SYSLOG_IDENTIFIER=systemd-nspawn", f"--since=@{began}")
                if "_SYSTEMD_UNIT" not in record
            ]
        assert not told or any("Failed to register machine" in line for line in told), told
        assert machine not in managed.listed()
        managed.start(machine)


def test_daemon_is_killed_during_a_stop(managed: Driver, machine: str) -> None:
    managed.start(machine)
    with managed.background(["/usr/local/bin/machinectl", "poweroff", machine]) as client:
        managed.host.run(["sleep", "0.05"])
        kill_daemon(managed)
        client.communicate(timeout=90)
    if managed.state(machine) in {"running", "degraded"}:
        # (It may have been told to end already, and be gone before it is told again.)
        managed.ctl("poweroff", machine, check=False)
    assert managed.wait(machine, "stopped") == "stopped"


def test_guest_ends_while_nobody_watches(managed: Driver, machine: str) -> None:
    managed.start(machine)
    managed.host.run(["systemctl", "kill", "--signal=STOP", UNIT])
    unit = f"machine-{machine}.service"
    managed.host.run(["systemctl", "kill", "--signal=KILL", unit])
    there = f"systemctl show {unit} -P ActiveState | grep -Eqx '(de)?activ(e|ating)'"
    managed.host.until(f"! {{ {there}; }}")
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
