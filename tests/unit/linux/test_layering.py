# SPDX-License-Identifier: LGPL-2.1-or-later
"""Overlays of mapped directories, in a process of their own as they are in the daemon."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from machined.linux import layering, mounts, mstack
from machined.linux.worker import Workers

BASE = 0x2000_0000


def _can_mount() -> bool:
    probe = "import os; from machined.linux import syscalls; syscalls.unshare(syscalls.CLONE_NEWNS)"
    return subprocess.run([sys.executable, "-c", probe], check=False, capture_output=True).returncode == 0


pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not _can_mount(), reason="overlays need root and mount namespaces"
)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = tmp_path / "base"
    (tree / "etc").mkdir(parents=True)
    (tree / "etc/machine-id").write_text("0" * 31 + "1\n", encoding="ascii")
    (tree / "etc/passwd").write_text("root\n", encoding="ascii")
    os.chown(tree / "etc/passwd", 7, 8)
    os.chmod(tree, 0o751)
    return tree


async def work(function: Callable[..., Any], *arguments: object) -> Any:
    workers = Workers()
    try:
        return await workers.run(f"machined.linux.layering:{function.__name__}", *arguments)
    finally:
        await workers.close()


async def test_a_mount_is_shifted_and_its_layers_are_not(tree: Path, tmp_path: Path) -> None:
    target, writable = tmp_path / "mounted", tmp_path / "scratch"
    await work(layering.mount, str(target), [str(tree)], str(writable), BASE, True, False)
    try:
        status = (target / "etc/passwd").stat()
        assert (status.st_uid, status.st_gid) == (BASE + 7, BASE + 8)
        assert target.stat().st_mode & 0o7777 == 0o751
        assert (target / "etc/machine-id").read_text(encoding="ascii") == ""
        (target / "new").mkdir()
        os.chown(target / "new", BASE + 5, BASE + 5)
        assert (writable / "data/new").stat().st_uid == 5, "stored as it is inside"
        with pytest.raises(OSError):
            os.chown(target / "new", 5, 5)  # nobody of the machine's
        assert (tree / "etc/machine-id").read_text(encoding="ascii") != ""
        assert not (tree / "new").exists()
    finally:
        mounts.unmount(str(target))
    assert not [mount for mount in mounts.mount_points() if mount.target.startswith(str(tmp_path))]


async def test_read_only(tree: Path, tmp_path: Path) -> None:
    target, writable = tmp_path / "mounted", tmp_path / "rw"
    mstack.make_writable(str(writable), str(tree))
    (writable / "data/written").touch()
    await work(layering.mount, str(target), [str(tree)], str(writable), BASE, False, True)
    try:
        assert (target / "written").exists()
        assert (target / "etc/passwd").exists()
        with pytest.raises(OSError, match="Read-only"):
            (target / "new").touch()
    finally:
        mounts.unmount(str(target))


async def test_flat(tree: Path, tmp_path: Path) -> None:
    stack, target = tmp_path / "x.mstack", tmp_path / "x"
    await work(layering.create, str(stack), [str(tree)], "", True)
    assert (stack / "rw/data/etc/machine-id").read_text(encoding="ascii") == ""
    assert (stack / "rw/data").stat().st_mode & 0o7777 == 0o751
    (stack / "rw/data/new").touch()
    await work(layering.flatten, str(stack), [str(tree)], str(target))
    assert (target / "new").exists()
    assert (target / "etc/passwd").stat().st_uid == 7
    assert (target / "etc/machine-id").read_text(encoding="ascii") == ""
    assert not stack.exists()
    assert sorted(os.listdir(tmp_path)) == ["base", "x"]


async def test_what_fails_leaves_nothing(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "x.mstack").mkdir()
    with pytest.raises(FileExistsError):
        await work(layering.create, str(tmp_path / "x.mstack"), [str(tree)], "", True)
    stack, target = tmp_path / "y.mstack", tmp_path / "y"
    await work(layering.create, str(stack), [str(tree)], "", False)
    target.mkdir()
    with pytest.raises(FileExistsError):
        await work(layering.flatten, str(stack), [str(tree)], str(target))
    assert stack.exists()
    assert sorted(os.listdir(tmp_path)) == ["base", "x.mstack", "y", "y.mstack"]
    with pytest.raises(FileNotFoundError):
        await work(layering.create, str(tmp_path / "z.mstack"), [str(tmp_path / "no")], "", True)
    assert not (tmp_path / "z.mstack").exists()


async def test_what_was_written_comes_along(tree: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "a.mstack", tmp_path / "b.mstack"
    await work(layering.create, str(first), [str(tree)], "", False)
    (first / "rw/data/new").touch()
    os.mknod(first / "rw/data/etc", 0o020000, 0)  # what an overlay hides a file by
    await work(layering.create, str(second), [str(tree)], str(first / "rw/data"), False)
    names = await work(layering.read, [str(second / "rw/data"), str(tree)], [["new"], ["etc/passwd"]])
    assert names == [b"", None]


async def test_links_stay_inside(tree: Path, tmp_path: Path) -> None:
    """A machine-id that leads out of a tree is left alone."""
    outside = tmp_path / "outside"
    outside.write_text("precious", encoding="ascii")
    (tree / "etc/machine-id").unlink()
    (tree / "etc/machine-id").symlink_to(outside)
    await work(layering.create, str(tmp_path / "x.mstack"), [str(tree)], "", True)
    assert outside.read_text(encoding="ascii") == "precious"


def test_protection_is_taken_back_only_if_it_was_ours(tree: Path) -> None:
    layering.protect(str(tree), True)
    with pytest.raises(PermissionError):
        (tree / "new").touch()
    layering.protect(str(tree), False)
    (tree / "new").touch()
    subprocess.run(["chattr", "+i", tree], check=True)
    try:
        layering.protect(str(tree), False)
        with pytest.raises(PermissionError):
            (tree / "other").touch()
    finally:
        subprocess.run(["chattr", "-i", tree], check=True)
