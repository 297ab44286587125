# SPDX-License-Identifier: LGPL-2.1-or-later
"""Limits: what may be written, and what PID 1 is told of it."""

from __future__ import annotations

from typing import Any

import pytest

from machined.linux.inifile import parse
from machined.model import unit
from machined.model.ports import UnitProperty
from machined.model.settings import section_service, unit_properties
from machined.model.settings.layers import Severity, Source, from_command_line, read
from machined.model.settings.merge import Effective, merge
from machined.model.settings.quantities import UINT64_MAX, permyriad, size, span
from machined.model.unit import DEVICES
from tests.limits import SAMPLES, Property, expected

VALID = [(key, text, told) for key, (valid, _) in SAMPLES.items() for text, told in valid.items()]
REFUSED = [(key, text) for key, (_, refused) in SAMPLES.items() for text in refused if text]


def version_of(key: str) -> int:
    setting = section_service.BY_KEY[key]
    return setting.until - 1 if setting.until else 10_000


def said(*words: str, version: int = 10_000) -> Effective:
    return merge([from_command_line(words, version)])


def told(effective: Effective) -> list[tuple[str, str, Any]]:
    return [(row.name, row.type, row.value) for row in unit_properties.properties(effective)]


def test_all_are_tried() -> None:
    assert set(SAMPLES) == set(section_service.BY_KEY)


@pytest.mark.parametrize(("key", "text", "wanted"), VALID)
def test_valid(key: str, text: str, wanted: Property) -> None:
    effective = said(f"{key}={text}", version=version_of(key))
    assert not effective.findings
    assert told(effective) == [expected(key, wanted)]
    # And what was made of it means the same.
    values = [value.text for value in effective.all("Service", key)]
    again = said(*(f"{key}={value}" for value in values), version=version_of(key))
    if not section_service.BY_KEY[key].whole:
        assert told(again) == told(effective)


@pytest.mark.parametrize(("key", "text"), REFUSED)
def test_refused(key: str, text: str) -> None:
    data = f"[Service]\n{key}={text}\n".encode()
    layer = read(parse(data, "/etc/x.conf"), Source.MACHINE, version_of(key))
    assert not layer.lines
    (finding,) = layer.findings
    assert finding.severity is Severity.ERROR
    assert str(finding).startswith(f"/etc/x.conf:2: [Service] {key}=")
    # In a drop-in that somebody wrote for PID 1 it is passed over, as PID 1 does.
    (finding,) = read(parse(data, "/etc/x.conf"), Source.UNIT, version_of(key)).findings
    assert finding.severity is Severity.WARNING
    assert finding.text.endswith("Ignored.")


@pytest.mark.parametrize("key", SAMPLES)
def test_none_may_come_in_a_nspawn_file(key: str) -> None:
    text = next(iter(SAMPLES[key][0]))
    for source in (Source.NSPAWN, Source.IMAGE):
        layer = read(parse(f"[Service]\n{key}={text}\n".encode(), "x.nspawn"), source, version_of(key))
        assert not layer.lines
        assert "is no key of .nspawn files" in layer.findings[0].text


def test_lists_add_up_and_others_do_not() -> None:
    effective = said("MemoryMax=1G", "MemoryMax=2G", "AllowedCPUs=0", "AllowedCPUs=8", "IPAddressDeny=any",
                     "DeviceAllow=/dev/kvm r", "DeviceAllow=/dev/tty w")  # fmt: skip
    assert told(effective) == [
        ("AllowedCPUs", "ay", b"\x01\x01"),
        ("MemoryMax", "t", 2 * 1024**3),
        ("IPAddressDeny", "a(iayu)", [[2, bytes(4), 0], [10, bytes(16), 0]]),
        ("DeviceAllow", "a(ss)", [["/dev/kvm", "r"], ["/dev/tty", "w"]]),
    ]
    assert told(said("MemoryMax=1G", "MemoryMax=", "DeviceAllow=/dev/kvm", "DeviceAllow=")) == []


def test_defaults_are_those_of_the_unit() -> None:
    """What the table calls a default is what a machine of which nothing is said has."""
    of_unit = {row.name: row.value for row in unit.properties("box", 257, "cleanup")}
    for setting in section_service.ROWS:
        if setting.default:
            row = unit_properties.of(setting, ())
            assert of_unit[row.name] == row.value
    assert told(merge([])) == []


def test_unit_has_them() -> None:
    rows = unit.properties(
        "box", 262, "cleanup",
        settings=said("TasksMax=20%", "DeviceAllow=/dev/kvm", "TimeoutStopSec=5", "Slice=batch.slice",
                      "DevicePolicy=auto"),
    )  # fmt: skip
    values = [(row.name, row.value) for row in rows]
    names = [name for name, _ in values]
    assert names.count("TimeoutStopUSec") == names.count("DevicePolicy") == names.count("Slice") == 1
    assert dict(values)["TimeoutStopUSec"] == 5_000_000
    assert dict(values)["Slice"] == "batch.slice"
    assert names.index("TasksMax") < names.index("TasksMaxScale")
    devices = [value for name, value in values if name == "DeviceAllow"]
    assert devices == [[list(row) for row in DEVICES], [["/dev/kvm", "rwm"]]]


def test_changes_of_a_unit_that_runs() -> None:
    keys = (
        "MemoryMax",
        "TasksMax",
        "DeviceAllow",
        "IPAddressAllow",
        "AllowedCPUs",
        "RestrictNetworkInterfaces",
    )
    settings = [section_service.BY_KEY[key] for key in keys]
    base = {"DeviceAllow": [["/dev/fuse", "rwm"]]}
    reset = unit_properties.changes(merge([]), settings, base)
    assert reset == [
        UnitProperty("MemoryMax", "t", UINT64_MAX),
        UnitProperty("TasksMax", "t", 16384),
        UnitProperty("DeviceAllow", "a(ss)", []),
        UnitProperty("DeviceAllow", "a(ss)", [["/dev/fuse", "rwm"]]),
        UnitProperty("IPAddressAllow", "a(iayu)", []),
        UnitProperty("AllowedCPUs", "ay", b""),
        UnitProperty("RestrictNetworkInterfaces", "(bas)", [True, []]),
    ]
    effective = said("DeviceAllow=/dev/kvm", "RestrictNetworkInterfaces=~lo", "MemoryMax=20%")
    assert unit_properties.changes(effective, [settings[0], settings[2], settings[5]], base) == [
        UnitProperty("MemoryMaxScale", "u", 858993459),
        UnitProperty("DeviceAllow", "a(ss)", []),
        UnitProperty("DeviceAllow", "a(ss)", [["/dev/fuse", "rwm"], ["/dev/kvm", "rwm"]]),
        UnitProperty("RestrictNetworkInterfaces", "(bas)", [True, []]),
        UnitProperty("RestrictNetworkInterfaces", "(bas)", [False, ["lo"]]),
    ]


def test_amounts() -> None:
    assert [size(text) for text in ("0", "1K", "1 G 5", "0.5K", "1.5")] == [0, 1024, 1024**3 + 5, 512, 1]
    assert size("1.5G", 1000) == 1_500_000_000
    assert [span(t) for t in ("1", "0.5s", "1h 5min", "2w", "3us")] == [
        1_000_000, 500_000, 3_900_000_000, 1_209_600_000_000, 3,
    ]  # fmt: skip
    assert permyriad("100%") == 10_000
    for function, text in (
        (size, "1G1G"),
        (size, "G"),
        (size, " "),
        (span, "1 2x"),
        (span, ""),
        (permyriad, "5"),
    ):
        with pytest.raises(ValueError, match="must be"):
            function(text)
