# SPDX-License-Identifier: LGPL-2.1-or-later
"""The test host is what it claims to be: a systemd host on which containers run and leave nothing behind."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.host import instance
from tests.host.boot import CommandFailed, Host
from tests.host.cache import TestHostError

pytestmark = pytest.mark.integration

NSPAWN = (
    "--quiet", "--collect", "--slice=machine.slice", "--property=Type=notify", "--property=Delegate=yes",
    "--property=KillMode=mixed", "--", "systemd-nspawn", "--quiet", "--keep-unit", "--boot", "-U",
    "--network-veth", "--notify-ready=yes",
)  # fmt: skip


def start_guest(host: Host, name: str) -> None:
    """Boot a copy of the guest tree as a unit of its own; it is up when this returns."""
    host.add_guest(name)
    unit = f"--unit=systemd-nspawn-{name}"
    host.run(["systemd-run", unit, *NSPAWN, f"--machine={name}", f"--directory=/var/lib/machines/{name}"])


def wait_gone(host: Host, name: str, timeout: float = 30) -> None:
    """Wait until the unit of a guest has ended; --collect makes systemd forget it then."""
    deadline = time.monotonic() + timeout
    while (
        host.run(["systemctl", "is-active", f"systemd-nspawn-{name}"], check=False).stdout.strip()
        != "inactive"
    ):
        assert time.monotonic() < deadline, f"'{name}' is still there"
        time.sleep(0.05)


def test_boots(host: Host) -> None:
    assert host.wait_running() == "running"
    assert host.run(["hostname"]).stdout == "testhost\n"
    assert host.run(["cat", "/proc/1/comm"]).stdout == "systemd\n"
    assert host.run(["systemctl", "list-units", "--failed", "--no-legend"]).stdout == ""


def test_commands(host: Host) -> None:
    assert host.run(["cat"], input="ä\n").stdout == "ä\n"
    assert host.run(["printenv", "WORD"], env={"WORD": "x y"}).stdout == "x y\n"
    assert host.run(["id", "-un"], user="tester").stdout == "tester\n"
    assert host.run(["id", "-un"], user="tester", unit=True).stdout == "tester\n"
    assert "/system.slice/run-" in host.run(["cat", "/proc/self/cgroup"], unit=True).stdout
    with pytest.raises(CommandFailed, match="exit status 3") as failure:
        host.run(["sh", "-c", "echo why >&2; exit 3"])
    assert "why" in str(failure.value)


def test_a_command_that_takes_too_long_is_killed(host: Host) -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        host.run(["sleep", "1234567"], timeout=5)
    # In the end: the death of nsenter, waited for, and that of its child are two events.
    deadline = time.monotonic() + 30
    while host.run(["pgrep", "-f", "^sleep 1234567"], check=False).returncode == 0:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_terminal(host: Host) -> None:
    ours, its = host.openpty()
    with host.popen(
        ["sh", "-c", "tty; exec sh -c 'echo on /dev/tty >/dev/tty'"], stdin=its, stdout=its, tty=True
    ) as shell:
        os.close(its)
        assert shell.wait(30) == 0
        output = ""
        while "on /dev/tty" not in output:
            output += os.read(ours, 4096).decode()
    os.close(ours)
    assert output.startswith("/dev/pts/")
    assert "on /dev/tty" in output


def test_files(host: Host) -> None:
    host.path("/run/from-outside").write_text("in\n", encoding="utf-8")
    assert host.run(["cat", "/run/from-outside"]).stdout == "in\n"


def test_guest_leaves_nothing_behind(host: Host) -> None:
    before = host.snapshot()
    start_guest(host, "itself")
    assert "itself" in host.run(["machinectl", "list", "--no-legend"]).stdout
    assert host.run(["machinectl", "show", "itself", "--property=State", "--value"]).stdout == "running\n"
    # Its network: systemd-networkd at both ends of the veth.
    leader = host.run(["machinectl", "show", "itself", "--property=Leader", "--value"]).stdout.strip()
    deadline = time.monotonic() + 60
    while "default via" not in host.run(["nsenter", "-t", leader, "-n", "ip", "route"]).stdout:
        assert time.monotonic() < deadline, "the guest got no address"
        time.sleep(0.1)
    assert {line.split()[1] for line in before.diff(host.snapshot())} >= {"behind:"}
    assert "left behind: link ve-itself" in before.diff(host.snapshot())
    host.run(["machinectl", "poweroff", "itself"])
    wait_gone(host, "itself")
    assert before.diff(host.snapshot()) == []


def test_clean_shutdown_powers_guests_off(own_host: Host) -> None:
    own_host.boot()
    start_guest(own_host, "inner")
    assert own_host.shutdown() == "poweroff"
    journal = own_host.path("/var/lib/machines/inner/var/log/journal")
    with pytest.raises(TestHostError, match="is not running"):
        own_host.run(["true"])
    assert any(journal.rglob("system.journal"))
    own_host.boot()
    # The guest's own journal says that its systemd came to the end of a shutdown.
    messages = own_host.run(
        ["journalctl", "--directory=/var/lib/machines/inner/var/log/journal", "--no-pager"]
    )
    assert "Reached target shutdown.target" in messages.stdout
    assert own_host.shutdown("reboot") == "reboot"


def test_power_cut(own_host: Host) -> None:
    own_host.boot()
    before = own_host.run(["cat", "/proc/sys/kernel/random/boot_id"]).stdout
    assert before
    own_host.run(["sh", "-c", "echo kept >/var/lib/kept; echo lost >/run/lost"])
    own_host.reboot()
    assert own_host.run(["cat", "/var/lib/kept"]).stdout == "kept\n"
    assert not own_host.path("/run/lost").exists()


def test_stop_removes_everything(own_host: Host) -> None:
    own_host.boot()
    start_guest(own_host, "doomed")
    # Two loop devices, on the overlay and beside it: they are the machine's and would outlive the host.
    paths = [f"{directory}/{own_host.name}" for directory in ("/var/tmp", "/var/lib/machines")]
    own_host.run(["truncate", "--size=1M", *paths])
    devices = [own_host.run(["losetup", "--find", "--show", path]).stdout.strip() for path in paths]
    files = [backing(device) for device in devices]
    assert None not in files
    name = own_host.name
    own_host.stop()
    own_host.stop()
    # Somebody else on this machine may have been given their numbers by now.
    assert not set(map(backing, devices)) & set(files)
    assert name not in instance.leftovers()
    assert name not in Path("/proc/self/mountinfo").read_text(encoding="utf-8")


def backing(device: str) -> str | None:
    """The file of a loop device."""
    try:
        return Path("/sys/block", Path(device).name, "loop/backing_file").read_text(encoding="utf-8")
    except FileNotFoundError:
        return None


def test_what_a_killed_process_left_is_removed(suite: str) -> None:
    script = (
        "import os, sys; from tests.host.boot import Host\n"
        f"host = Host({suite!r}).boot(); print(host.name, host.pid, os.path.exists(f'/proc/{{host.pid}}'))\n"
        "sys.stdout.flush(); os._exit(1)"
    )
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    name, pid, was_up = done.stdout.split()
    # Whoever makes a host removes it: another test that does so at this moment may be the first.
    assert was_up == "True"
    assert name not in instance.leftovers()
    deadline = time.monotonic() + 30
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
