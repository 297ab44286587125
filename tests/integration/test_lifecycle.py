# SPDX-License-Identifier: LGPL-2.1-or-later
"""A machine starts, is seen by everybody, reboots both ways, and stops with nothing left behind."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import partial

import pytest

from machined.linux.escape import bus_label_escape
from tests.integration.driver import NAME, OWN, ROOT, Driver
from tests.until import agree

pytestmark = pytest.mark.integration


def test_start_list_status_poweroff(managed: Driver, machine: str) -> None:
    managed.ctl("start", machine)
    assert managed.wait(machine, "running") == "running"
    assert managed.listed()[machine] == managed.listed(stock=True)[machine] == "container"
    status = managed.ctl("status", machine).stdout
    assert f"machine-{machine}.service" in status
    assert "Leader: " in status
    assert "State: running" in status
    managed.ctl("poweroff", machine)
    assert managed.state(machine) == "stopped"
    assert machine not in managed.listed()
    assert managed.unit_property(f"machine-{machine}.service", "LoadState") == "not-found"


def test_start_of_a_running_machine_is_no_error(managed: Driver, machine: str) -> None:
    managed.start(machine)
    leader = managed.leader(machine)
    managed.ctl("start", machine)
    assert managed.leader(machine) == leader


def test_lists_are_alike(managed: Driver, machine: str) -> None:
    managed.start(machine)
    # The guest may get an address, and an image a block, between the two.
    for words in (["list"], ["list", "--no-legend"], ["list", "--all"], ["list-images", "--no-legend"]):
        agree(partial(printed, managed, words, rows))
    agree(partial(printed, managed, ["list", "-o", "json"], json.loads))


def printed(managed: Driver, words: list[str], read: Callable[[str], object]) -> tuple[object, object]:
    """What our client prints, and systemd's."""
    return read(managed.ctl(*words).stdout), read(managed.stock(*words).stdout)


def rows(output: str) -> list[list[str]]:
    """The cells of a table; the host's own addresses come and go."""
    cells = sorted(line.split() for line in output.splitlines())
    return [row[:5] if row[:1] == [".host"] else row for row in cells]


def test_show_is_alike(managed: Driver, machine: str) -> None:
    managed.start(machine)
    ours = managed.ctl("show", machine).stdout.splitlines()
    stock = managed.stock("show", machine).stdout.splitlines()
    assert set(stock) <= set(ours)
    assert not [line for line in stock if line.startswith("StateTimestamp=")], "that is of our interface"
    assert [line.partition("=")[0] for line in ours if line in stock] == [
        line.partition("=")[0] for line in stock
    ]


def test_reboot_from_outside(managed: Driver, machine: str) -> None:
    managed.start(machine)
    before = managed.leader(machine)
    managed.ctl("reboot", machine)
    assert managed.wait(machine, "running") in {"running", "degraded"}
    assert managed.leader(machine) != before


def test_reboots_in_a_row(managed: Driver, machine: str) -> None:
    """More of them, and faster, than the start limit of a unit allows by itself."""
    managed.start(machine)
    seen = {managed.leader(machine)}
    for _ in range(8):
        managed.ctl("reboot", machine)
        seen.add(managed.leader(machine))
    assert len(seen) == 9
    assert managed.wait(machine, "running") == "running"


def test_reboot_from_inside(managed: Driver, machine: str) -> None:
    managed.start(machine)
    before = managed.leader(machine)
    path = f"{ROOT}/machine/{bus_label_escape(machine)}"
    with managed.signals(NAME + ".Manager", "MachineNew") as new:
        # (Whether that program can still tell how it ended is another question.)
        managed.guest(machine, "systemctl", "reboot", "--no-block", check=False)
        while next(new)[0] != machine:
            pass
    managed.wait(machine, "running")
    assert managed.leader(machine) != before
    assert managed.get(path, "org.machined1.Machine", "State") in {"running", "degraded"}


def test_poweroff_from_inside(managed: Driver, machine: str) -> None:
    managed.start(machine)
    managed.guest(machine, "systemctl", "poweroff", "--no-block", check=False)
    assert managed.wait(machine, "stopped") == "stopped"


def stop_record(managed: Driver, machine: str) -> dict[str, str]:
    """What the journal says of the stop job: the job ends a moment after the machine has."""
    ended: list[dict[str, str]] = []
    deadline = time.monotonic() + 20
    while not ended and time.monotonic() < deadline:
        ended = [r for r in managed.journal(f"NAME={machine}") if r.get("VERB") == "stop"]
    (record,) = ended
    return record


@pytest.mark.parametrize("pause", [0.0, 0.05, 0.15, 0.3])
def test_poweroff_during_boot(managed: Driver, machine: str, pause: float) -> None:
    """A signal in the first moments of a boot is dropped by the kernel: the stop waits for a listener."""
    script = f"{ROOT} {OWN}"
    managed.host.run(
        [
            "sh",
            "-ec",
            f"busctl call {NAME} {script} StartMachine 'sa{{sv}}' {machine} 0; sleep {pause}; "
            f"busctl call {NAME} {script} StopMachine 'sa{{sv}}' {machine} 1 timeout-usec t 40000000",
        ]
    )
    assert managed.wait(machine, "stopped", 60) in {"stopped", "failed"}
    record = stop_record(managed, machine)
    assert record["RESULT"] == "done"
    assert "terminated" not in record["MESSAGE"], "it was not powered off in good order"
    assert machine not in managed.listed()


def test_stop_escalates(managed: Driver, machine: str) -> None:
    managed.start(machine)
    managed.host.run(
        ["systemctl", "-M", machine, "mask", "--runtime", "--quiet", "poweroff.target", "halt.target"]
    )
    managed.host.run(
        [
            *("busctl", "call", NAME, ROOT, OWN, "StopMachine", "sa{sv}", machine, "2"),
            *("timeout-usec", "t", "500000", "terminate-timeout-usec", "t", "500000"),
        ]
    )
    assert managed.wait(machine, "stopped") in {"stopped", "failed"}
    record = stop_record(managed, machine)
    assert record["RESULT"] == "done"
    assert "did not" in record["MESSAGE"]


def test_terminate_and_kill(managed: Driver, machine: str) -> None:
    managed.start(machine)
    managed.ctl("terminate", machine)
    managed.wait(machine, "stopped")
    managed.start(machine)
    managed.ctl("kill", "--signal=KILL", machine)
    assert managed.wait(machine, "stopped") in {"stopped", "failed"}


def test_states_are_announced(managed: Driver, machine: str) -> None:
    """The whole life of a machine, as the signals of our interface tell it."""
    with managed.signals(OWN, "MachineStateChanged") as changes:
        managed.start(machine)
        managed.ctl("poweroff", machine)
        seen = []
        while "stopped" not in seen:
            name, _, state, _ = next(changes)
            if name == machine:
                seen.append(state)
    assert seen == ["starting", "running", "stopping", "stopped"]


def test_degraded(managed: Driver, fresh_machine: str) -> None:
    machine = fresh_machine
    unit = managed.host.path(f"/var/lib/machines/{machine}/etc/systemd/system/broken.service")
    unit.write_text("[Service]\nType=oneshot\nExecStart=/bin/false\n", encoding="utf-8")
    wants = unit.parent / "multi-user.target.wants"
    wants.mkdir(exist_ok=True)
    (wants / "broken.service").symlink_to("/etc/systemd/system/broken.service")
    managed.ctl("start", machine)
    assert managed.wait(machine, "running") == "degraded"


def test_object_of_a_stopped_machine(managed: Driver, machine: str) -> None:
    """It is there by our interface; by machine1's it is as unknown as with the stock daemon."""
    path = f"{ROOT}/machine/{bus_label_escape(machine)}"
    assert managed.get(path, "org.machined1.Machine", "State") == "stopped"
    for words in (
        ["get-property", NAME, path, f"{NAME}.Machine", "Name"],
        ["call", NAME, path, f"{NAME}.Machine", "GetOSRelease"],
    ):
        done = managed.host.run(["busctl", *words], check=False)
        assert "Unknown object" in done.stderr


def test_wait_has_a_limit(managed: Driver, machine: str) -> None:
    done = managed.ctl("wait", machine, "--for=running", "--timeout=1", check=False)
    assert done.returncode == 1
    assert machine in done.stderr
