# SPDX-License-Identifier: LGPL-2.1-or-later
"""The main job with a kernel of its own: real boots, controllers, links, a disk."""

from __future__ import annotations

import pytest

from tests.host.image import GUEST
from tests.host.vm import VirtualMachine
from tests.integration.driver import UNIT

pytestmark = [pytest.mark.integration, pytest.mark.vm, pytest.mark.slow]

# How long the machines in an emulated one may take; seconds.
PATIENCE = 120
GUEST_UNIT = f"machine-{GUEST}.service"
WAIT = f"machinectl wait --timeout={PATIENCE} {GUEST}"


def leader(machine: VirtualMachine) -> str:
    return machine.check(f"machinectl show {GUEST} --property=Leader --value").strip()


LIMITS = {
    "memory.max": str(200 * 1024**2),
    "memory.swap.max": "0",
    "cpu.max": "20000 100000",
    "pids.max": "900",
}


def in_group(machine: VirtualMachine, file: str) -> str:
    return machine.check(f"cat /sys/fs/cgroup/machine.slice/{GUEST_UNIT}/{file}").strip()


def counted(machine: VirtualMachine, file: str, key: str) -> int:
    return int(dict(line.split() for line in in_group(machine, file).splitlines())[key])


def check_limits(machine: VirtualMachine) -> None:
    """Limits of a machine that runs are the kernel's at once, which enforces them."""
    run = f"systemd-run --quiet --pipe --wait -M {GUEST} sh -c"
    machine.check(f"machinectl set-property {GUEST} MemoryMax=200M MemorySwapMax=0 TasksMax=900")
    killed = counted(machine, "memory.events", "oom_kill")
    # (What tail keeps is more than there may be.)
    machine.run(f"{run} 'head -c 250M /dev/zero | tail -c 250M | wc -c'", PATIENCE * 3)
    assert counted(machine, "memory.events", "oom_kill") > killed
    # The machine goes on without that process.
    machine.check(f"machinectl set-property {GUEST} CPUQuota=20%")
    assert {file: in_group(machine, file) for file in LIMITS} == LIMITS
    throttled = counted(machine, "cpu.stat", "nr_throttled")
    count = "i=0; while [ $i -lt 9000 ]; do i=$((i+1)); done; echo $i"
    assert machine.check(f"{run} '{count}'", PATIENCE * 3).strip() == "9000"
    assert counted(machine, "cpu.stat", "nr_throttled") > throttled
    # More for this boot only: starting within these takes its time here.
    machine.check(f"machinectl set-property --runtime {GUEST} CPUQuota=")
    assert in_group(machine, "cpu.max") == "max 100000"


def test_enabled_machine_lives_with_its_host(virtual: VirtualMachine) -> None:
    # First what all of this stands on: the machine itself.
    assert virtual.check("systemctl is-system-running --wait", PATIENCE) == "running\n"
    assert {"cpu", "memory", "pids"} <= set(virtual.check("cat /sys/fs/cgroup/cgroup.controllers").split())
    assert virtual.run("echo why >&2; exit 3") == (3, "why\n")
    assert virtual.check("command -v machinectl").strip() == "/usr/local/bin/machinectl"
    # From here on: other tests may have used it before.
    cursor = virtual.check("journalctl --lines=0 --show-cursor").split()[-1]
    # In emulation on a busy machine that may take longer than dbus-daemon waits for a service.
    virtual.check(f"systemctl start {UNIT}", PATIENCE)
    virtual.check(f"machinectl enable --now {GUEST} && {WAIT}", PATIENCE * 2)
    assert GUEST in virtual.check("machinectl list --no-legend")
    # What namespaces on a shared kernel do not have: the limits of the unit are real.
    group = virtual.check(f"systemctl show {GUEST_UNIT} --property=ControlGroup --value").strip()
    assert group == f"/machine.slice/{GUEST_UNIT}"
    limit = int(virtual.check(f"systemctl show {GUEST_UNIT} --property=TasksMax --value"))
    assert in_group(virtual, "pids.max") == str(limit) == "16384"
    virtual.check(f"ip link show ve-{GUEST}")
    virtual.check(f"systemd-run --quiet --pipe --wait -M {GUEST} sh -c 'echo kept >/root/kept; sync'")

    check_limits(virtual)
    virtual.check(f"machinectl set-property {GUEST} CPUQuota=150%")
    virtual.reboot()
    virtual.check(WAIT, PATIENCE + 10)
    limits = LIMITS | {"cpu.max": "150000 100000"}
    assert {file: in_group(virtual, file) for file in limits} == limits
    assert virtual.check(f"systemctl is-active {GUEST_UNIT} {UNIT}").split() == ["active", "active"]
    assert GUEST in virtual.check("machinectl list --no-legend")
    assert GUEST in virtual.check("/usr/bin/machinectl list --no-legend")
    assert virtual.check(f"cat /var/lib/machines/{GUEST}/root/kept").strip() == "kept"
    # The guest's own journal: its boot before this one came to its end, it was not cut off.
    last = virtual.check(f"journalctl --machine={GUEST} --boot=-1 --quiet --output=cat --lines=20")
    assert "Reached target poweroff.target" in last or "Reached target halt.target" in last, last
    assert "Journal stopped" in last
    # And the host's: first the machine, then the daemon, nobody killed.
    units = f"--unit={GUEST_UNIT} --unit={UNIT}"
    host = virtual.check(
        f"journalctl --boot=-1 --after-cursor='{cursor}' --quiet --output=cat {units}"
    ).splitlines()
    stopped = [line.split()[1] for line in host if line.startswith("Stopped ")]
    assert stopped == [GUEST_UNIT, UNIT], host
    # Of systemd's own words: the console of the guest is in there too, with failures of its own.
    bad = ("State 'stop-sigterm' timed out", "with signal SIGKILL", "Failed with result")
    assert not [line for line in host if any(words in line for words in bad)], host

    # A daemon that dies takes nobody with it.
    before = leader(virtual)
    virtual.check(f"systemctl kill --signal=KILL {UNIT}")
    virtual.check(f"systemctl start {UNIT}", PATIENCE)  # (the bus would, with less patience)
    assert leader(virtual) == before
    virtual.check(f"machinectl disable {GUEST} && machinectl poweroff {GUEST}")
    assert virtual.check("machinectl list --no-legend") == ""
    assert virtual.run(f"ip link show ve-{GUEST}")[0] != 0
    assert virtual.run("test -e /etc/systemd/system/machines.target.wants")[0] != 0
    assert virtual.check("ls /run/systemd/machines") == ""
