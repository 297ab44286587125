# SPDX-License-Identifier: LGPL-2.1-or-later
"""Drop-ins for the unit of systemd's template: what of them is taken over, and what is said of the rest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from machined.model.settings import sources, table, unit_dropins
from machined.model.settings.layers import Severity, Source
from machined.model.settings.unit_properties import properties

DIRECTORIES = ("control", "etc", "run", "usr")
Write = Callable[[str, str], Path]


@pytest.fixture(autouse=True)
def units(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Directories of units of its own; writes the [Service] of a file in one."""
    monkeypatch.setattr(unit_dropins, "UNITS", tuple(tmp_path / name for name in DIRECTORIES))
    monkeypatch.setattr(sources, "CONFIGURATION", tmp_path / "machined")
    monkeypatch.setattr(sources, "RUNTIME", tmp_path / "run-machined")
    monkeypatch.setattr(sources, "NSPAWN", (tmp_path / "nspawn",))

    def write(file: str, text: str) -> Path:
        path = tmp_path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text if text.startswith("[") else f"[Service]\n{text}\n", encoding="utf-8")
        return path

    return write


def values(name: str = "box", version: int = 257) -> dict[str, list[str]]:
    effective = sources.load(name, None, version)
    assert not effective.errors()
    return {
        setting.key: [value.text for value in found]
        for setting, found in effective.values.items()
        if found and found[-1].source is Source.UNIT
    }


def findings(name: str = "box") -> list[str]:
    layer = unit_dropins.layer(name, 257)
    assert all(finding.severity is Severity.WARNING for finding in layer.findings)
    return [str(finding) for finding in layer.findings]


def test_nothing_there() -> None:
    assert values() == {}
    assert findings() == []
    assert unit_dropins.files("box") == unit_dropins.own_drop_ins("box") == []
    assert not unit_dropins.has_own("box")


def test_which_count_more(units: Write) -> None:
    """By their names; of one name the one of the first directory, there that of the machine before all's."""
    units("usr/systemd-nspawn@box.service.d/10-a.conf", "TasksMax=1")
    assert values() == {"TasksMax": ["1"]}
    assert unit_dropins.has_own("box")
    shared = units("etc/systemd-nspawn@.service.d/10-a.conf", "TasksMax=2")
    assert values() == {"TasksMax": ["2"]}
    own = units("etc/systemd-nspawn@box.service.d/10-a.conf", "TasksMax=3")
    assert values() == {"TasksMax": ["3"]}
    later = units("usr/systemd-nspawn@.service.d/20-b.conf", "TasksMax=4")
    assert values() == {"TasksMax": ["4"]}
    assert unit_dropins.files("box") == [own, later]
    assert unit_dropins.files("other") == [shared, later]
    assert not unit_dropins.has_own("other")
    control = units("control/systemd-nspawn@box.service.d/50-TasksMax.conf", "TasksMax=5")
    units("etc/systemd-nspawn@box.service.d/60-x.txt", "TasksMax=6")
    units("etc/systemd-nspawn@box.service.d/.60-x.conf", "TasksMax=6")
    assert values() == {"TasksMax": ["5"]}
    # A file of that name that says nothing.
    control.unlink()
    control.symlink_to("/dev/null")
    later.unlink()
    (own.parent / "20-b.conf").symlink_to("/dev/null")
    assert values() == {"TasksMax": ["3"]}


def test_origin(units: Write) -> None:
    path = units("etc/systemd-nspawn@.service.d/limits.conf", "# of all\nMemoryMax=2G")
    effective = sources.load("box", None, 257)
    (value,) = effective.all("Service", "MemoryMax")
    assert (value.text, value.source.value, value.origin) == ("2G", "unit drop-in", f"{path}:3")
    assert [(row.name, row.value) for row in properties(effective)] == [("MemoryMax", 2 * 1024**3)]


def test_our_own_files_count_more(units: Write, tmp_path: Path) -> None:
    units("etc/systemd-nspawn@box.service.d/z.conf", "MemoryMax=2G\nDeviceAllow=/dev/kvm\nSlice=a.slice")
    units("machined/machines/box.conf", "MemoryMax=1G\nDeviceAllow=/dev/tty r")
    effective = sources.load("box", None, 257)
    assert effective.get("Service", "MemoryMax") == "1G"
    assert [value.text for value in effective.all("Service", "DeviceAllow")] == [
        "/dev/kvm rwm",
        "/dev/tty r",
    ]
    assert effective.get("Exec", "Slice") == "a.slice"
    units("machined/machines/box.conf.d/50.conf", "MemoryMax=\nDeviceAllow=")
    effective = sources.load("box", None, 257)
    assert properties(effective) == []


def test_specifiers(units: Write) -> None:
    units(
        "etc/systemd-nspawn@.service.d/a.conf",
        "Slice=machine-%i.slice\nDeviceAllow=/dev/mapper/%i-x%%\nCPUQuota=5%",
    )
    assert values() == {
        "Slice": ["machine-box.slice"],
        "DeviceAllow": ["/dev/mapper/box-x% rwm"],
        "CPUQuota": ["5%"],
    }
    units("etc/systemd-nspawn@.service.d/a.conf", "Slice=%H.slice")
    assert values() == {}
    assert "[Exec] Slice=%H.slice is not valid" in findings()[0]


def test_two_limits_in_one(units: Write) -> None:
    units("etc/systemd-nspawn@.service.d/a.conf", "TimeoutSec=5")
    assert values() == {"TimeoutStartSec": ["5"], "TimeoutStopSec": ["5"]}


def test_the_rest_is_named(units: Write) -> None:
    path = units(
        "etc/systemd-nspawn@.service.d/a.conf",
        "[Unit]\nAfter=x.service\n[Service]\nExecStart=\nEnvironment=A=b\nKillMode=mixed\nKillMode=process\n"
        "LimitNOFILE=5\nMemoryMax=lots\nDeviceAllow=\nCPUPressureWatch=on\nnonsense\n[Install]\nWantedBy=x\n",
    )
    assert values() == {}
    unit = "is written for systemd-nspawn@box.service and does not count: "
    there = "the machine runs in machine-box.service, for which it can be written as well."
    says = "says it to systemd-nspawn"
    options = "the options of systemd-nspawn are settings, in /etc/machined/machines/box.conf."
    assert sorted(findings()) == sorted([
        f"{path}:2: [Unit] After= {unit}{there}",
        f"{path}:4: [Service] ExecStart= {unit}{options}",
        f"{path}:5: [Service] Environment= {unit}{options}",
        f"{path}:7: [Service] KillMode= {unit}{there}",
        f"{path}:8: [Service] LimitNOFILE= {unit}'machinectl set box LimitNOFILE=…' {says}.",
        f"{path}:9: [Service] MemoryMax=lots is not valid: must be a size as '512M' or '1.5G', a share of "
        f"the host's as '20%', or 'infinity'. Ignored.",
        f"{path}:10: DeviceAllow= without a value forgets those before, but not the devices that every "
        f"machine needs.",
        f"{path}:11: [Service] CPUPressureWatch= needs systemd 262, this host has 257. Ignored.",
        f"{path}:12: 'nonsense' is no assignment (Key=value), ignored.",
    ])  # fmt: skip


def test_a_template_of_ones_own(units: Write) -> None:
    path = units(
        "etc/systemd-nspawn@.service",
        "[Unit]\nDescription=mine\n[Service]\nType=notify\nExecStart=systemd-nspawn --boot\nExecStart=\n"
        "TasksMax=99\nDelegate=yes\n",
    )
    units("usr/systemd-nspawn@.service", "TasksMax=1\nExecStart=x")
    assert values() == {"TasksMax": ["99"]}
    assert findings() == [
        f"{path}: a unit of its own for systemd-nspawn@box.service, of which limits and devices count for "
        f"machine-box.service as well, but not Description=, ExecStart=; the options of systemd-nspawn are "
        f"settings, in /etc/machined/machines/box.conf."
    ]
    units("etc/systemd-nspawn@.service.d/a.conf", "TasksMax=98")
    assert values() == {"TasksMax": ["98"]}


def test_what_cannot_be_read(units: Write) -> None:
    path = units("etc/systemd-nspawn@.service.d/a.conf", "[Service\nTasksMax=9")
    (path.parent / "b.conf").mkdir()
    units("etc/systemd-nspawn@.service.d/c.conf", "TasksMax=9")
    assert values() == {"TasksMax": ["9"]}
    first, second = findings()
    assert first == f"{path}:1: '[Service' is no section header ([Section]). Ignored."
    assert str(path.parent / "b.conf") in second
    assert second.endswith("Ignored.")


def test_drop_ins_of_the_machine_s_unit_itself(units: Write) -> None:
    """PID 1 puts them on; we know which there are."""
    paths = [
        units(f"etc/{unit}.d/{number}.conf", "TasksMax=1")
        for number, unit in enumerate(
            ["machine-a-b.service", "machine-a-.service", "machine-.service", "service"], 10
        )
    ]
    units("etc/machine-a.service.d/99.conf", "TasksMax=1")
    assert unit_dropins.own_drop_ins("a-b") == paths
    assert values("a-b") == {}
    limit = table.find("Service", "TasksMax")
    assert limit is not None
    found = unit_dropins.overriding("a-b", [limit])
    assert [str(finding) for finding in found] == [
        f"{path}:2: TasksMax=1 counts more, whenever machine-a-b.service is started." for path in paths
    ]
    assert unit_dropins.overriding("a-b", []) == []
