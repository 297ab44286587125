# SPDX-License-Identifier: LGPL-2.1-or-later

from __future__ import annotations

from collections.abc import Callable

import pytest

from machined.linux import mounts

TABLE = rb"""22 27 0:21 / /proc rw,nosuid - proc proc rw
36 35 98:0 /mnt1 /mnt\040two rw,noatime master:1 propagate_from:2 - ext3 /dev/a\134b ro,errors=continue
40 22 0:30 / /proc/fs rw shared:3 - tmpfs tmpfs rw,size=4k
"""


def test_parse() -> None:
    proc, two, _ = mounts.parse(TABLE)
    assert (proc.id, proc.parent, proc.fstype, proc.target) == (22, 27, "proc", "/proc")
    assert (two.root, two.target, two.source) == ("/mnt1", "/mnt two", "/dev/a\\b")
    assert two.options == {"rw", "ro", "noatime", "errors=continue"}


def test_below(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mounts, "mount_points", lambda: mounts.parse(TABLE))
    assert [mount.id for mount in mounts.below("/proc/")] == [22, 40]
    assert [mount.id for mount in mounts.below("/pro")] == []
    assert len(mounts.below("/")) == 3


def test_the_real_table() -> None:
    assert "/proc" in {mount.target for mount in mounts.mount_points()}


def test_flags_of_the_missing() -> None:
    with pytest.raises(FileNotFoundError):
        mounts.flags_of("/no such path")


CODE = """
import os, subprocess, tempfile
from machined.linux import mounts
with tempfile.TemporaryDirectory() as directory:
    target = os.path.join(directory, "with space")
    link = os.path.join(directory, "link")
    os.mkdir(target)
    os.symlink(target, link)
    for options in ("noexec,nosuid,nodev,ro", "rw"):
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", target], check=True)
        print(*sorted(mounts.flags_of(target)))
    print(len(mounts.below(directory)))
    try:
        mounts.unmount(link)
    except OSError as error:
        print(error.errno)
    fd = os.open(target, os.O_PATH)
    try:
        mounts.unmount(target)
    except OSError as error:
        print(type(error).__name__, error.errno)
    mounts.unmount(target, lazy=True)
    os.close(fd)
    mounts.unmount(target)
    print(len(mounts.below(directory)))
"""


def test_mounting_for_real(in_mount_namespace: Callable[[str], list[str]]) -> None:
    assert in_mount_namespace(CODE) == ["nodev noexec nosuid ro", "", "2", "22", "OSError 16", "0"]
