# SPDX-License-Identifier: LGPL-2.1-or-later
"""What control groups use."""

from __future__ import annotations

from pathlib import Path

import pytest

from machined.linux import cgroup
from machined.linux.usage import UNKNOWN, Usage, of_unit

LEADER = "/machine.slice/machine-box.service/payload/init.scope"


@pytest.fixture(autouse=True)
def hierarchy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroup, "_mount", lambda: str(tmp_path))
    monkeypatch.setattr(cgroup, "_root", lambda: "/outer")


@pytest.mark.parametrize("path", [LEADER, "/machine.slice/machine-box.service"])
def test_of_the_unit(tmp_path: Path, path: str) -> None:
    group = tmp_path / "outer/machine.slice/machine-box.service"
    (group / "payload").mkdir(parents=True)
    assert cgroup.unit_group(path) == str(group)
    assert of_unit(path) == Usage()
    for name, text in {
        "cpu.stat": "usage_usec 1234\nuser_usec 1000\n",
        "memory.current": "4096\n",
        "pids.current": "7\n",
        "io.stat": "8:0 rbytes=10 wbytes=20 rios=1 wios=2 dbytes=0 dios=0\n8:16 rbytes=5 wbytes=0\n",
    }.items():
        (group / name).write_text(text, encoding="ascii")
    assert of_unit(path) == Usage(1234, 4096, 7, 15, 20)
    (group / "io.stat").write_text("", encoding="ascii")
    (group / "pids.current").write_text("max\n", encoding="ascii")
    assert of_unit(path) == Usage(1234, 4096, UNKNOWN, UNKNOWN, UNKNOWN)
