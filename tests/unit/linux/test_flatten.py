# SPDX-License-Identifier: LGPL-2.1-or-later
"""From layers to plain trees: nothing of an image is lost on the way, whatever happens."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from machined.linux import layering, mstack
from tests.unit.linux.overlays import is_immutable, make_tree, needs_overlays, work

pytestmark = needs_overlays


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return make_tree(tmp_path / "base")


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


@pytest.mark.parametrize("there", ["link", "tree"])
async def test_a_flat_tree_that_is_not_ours(tree: Path, tmp_path: Path, there: str) -> None:
    """It has the name before: the stack is all that there is, also after the next start."""
    stack, target = tmp_path / "x.mstack", tmp_path / "x"
    await work(layering.create, str(stack), [str(tree)], "", False)
    if there == "link":
        target.symlink_to("nowhere")
    else:
        target.mkdir()
    with pytest.raises(FileExistsError):
        await work(layering.flatten, str(stack), [str(tree)], str(target))
    assert not (stack / ".flattened").exists()
    (stack / ".flattened").write_text("0123456789abcdef", encoding="ascii")
    await work(layering.finish, str(stack), str(target))
    assert sorted(os.listdir(stack)) == ["layer@0", "rw"]


def test_a_flat_tree_that_comes_meanwhile(
    tree: Path, tmp_path: Path, in_mount_namespace: Callable[[str], list[str]]
) -> None:
    lines = in_mount_namespace(
        f"""
import os
from machined.linux import imagecopy, layering
stack, target = "{tmp_path}/x.mstack", "{tmp_path}/x"
layering.create(stack, ["{tree}"], "", False)
copy = imagecopy.copy_tree
def late(*words, **more):
    copy(*words, **more)
    os.symlink("nowhere", target)
imagecopy.copy_tree = late
try:
    layering.flatten(stack, ["{tree}"], target)
except FileExistsError:
    print(sorted(os.listdir(stack)), sorted(os.listdir("{tmp_path}")))
layering.finish(stack, target)
print(os.path.isdir(stack))
"""
    )
    assert lines == ["['layer@0', 'rw'] ['base', 'x', 'x.mstack']", "True"]


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize("step", ["copied", "named", "gone"])
def test_killed_on_the_way_to_a_flat_tree(
    tree: Path, tmp_path: Path, in_mount_namespace: Callable[[str], list[str]], step: str, read_only: bool
) -> None:
    """One of both is there after the next start, whole, and as read-only as it was."""
    lines = in_mount_namespace(
        f"""
import os
from machined.linux import filesystem, layering, mstack, removal, syscalls
stack, target = "{tmp_path}/x.mstack", "{tmp_path}/x"
layering.create(stack, ["{tree}"], "", False)
mstack.set_read_only(stack, {read_only})
if not os.fork():
    def die(*words, **more):
        os._exit(0)
    if "{step}" == "copied":
        syscalls.syncfs = die
    elif "{step}" == "named":
        removal.remove = die
    else:
        real = removal.remove
        removal.remove = lambda *words: (real(*words), die())
    layering.flatten(stack, ["{tree}"], target)
    os._exit(1)
print(os.wait()[1])
if os.path.isdir(stack):
    layering.finish(stack, target)
left = [path for path in (stack, target) if os.path.isdir(path)]
print(left == [stack if "{step}" == "copied" else target])
print(mstack.is_read_only(left[0]), os.path.exists(stack + "/.flattened"))
mstack.set_read_only(left[0], False)
"""
    )
    assert lines == ["0", "True", f"{read_only} False"]


def test_a_power_failure_after_a_flat_tree(
    tmp_path: Path, in_mount_namespace: Callable[[str], list[str]]
) -> None:
    """What the disk holds at that moment: a file system may note names long before data."""
    disk = tmp_path / "disk"
    with disk.open("wb") as file:
        file.truncate(64 << 20)
    subprocess.run(["mkfs.ext4", "-q", disk], check=True)
    lines = in_mount_namespace(
        f"""
import os, shutil, subprocess, sys
from machined.linux import layering, mounts
disk, place = "{disk}", "{tmp_path}/place"
os.mkdir(place)
def mount(file):
    if subprocess.run(["mount", "-o", "loop", file, place], stderr=subprocess.DEVNULL).returncode:
        print("no loop devices")
        sys.exit()
mount(disk)
os.makedirs(place + "/base/etc")
with open(place + "/base/etc/file", "w") as file:
    file.write("text" * 5000)
stack, target = place + "/x.mstack", place + "/x"
layering.create(stack, [place + "/base"], "", False)
os.sync()
layering.flatten(stack, [place + "/base"], target)
# Somebody else's file is what has the names of all written.
with open(place + "/note", "w") as file:
    os.fsync(file.fileno())
shutil.copyfile(disk, disk + ".then")
mounts.unmount(place)
mount(disk + ".then")
print(os.path.isdir(stack) or open(target + "/etc/file").read() == "text" * 5000)
mounts.unmount(place)
"""
    )
    if lines == ["no loop devices"]:
        pytest.skip("no loop devices to be had here")
    assert lines == ["True"]


async def test_a_flat_tree_goes_through_no_link(tree: Path, tmp_path: Path) -> None:
    stack = tmp_path / "x.mstack"
    await work(layering.create, str(stack), [str(tree)], "", False)
    (stack / ".flattened").symlink_to(tmp_path / "outside")
    await work(layering.flatten, str(stack), [str(tree)], str(tmp_path / "x"))
    assert sorted(os.listdir(tmp_path)) == ["base", "x"]


async def test_a_flat_tree_of_what_is_read_only(tree: Path, tmp_path: Path) -> None:
    stack, target = tmp_path / "x.mstack", tmp_path / "x"
    await work(layering.create, str(stack), [str(tree)], "", False)
    mstack.set_read_only(str(stack), True)
    shutil.move(tree, tmp_path / "away")
    with pytest.raises(FileNotFoundError):
        await work(layering.flatten, str(stack), [str(tree)], str(target))
    assert is_immutable(stack)
    shutil.move(tmp_path / "away", tree)
    await work(layering.flatten, str(stack), [str(tree)], str(target))
    assert is_immutable(target)
    mstack.set_read_only(str(target), False)
    assert sorted(os.listdir(tmp_path)) == ["base", "x"]
