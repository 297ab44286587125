# SPDX-License-Identifier: LGPL-2.1-or-later

from __future__ import annotations

import os
import subprocess
import uuid
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from machined.linux import cgroup


@pytest.mark.parametrize(
    ("path", "unit", "subgroup"),
    [
        ("/machine.slice/systemd-nspawn@a-b.service/payload", "systemd-nspawn@a-b.service", "payload"),
        ("/machine.slice/machine-a\\x2db.scope", "machine-a\\x2db.scope", ""),
        ("/machine.slice/machine-qemu.slice/machine-x.scope/a/b", "machine-x.scope", "a/b"),
        ("/user.slice/user@1000.service/app.slice/x.service", "user@1000.service", "app.slice/x.service"),
        ("/user.slice/user-1000.slice/session-3.scope", "session-3.scope", ""),
        ("/init.scope", "init.scope", ""),
        ("/system.slice/_cgroup.service", "cgroup.service", ""),
        ("/system.slice/run-x.mount", "run-x.mount", ""),
        ("/", None, ""),
        ("/system.slice", None, ""),
        ("/foo/bar.service", None, ""),
        ("/system.slice/getty@.service", None, ""),
        ("/system.slice/.service", None, ""),
        ("/system.slice/a b.service", None, ""),
        ("/../../x", None, ""),
        ("/system.slice/" + "a" * 250 + ".service", None, ""),
    ],
)  # fmt: skip
def test_unit_of_a_path(path: str, unit: str | None, subgroup: str) -> None:
    assert cgroup.unit_from_path(path) == unit
    if unit is not None:
        assert cgroup.subgroup_from_path(path, unit) == subgroup
    assert cgroup.subgroup_from_path(path, "other.service") == ""


@pytest.mark.parametrize(
    ("first", "other", "expected"),
    [
        ("/init.scope", "/system.slice/a.service", "/system.slice/a.service"),
        ("/", "/a", "/a"),
        ("/lxc/c1/init.scope", "/lxc/c1/system.slice/a.service", "/system.slice/a.service"),
        ("/lxc/c1/init.scope", "/lxc/c1", "/"),
        ("/lxc/c1/init.scope", "/lxc/c10/x.service", "/lxc/c10/x.service"),
    ],
)
def test_our_own_root_is_stripped(
    monkeypatch: pytest.MonkeyPatch, first: str, other: str, expected: str
) -> None:
    monkeypatch.setattr(cgroup, "_known_root", None)
    monkeypatch.setattr(cgroup, "_raw_path_of", lambda pid: first if pid == 1 else other)
    assert cgroup.path_of(4711) == expected


def test_path_of_the_missing() -> None:
    child = subprocess.Popen(["true"])
    child.wait()
    with pytest.raises(ProcessLookupError, match=str(child.pid)):
        cgroup.path_of(child.pid)


def test_processes_of_a_group(sleeper: subprocess.Popen[bytes]) -> None:
    parent = Path(cgroup._mount(), cgroup._raw_path_of(os.getpid()).strip("/"))
    group = parent / f"test-{uuid.uuid4().hex}.service"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no cgroup can be made here: {error}")
    below = group / "payload"
    try:
        below.mkdir()
        (below / "cgroup.procs").write_text(str(sleeper.pid))
        path = cgroup.path_of(sleeper.pid)
        assert path.endswith(f"{group.name}/payload")
        assert cgroup.processes(path.removesuffix("/payload")) == [sleeper.pid]
        assert cgroup.unit_of(sleeper.pid) in (group.name, None)
    finally:
        (parent / "cgroup.procs").write_text(str(sleeper.pid))
        below.rmdir()
        group.rmdir()
    assert cgroup.processes(path) == []


COMPONENT = st.sampled_from(
    ["machine.slice", "-.slice", "a-b.slice", "x.scope", "x@y.service", "x@.service", "@.service",
     "_x.scope", ".scope", "payload", "..", ".", "", "a b.service", "init.scope", "x.slicex", "ü.scope"]
) | st.text(max_size=12)  # fmt: skip


@given(st.lists(COMPONENT, max_size=6).map("/".join), st.booleans())
def test_any_path(path: str, rooted: bool) -> None:
    """The unit is one of its parts, everything before it is a slice, and what follows is the subgroup."""
    path = "/" + path if rooted else path
    parts = [part for part in path.split("/") if part]
    unit = cgroup.unit_from_path(path)
    if unit is None:
        assert cgroup.subgroup_from_path(path, "x.scope") == ""
        return
    place = next(i for i, part in enumerate(parts) if part.removeprefix("_") == unit)
    assert all(part.endswith(".slice") for part in parts[:place])
    assert not unit.endswith(".slice")
    assert len(unit) <= 255
    assert "/" not in unit
    assert cgroup.subgroup_from_path(path, unit) == "/".join(parts[place + 1 :])
