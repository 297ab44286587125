# SPDX-License-Identifier: LGPL-2.1-or-later
"""Limits: PID 1 takes them as if they were in a unit file, and they are changed at once and for good."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from machined.model.settings import section_service, unit_properties
from machined.model.settings.layers import from_command_line
from machined.model.settings.merge import Effective, merge
from tests.integration.driver import OURS, Driver
from tests.integration.terminals import Terminal
from tests.integration.unit_oracle import Oracle, differences
from tests.limits import SAMPLES

pytestmark = pytest.mark.integration

# Enough for all values of those with few, and for all sizes of some of those that take sizes.
ROUNDS = 4
ALL_OF_THEM = ("MemoryMax", "CPUQuotaPerSecUSec", "TasksMax")


def version(managed: Driver) -> int:
    return 262 if managed.modern else 257


def rows_of(managed: Driver, number: int) -> list[str]:
    """A value of every key that this systemd knows."""
    return [
        f"{key}={list(valid)[(number + place) % len(valid)]}"
        for place, (key, (valid, _)) in enumerate(SAMPLES.items())
        if section_service.BY_KEY[key].is_known_to(version(managed))
    ]


def said(managed: Driver, lines: list[str]) -> Effective:
    effective = merge([from_command_line(lines, version(managed))])
    assert not effective.findings
    return effective


@pytest.fixture
def oracle(managed: Driver) -> Iterator[Oracle]:
    oracle = Oracle(managed.host)
    yield oracle
    oracle.close()


@pytest.mark.parametrize("number", range(ROUNDS))
def test_as_in_a_unit_file(managed: Driver, oracle: Oracle, number: int) -> None:
    """All keys in a file that PID 1 reads, and as properties that we tell it: it shows the same of both."""
    lines = rows_of(managed, number)
    effective = said(managed, lines)
    settings = [setting for setting, _ in effective.rows() if setting.section == "Service"]
    names = [setting.option for setting in settings]
    oracle.from_file("oracle.service", lines)
    oracle.from_properties("told.service", unit_properties.properties(effective))
    wanted = oracle.show("oracle.service", names)
    assert differences(wanted, oracle.show("told.service", names)) == {}
    # No limit of a disk is none.
    assert set(names) - set(wanted) <= {"IOWriteIOPSMax"}
    # And of one that runs already, with other values before.
    live = [setting for setting in settings if unit_properties.unit_kind(setting).live]
    before = said(managed, rows_of(managed, number + 1))
    oracle.from_properties("changed.service", unit_properties.changes(before, live, {}))
    oracle.change("changed.service", unit_properties.changes(effective, live, {}))
    names = [setting.option for setting in live]
    wanted = oracle.show("oracle.service", names)
    assert differences(wanted, oracle.show("changed.service", names)) == {}
    # Taken back, they are what they are in a unit of which nothing is said.
    oracle.from_file("empty.service", ["TasksMax=16384", "DevicePolicy=closed"])
    oracle.change("changed.service", unit_properties.changes(merge([]), live, {}))
    assert differences(oracle.show("empty.service", names), oracle.show("changed.service", names)) == {}


def test_what_we_refuse_counts_for_nothing_in_a_unit_file(managed: Driver, oracle: Oracle) -> None:
    """PID 1 ignores with a warning what is an error with us."""
    before = ["MemoryMax=1G", "TasksMax=77", "CPUQuota=50%", "IOWeight=10", "CPUWeight=10"]
    for number, key in enumerate(["MemoryMax", "TasksMax", "CPUQuota", "IOWeight", "CPUWeight"]):
        # (A share of nothing it takes.)
        refused = [text for text in SAMPLES[key][1] if text and text != "0%"]
        oracle.from_file(f"bad{number}.service", [*before, *(f"{key}={text}" for text in refused)])
        name = section_service.BY_KEY[key].option
        oracle.from_file("good.service", before)
        assert oracle.show(f"bad{number}.service", [name]) == oracle.show("good.service", [name])


# -- a machine ---------------------------------------------------------------------------------------------


def shown(managed: Driver, name: str, *keys: str, unit: str = "") -> list[str]:
    unit = unit or f"machine-{name}.service"
    return [managed.unit_property(unit, key) for key in keys]


def in_kernel(managed: Driver, name: str) -> dict[str, str]:
    """The files of the control group, of the controllers that this machine has."""
    group = managed.unit_property(f"machine-{name}.service", "ControlGroup")
    files = " ".join(LIMITS)
    script = f'cd "/sys/fs/cgroup{group}" && for f in {files}; do test ! -e $f || echo $f $(cat $f); done'
    lines = managed.host.run(["sh", "-c", script]).stdout.splitlines()
    return dict(line.split(" ", 1) for line in lines)


LIMITS = {"memory.max": str(2 * 1024**3), "cpu.max": "200000 100000", "pids.max": "4000"}
SHOWN = [str(2 * 1024**3), "2s", "4000"]
FREE = ["infinity", "infinity", "16384"]


def settings_of(managed: Driver, name: str) -> list[str]:
    """Our own files about a machine, with what is in them."""
    found = []
    for top in ("/etc/machined/machines", "/run/machined/machines"):
        directory = managed.host.path(top)
        paths = sorted(directory.rglob("*")) if directory.exists() else []
        found += [f"{path}: {path.read_text()}" for path in paths if path.is_file() and name in str(path)]
    return found


def test_at_once_and_for_good(managed: Driver, machine: str) -> None:
    """S87."""
    managed.start(machine)
    assert shown(managed, machine, *ALL_OF_THEM) == FREE
    done = managed.ctl("set-property", machine, "MemoryMax=2G", "CPUQuota=200%", "TasksMax=4000")
    assert (done.stdout, done.stderr) == ("", "")
    assert shown(managed, machine, *ALL_OF_THEM) == SHOWN
    kernel = in_kernel(managed, machine)
    assert kernel == {name: LIMITS[name] for name in kernel}
    managed.host.run(["systemctl", "daemon-reload"])
    assert shown(managed, machine, *ALL_OF_THEM) == SHOWN
    # The daemon's end, and the machine's.
    managed.host.run(["systemctl", "restart", "systemd-machined.service"])
    assert shown(managed, machine, *ALL_OF_THEM) == SHOWN
    managed.ctl("poweroff", machine)
    managed.start(machine)
    assert shown(managed, machine, *ALL_OF_THEM) == SHOWN
    assert in_kernel(managed, machine) == kernel
    # Taken back, of the machine that runs and for the next start.
    managed.ctl("set-property", machine, "MemoryMax=", "CPUQuota=", "TasksMax=")
    assert shown(managed, machine, *ALL_OF_THEM) == FREE
    assert settings_of(managed, machine) == []
    managed.ctl("poweroff", machine)
    managed.start(machine)
    assert shown(managed, machine, *ALL_OF_THEM) == FREE


def test_before_the_start_and_until_the_host_goes_down(managed: Driver, machine: str) -> None:
    managed.ctl("set-property", machine, "MemoryMax=2G", "TasksMax=4000")
    managed.ctl("set-property", "--runtime", machine, "TasksMax=20%")
    managed.start(machine)
    memory, tasks = shown(managed, machine, "MemoryMax", "TasksMax")
    assert memory == SHOWN[0]
    assert tasks not in {"4000", "16384"}
    (kept, runtime) = settings_of(managed, machine)
    assert "/etc/machined/" in kept
    assert "/run/machined/" in runtime
    assert "TasksMax=20%" in runtime
    # An amount after a share: that is what PID 1 reads as well, when it reads its files again.
    managed.ctl("set-property", machine, "TasksMax=4000")
    assert shown(managed, machine, "TasksMax", "NeedDaemonReload") == ["4000", "no"]
    managed.host.run(["systemctl", "daemon-reload"])
    assert shown(managed, machine, "TasksMax") == ["4000"]
    assert [text for text in settings_of(managed, machine) if "TasksMax=20%" in text] == []
    managed.ctl("set-property", machine, "TasksMax=", "MemoryMax=")


def test_what_waits_for_the_next_start(managed: Driver, machine: str) -> None:
    managed.start(machine)
    done = managed.ctl(
        "set-property", machine, "TimeoutStopSec=77", "Slice=machine-batch.slice", "MemoryMax=2G"
    )
    assert done.stderr == (
        f"Machine '{machine}' runs without TimeoutStopSec=, Slice= until it is started again.\n"
    )
    keys = ("TimeoutStopUSec", "Slice", "MemoryMax")
    assert shown(managed, machine, "Slice", "MemoryMax") == ["machine.slice", SHOWN[0]]
    managed.ctl("poweroff", machine)
    managed.start(machine)
    assert shown(managed, machine, *keys) == ["1min 17s", "machine-batch.slice", SHOWN[0]]
    managed.ctl("poweroff", machine)
    managed.ctl("set-property", "--quiet", machine, "TimeoutStopSec=", "Slice=", "MemoryMax=")
    managed.host.run(["systemctl", "stop", "machine-batch.slice"])


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["MemoryMax=2X"], "must be a size as '512M'"),
        (["MemoryMx=2G"], "did you mean 'MemoryMax'?"),
        (["CPUQuota=200"], "must be a percentage"),
        (["TasksMax=1G"], "must be a number from 1"),
        (["Boot=no"], "is no limit of the unit; 'machinectl set"),
        (["DeviceAllow=/etc/passwd rw"], "must be a path under /dev"),
        (["IPAddressAllow=example.com"], "must be addresses or networks"),
        (["MemoryMax"], "is no assignment"),
    ],
)
def test_one_bad_value_is_all(managed: Driver, machine: str, words: list[str], what: str) -> None:
    done = managed.ctl("set-property", machine, "TasksMax=4000", *words, check=False)
    assert done.returncode == 1
    assert what in done.stderr
    assert settings_of(managed, machine) == []


def test_who_may(managed: Driver, machine: str) -> None:
    done = managed.ctl("set-property", machine, "TasksMax=4000", check=False, user="tester")
    assert done.returncode == 1
    assert "This needs administrator rights" in done.stderr
    assert settings_of(managed, machine) == []
    done = managed.ctl("set-property", "nobody-there", "TasksMax=4000", check=False)
    assert done.returncode == 1
    assert "No machine 'nobody-there' known" in done.stderr


def test_by_hand(managed: Driver, machine: str) -> None:
    """systemctl works on the unit as on any other, for as long as the machine runs."""
    managed.start(machine)
    managed.host.run(["systemctl", "set-property", f"machine-{machine}.service", "MemoryMax=2G"])
    assert shown(managed, machine, "MemoryMax") == [SHOWN[0]]
    managed.ctl("set-property", machine, "MemoryMax=3G")
    assert shown(managed, machine, "MemoryMax") == [str(3 * 1024**3)]
    managed.ctl("set-property", machine, "MemoryMax=")
    assert shown(managed, machine, "MemoryMax") == ["infinity"]
    managed.ctl("poweroff", machine)
    # A drop-in of the machine's own unit is PID 1's, and counts more than what we tell it.
    path = managed.host.path(f"/etc/systemd/system/machine-{machine}.service.d/limits.conf")
    path.parent.mkdir()
    path.write_text("[Service]\nTasksMax=777\n", encoding="utf-8")
    try:
        said = managed.ctl("set-property", machine, "TasksMax=500").stderr
        assert said == (
            f"/etc/systemd/system/machine-{machine}.service.d/limits.conf:2: TasksMax=777 counts more, "
            f"whenever machine-{machine}.service is started.\n"
        )
        managed.start(machine)
        assert shown(managed, machine, "TasksMax") == ["777"]
        managed.ctl("set-property", "--quiet", machine, "TasksMax=")
    finally:
        path.unlink()
        path.parent.rmdir()


def test_devices(managed: Driver, machine: str) -> None:
    managed.start(machine)
    before = shown(managed, machine, "DeviceAllow")[0].splitlines()
    managed.ctl(
        "set-property", "--runtime", machine, "DeviceAllow=/dev/null rw", "DeviceAllow+=char-input r"
    )
    added = {"/dev/null rw", "char-input r"}
    assert set(shown(managed, machine, "DeviceAllow")[0].splitlines()) == {*before, *added}
    managed.ctl("set-property", "--runtime", machine, "DeviceAllow=")
    assert sorted(shown(managed, machine, "DeviceAllow")[0].splitlines()) == sorted(before)


def test_usage_is_what_the_kernel_counts(managed: Driver, machine: str) -> None:
    managed.start(machine)
    group = f"/sys/fs/cgroup{managed.unit_property(f'machine-{machine}.service', 'ControlGroup')}"
    script = f"cd {group} && sed -n 's/^usage_usec //p' cpu.stat && cat memory.current pids.current"

    def kernel() -> list[int]:
        lines = managed.host.run(["sh", "-c", f"{{ {script}; }} 2>/dev/null"], check=False).stdout.split()
        return [int(line) for line in lines]

    before = kernel()
    rows = json.loads(managed.call("ListUsage").stdout)["data"][0]
    ((cpu, memory, tasks, _, _),) = [row[1:] for row in rows if row[0] == machine]
    after = kernel()
    assert before[0] <= cpu <= after[0]
    if len(before) == 3:  # with all controllers
        assert 0 < memory < 2**40
        assert 0 < tasks < 16384
    else:
        assert 2**64 - 1 in {memory, tasks}


def test_top(managed: Driver, machine: str) -> None:
    """S88: as often as it is told, without a terminal; on one until 'q'."""
    managed.start(machine)
    looks = managed.ctl("top", machine, "--delay=200ms", "--iterations=2", "-o", "json").stdout.splitlines()
    for look in looks:
        (row,) = json.loads(look)
        assert row["machine"] == machine
        assert row["cpu"] >= 0
    assert len(looks) == 2
    with Terminal(managed, [OURS, "top", "--delay=100ms"]) as terminal:
        terminal.expect(rf"(?s)\*CPU%.*{machine} .*q: quit")
        terminal.type("m")
        terminal.expect(r"\*MEMORY")
        terminal.type("q")
        assert terminal.ended() == 0


# -- what was written for systemd's template ---------------------------------------------------------------


def test_drop_ins_of_the_template(managed: Driver, machine: str) -> None:
    """S84."""
    template = f"systemd-nspawn@{machine}.service"
    top = managed.host.path("/etc/systemd/system")
    shared, own = top / "systemd-nspawn@.service.d", top / f"{template}.d"
    usr = managed.host.path(f"/usr/lib/systemd/system/{template}.d")
    for directory in (shared, own, usr):
        directory.mkdir()
    (shared / "10-gpu.conf").write_text("[Service]\nDeviceAllow=/dev/null rw\nTasksMax=100\nCPUWeight=7\n")
    (own / "10-gpu.conf").write_text("[Service]\nTasksMax=200\nDeviceAllow=char-input\nIOWeight=9\n")
    (usr / "10-gpu.conf").write_text("[Service]\nTasksMax=300\n")
    (usr / "05-more.conf").write_text(
        "[Service]\nTasksMax=400\nMemoryHigh=25%\n[Unit]\nAfter=other.service\n"
    )
    (own / "20-more.conf").write_text("[Service]\nEnvironment=A=b\nIOReadBandwidthMax=/ 5M\nNope=1\n")
    try:
        managed.host.run(["systemctl", "daemon-reload"])
        managed.host.run(["systemctl", "set-property", template, "MemoryMax=2G"])
        managed.host.run(
            ["systemctl", "set-property", "--runtime", template, "MemoryMax=4G", "CPUQuota=50%"]
        )
        keys = (
            "TasksMax", "DeviceAllow", "CPUWeight", "IOWeight", "MemoryHigh", "MemoryMax",
            "CPUQuotaPerSecUSec", "IOReadBandwidthMax",
        )  # fmt: skip
        managed.start(machine)
        ours = [sorted(value.splitlines()) for value in shown(managed, machine, *keys)]
        theirs = [sorted(value.splitlines()) for value in shown(managed, machine, *keys, unit=template)]
        assert ours == theirs
        assert theirs[0] == ["200"]
        (said,) = {
            record["MESSAGE"] for record in managed.journal("--unit=systemd-machined.service")
            if "Environment=" in str(record["MESSAGE"]) and machine in str(record["MESSAGE"])
        }  # fmt: skip
        assert (
            f"/etc/systemd/system/{template}.d/20-more.conf:2: [Service] Environment= is written for" in said
        )
        # Our own word counts more.
        managed.ctl("set-property", machine, "TasksMax=500", "MemoryMax=")
        assert shown(managed, machine, "TasksMax", "MemoryMax") == ["500", "infinity"]
        managed.ctl("poweroff", machine)
        managed.start(machine)
        assert shown(managed, machine, "TasksMax", "MemoryMax") == ["500", "infinity"]
        # Taken back it is the default, whatever others say.
        managed.ctl("set-property", machine, "TasksMax=")
        assert shown(managed, machine, "TasksMax") == ["16384"]
    finally:
        for directory in (shared, own, usr):
            for path in directory.iterdir():
                path.unlink()
            directory.rmdir()
        managed.host.run(["systemctl", "revert", template], check=False)
        managed.ctl("poweroff", machine, check=False)
        managed.ctl("set-property", machine, "TasksMax=", "MemoryMax=")
        managed.host.run(["systemctl", "daemon-reload"])
        # PID 1 makes a control group for limits even of a unit that does not run.
        managed.host.run(["rmdir", f"/sys/fs/cgroup/machine.slice/{template}"], check=False)
    assert settings_of(managed, machine) == []


def test_across_a_reboot_of_the_host(own_managed: Driver) -> None:
    managed, name = own_managed, "limited"
    managed.host.add_guest(name)
    managed.host.boot()
    managed.ctl("enable", "--now", name)
    managed.ctl("set-property", name, "MemoryMax=2G", "CPUQuota=200%", "TasksMax=4000")
    managed.ctl("set-property", "--runtime", name, "TasksMax=5000", "CPUWeight=50")
    assert shown(managed, name, *ALL_OF_THEM, "CPUWeight") == [*SHOWN[:2], "5000", "50"]
    managed.host.reboot()
    managed.wait(name, "running")
    assert shown(managed, name, *ALL_OF_THEM, "CPUWeight") == [*SHOWN, "[not set]"]
    kernel = in_kernel(managed, name)
    assert kernel == {file: LIMITS[file] for file in kernel}
