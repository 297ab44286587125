# SPDX-License-Identifier: LGPL-2.1-or-later
"""Overlays of mapped directories, in a process of their own as they are in the daemon."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from machined.linux import imagecopy, layering, mounts, mstack, provision, trees
from tests.unit.linux.overlays import is_immutable, make_tree, needs_overlays, work

BASE = 0x2000_0000


pytestmark = needs_overlays


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return make_tree(tmp_path / "base")


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


@pytest.mark.parametrize("which", ["data", "work"])
async def test_what_is_written_goes_through_no_link(tree: Path, tmp_path: Path, which: str) -> None:
    """The trees are somebody's archive: what is below may say that all of it is etc/."""
    outside, writable = tmp_path / "outside", tmp_path / "rw"
    outside.mkdir()
    (outside / "hostname").write_text("precious", encoding="ascii")
    shutil.rmtree(tree / "etc")
    (tree / "etc").symlink_to(".")
    mstack.make_writable(str(writable), str(tree))
    (writable / which).rmdir()
    (writable / which).symlink_to(outside)
    with pytest.raises(NotADirectoryError):
        await work(provision.apply_to_layers, [str(tree)], str(writable), {"hostname": "x"})
    assert os.listdir(outside) == ["hostname"]
    assert (outside / "hostname").read_text(encoding="ascii") == "precious"


@pytest.mark.parametrize("base", [BASE, 0], ids=["range", "host"])
async def test_trees_that_are_shifted_on_the_disk(tree: Path, tmp_path: Path, base: int) -> None:
    shift = 0x5A3C_0000
    for path in (tree, tree / "etc", tree / "etc/machine-id", tree / "etc/passwd"):
        status = path.lstat()
        os.chown(path, status.st_uid + shift, status.st_gid + shift)
    for volatile in (True, False):
        target, writable = tmp_path / f"mounted-{volatile}", tmp_path / f"rw-{volatile}"
        if not volatile:
            mstack.make_writable(str(writable), str(tree))
        await work(layering.mount, str(target), [str(tree)], str(writable), base, volatile, False)
        try:
            status = (target / "etc/passwd").stat()
            assert (status.st_uid, status.st_gid) == (base + 7, base + 8)
            assert target.stat().st_uid == base
            (target / "new").mkdir()
            os.chown(target / "new", base + 5, base + 5)
            assert (writable / "data/new").stat().st_uid == shift + 5, "as the tree below it"
            os.chown(target / "etc/passwd", base + 9, base + 9)
        finally:
            mounts.unmount(str(target))
    await work(layering.mount, str(tmp_path / "ro"), [str(tree)], str(writable), base, False, True)
    try:
        assert (tmp_path / "ro/etc/passwd").stat().st_uid == base + 9
    finally:
        mounts.unmount(str(tmp_path / "ro"))


async def test_the_mark_of_a_base_is_its_own(tree: Path, tmp_path: Path) -> None:
    layering.protect(str(tree), True)
    try:
        assert mstack.is_base(str(tree))
        stack, copy = tmp_path / "x.mstack", tmp_path / "copy"
        await work(layering.create, str(stack), [str(tree)], "", False)
        assert not mstack.is_base(str(stack / "rw/data"))
        await work(layering.flatten, str(stack), [str(tree)], str(tmp_path / "flat"))
        await work(imagecopy.copy_tree, str(tree), str(copy))
        assert not mstack.is_base(str(tmp_path / "flat"))
        assert not mstack.is_base(str(copy))
        # Whoever says that it is to be read-only says so for good.
        trees.mark_read_only(str(tree), "tree", True)
        layering.protect(str(tree), False)
        assert is_immutable(tree)
        layering.protect(str(tree), True)
        assert not mstack.is_base(str(tree)), "it is read-only anyway"
    finally:
        trees.mark_read_only(str(tree), "tree", False)


def test_no_guest_can_make_the_mark(tree: Path) -> None:
    os.setxattr(tree, "user.machined.base", b"1")
    trees.mark_read_only(str(tree), "tree", True)
    try:
        layering.protect(str(tree), False)
        assert is_immutable(tree)
    finally:
        trees.mark_read_only(str(tree), "tree", False)
