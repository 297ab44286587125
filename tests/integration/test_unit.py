# SPDX-License-Identifier: LGPL-2.1-or-later
"""The transient unit of a machine has everything that the stock template has on that host."""

from __future__ import annotations

import pytest

from tests.integration.driver import Driver

pytestmark = pytest.mark.integration

# What has to differ between any two runs, or says who made the unit.
OF_THE_RUN = frozenset(
    (  # noqa: SIM905 - a list of this length is no easier to read
        "Id Names InvocationID ControlGroup ControlGroupId MainPID ExecMainPID Documentation "
        "Description FragmentPath SourcePath Transient UnitFileState UnitFilePreset StatusText "
        "WatchdogTimestamp WatchdogTimestampMonotonic CPUUsageNSec MemoryCurrent MemoryPeak "
        "TasksCurrent NFileDescriptorStore IOReadBytes IOWriteBytes MemoryAvailable EffectiveMemoryMax "
        "EffectiveMemoryHigh DropInPaths Markers NeedDaemonReload Job ActivationDetails"
    ).split()
)
# Ours on purpose: the order against our daemon and the bus at shutdown, no failed unit in the way of the
# next start, the cleaning that 257's nspawn cannot do by itself, and all settings on the command line.
OURS = {"After", "CollectMode", "ExecStart", "ExecStartEx", "ExecStopPost", "ExecStopPostEx"}


def properties(managed: Driver, unit: str) -> dict[str, str]:
    lines = managed.host.run(["systemctl", "show", "--all", unit]).stdout.splitlines()
    found: dict[str, list[str]] = {}
    for line in lines:
        key, _, value = line.partition("=")
        found.setdefault(key, []).append(value)
    return {key: "\n".join(sorted(values)) for key, values in found.items()}


def test_same_as_the_template(managed: Driver, machine: str) -> None:
    template = f"systemd-nspawn@{machine}.service"
    managed.host.run(["systemctl", "start", template])
    theirs = properties(managed, template)
    managed.wait(machine, "running")
    managed.host.run(["systemctl", "stop", template])
    managed.wait(machine, "stopped")
    managed.start(machine)
    ours = properties(managed, f"machine-{machine}.service")
    different = {
        key: (theirs.get(key), ours.get(key))
        for key in theirs.keys() | ours.keys()
        if key not in OF_THE_RUN
        and not key.startswith("ExecMain")
        and "Timestamp" not in key
        and without_run(theirs.get(key)) != without_run(ours.get(key))
    }
    assert set(different) <= OURS, different
    options = argv(theirs["ExecStart"])
    # The range that "-U" would pick anew at each start is ours to pick, with what "-U" does to the tree.
    (users,) = {option for option in argv(ours["ExecStart"]) if option.startswith("--private-users=")}
    assert int(users.removeprefix("--private-users=").removesuffix(":65536")) % 65536 == 0
    assert argv(ours["ExecStart"]) == {
        *options - {"--settings=override", "-U"},
        "--settings=no",
        users,
        "--private-users-ownership=auto",
    }
    assert set(theirs["After"].split()) <= set(ours["After"].split())
    assert "systemd-machined.service" in ours["After"]
    assert "machined" in ours["Description"]
    assert "man:systemd-nspawn(1)" in ours["Documentation"]


def argv(command: str) -> set[str]:
    _, _, rest = command.partition("argv[]=")
    return set(rest.partition(" ;")[0].split()[1:])


def without_run(value: str | None) -> str | None:
    """A command without when it ran; lists of units in one order."""
    if value is None:
        return None
    if "; start_time=" in value:
        return value.partition("; start_time=")[0]
    return " ".join(sorted(value.split(" ")))
