# SPDX-License-Identifier: LGPL-2.1-or-later

from __future__ import annotations

import os
from pathlib import Path

import pytest

from machined.model import versions


@pytest.mark.parametrize(
    ("lower", "higher"),
    [
        ("1", "2"),
        ("9", "10"),
        ("1.9", "1.10"),
        ("1~rc1", "1"),
        ("1", "1^post1"),
        ("1.0-1", "1.0.1"),
        ("a", "b"),
        ("1a", "1b"),
        ("a", "1"),
        ("", "1"),
    ],
)
def test_order(lower: str, higher: str) -> None:
    assert versions.compare(lower, higher) < 0
    assert versions.compare(higher, lower) > 0
    assert versions.compare(lower, lower) == 0


def test_leading_zeros_do_not_count() -> None:
    assert versions.compare("007", "7") == 0


def test_the_newest_of_the_right_kind_is_taken(tmp_path: Path) -> None:
    for name in ("os_1", "os_10", "os_9", "os_11+0", "other_99", "os"):
        (tmp_path / name).mkdir()
    (tmp_path / "os_12").touch()
    (tmp_path / "os_3.raw").touch()
    (tmp_path / "os_4.raw").mkdir()
    (tmp_path / "os_99").symlink_to("gone")
    assert versions.newest(tmp_path, "os", "") == tmp_path / "os_10"
    assert versions.newest(tmp_path, "os", ".raw") == tmp_path / "os_3.raw"
    assert versions.newest(tmp_path, "none", "") is None


def test_one_that_was_tried_too_often_is_the_last_resort(tmp_path: Path) -> None:
    (tmp_path / "os_11+0-3").mkdir()
    assert versions.newest(tmp_path, "os", "") == tmp_path / "os_11+0-3"
    (tmp_path / "os_10+3").mkdir()
    assert versions.newest(tmp_path, "os", "") == tmp_path / "os_10+3"


def test_other_machines_versions_are_not_for_us(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "_ARCHITECTURES", {os.uname().machine: ("x86-64",)})
    (tmp_path / "os_2_arm64").mkdir()
    assert versions.newest(tmp_path, "os", "") is None
    (tmp_path / "os_1_x86-64").mkdir()
    assert versions.newest(tmp_path, "os", "") == tmp_path / "os_1_x86-64"
