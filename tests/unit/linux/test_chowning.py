# SPDX-License-Identifier: LGPL-2.1-or-later
"""Trees that are given to other users: all that belongs to a file stays, and it can be finished later."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import stat
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from machined.linux import btrfs, chowning, filesystem
from machined.linux.chowning import chown_tree
from machined.linux.filedata import ACCESS_ACL, DEFAULT_ACL
from tests.loopdisk import MIB, mounted_btrfs

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")

BASE = 0x1000_0000
CAPABILITY = "security.capability"
# CAP_NET_RAW, permitted and effective: what setcap(8) writes for ping.
VERSION_2 = struct.pack("<5I", 0x0200_0001, 1 << 13, 0, 0, 0)


def version_3(root: int) -> bytes:
    return struct.pack("<6I", 0x0300_0001, 1 << 13, 0, 0, 0, root)


def acl(user: int, group: int) -> bytes:
    entries = [(1, 7, 2**32 - 1), (2, 6, user), (4, 5, 2**32 - 1), (8, 4, group), (16, 7, 2**32 - 1)]
    entries.append((32, 0, 2**32 - 1))
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def set_attribute(path: Path, name: str, value: bytes) -> None:
    try:
        os.setxattr(path, name, value)
    except OSError as error:
        pytest.skip(f"no '{name}' here: {error}")


def owner(path: Path) -> tuple[int, int]:
    status = path.lstat()
    return status.st_uid, status.st_gid


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small system, shifted to BASE."""
    top = tmp_path / "tree"
    (top / "etc/deep/deeper").mkdir(parents=True)
    (top / "bin").mkdir()
    for name, mode in (("bin/su", 0o4755), ("bin/wall", 0o2755), ("bin/ping", 0o755), ("etc/passwd", 0o644)):
        (top / name).write_text(name, encoding="ascii")
        (top / name).chmod(mode)
    os.link(top / "etc/passwd", top / "etc/deep/hard")
    (top / "etc/link").symlink_to("/etc/shadow")
    os.mkfifo(top / "etc/pipe")
    os.mknod(top / "etc/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    for found in (top, *top.rglob("*")):
        mode = found.lstat().st_mode
        os.chown(found, BASE, BASE + 5, follow_symlinks=False)
        if stat.S_ISREG(mode):
            found.chmod(stat.S_IMODE(mode))
    return top


def files(tree: Path) -> int:
    return len({path.lstat().st_ino for path in (tree, *tree.rglob("*"))})


def test_all_of_a_tree(tree: Path) -> None:
    outside = tree.parent / "outside"
    outside.touch()
    os.chown(outside, BASE, BASE)
    (tree / "out").symlink_to(outside)
    os.lchown(tree / "out", BASE + 7, BASE)
    modes = {path: path.lstat().st_mode for path in (tree, *tree.rglob("*"))}
    assert chown_tree(str(tree), 0) == (files(tree), 0), "what has several names is one file"
    expected = {path: (7, 0) if path.name == "out" else (0, 5) for path in modes}
    assert {path: owner(path) for path in modes} == expected
    assert {path: path.lstat().st_mode for path in modes} == modes, "set-id bits as well"
    assert owner(outside) == (BASE, BASE), "no link is followed"
    assert chown_tree(str(tree), 0) == (0, 0)
    assert chown_tree(str(tree), BASE + 65536)[0] == files(tree)
    assert owner(tree / "etc/link") == (BASE + 65536, BASE + 65536 + 5)
    assert {path: path.lstat().st_mode for path in modes} == modes
    with contextlib.suppress(OSError):
        assert chowning._NOTE not in os.listxattr(tree / "bin/su")


def test_what_belongs_to_others_stays(tree: Path) -> None:
    os.chown(tree / "etc/deep", 4711 + 65536, BASE + 9)
    os.chown(tree / "etc/pipe", 4711 + 65536, 4711 + 65536)
    os.chown(tree / "etc/null", 3, 3)
    assert chown_tree(str(tree), 0) == (files(tree) - 2, 2)
    assert owner(tree / "etc/deep") == (4711 + 65536, 9)
    assert owner(tree / "etc/pipe") == (4711 + 65536, 4711 + 65536)
    assert owner(tree / "etc/null") == (3, 3), "that is where it should be"
    assert owner(tree) == (0, 5)


def test_lists_of_users(tree: Path) -> None:
    set_attribute(tree / "etc/passwd", ACCESS_ACL, acl(BASE + 33, BASE + 34))
    set_attribute(tree / "etc/deep", DEFAULT_ACL, acl(BASE + 33, 1))
    set_attribute(tree / "bin", ACCESS_ACL, acl(BASE + 33, 4711 + 65536))
    os.chown(tree / "bin", 0, 0)
    chown_tree(str(tree), 0)
    assert os.getxattr(tree / "etc/passwd", ACCESS_ACL) == acl(33, 34)
    assert os.getxattr(tree / "etc/deep", DEFAULT_ACL) == acl(33, 1)
    assert os.getxattr(tree / "bin", ACCESS_ACL) == acl(33, 4711 + 65536)
    chown_tree(str(tree), BASE)
    assert os.getxattr(tree / "etc/passwd", ACCESS_ACL) == acl(BASE + 33, BASE + 34)


def test_capabilities(tree: Path) -> None:
    set_attribute(tree / "bin/ping", CAPABILITY, VERSION_2)
    chown_tree(str(tree), 0)
    assert os.getxattr(tree / "bin/ping", CAPABILITY) == VERSION_2
    chown_tree(str(tree), BASE)
    assert os.getxattr(tree / "bin/ping", CAPABILITY) == VERSION_2
    set_attribute(tree / "bin/ping", CAPABILITY, version_3(BASE))
    set_attribute(tree / "bin/su", CAPABILITY, version_3(BASE))
    chown_tree(str(tree), BASE + 65536)
    assert os.getxattr(tree / "bin/ping", CAPABILITY) == version_3(BASE + 65536)
    assert (tree / "bin/su").stat().st_mode & 0o7777 == 0o4755
    chown_tree(str(tree), 0)
    assert os.getxattr(tree / "bin/ping", CAPABILITY) == VERSION_2, "of the root user that all know"


@pytest.mark.parametrize("attribute", [filesystem.IMMUTABLE, filesystem.APPEND_ONLY])
@pytest.mark.parametrize("name", ["etc/passwd", "etc/deep"])
def test_what_is_not_to_be_changed(tree: Path, attribute: int, name: str) -> None:
    try:
        filesystem.set_attributes(str(tree / name), attribute, attribute)
    except OSError as error:
        pytest.skip(f"no attributes here: {error}")
    try:
        chown_tree(str(tree), 0)
        assert filesystem.attributes(str(tree / name)) & attribute
    finally:
        filesystem.set_attributes(str(tree / name), 0, attribute)
    assert owner(tree / name) == (0, 5)


PROGRAM = """
import os, signal, sys
from machined.linux import chowning
path, call, number = sys.argv[1], sys.argv[2], int(sys.argv[3])
original, count = getattr(os, call), 0
def counted(*arguments, **more):
    global count
    count += 1
    if count == number:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*arguments, **more)
setattr(os, call, counted)
chowning.chown_tree(path, 0)
"""


@pytest.mark.parametrize("call", ["chown", "chmod", "setxattr", "removexattr"])
def test_a_kill_in_the_middle(tree: Path, call: str) -> None:
    """At each step: who does it again finishes it, and nothing is lost."""
    set_attribute(tree / "bin/ping", CAPABILITY, version_3(BASE))
    set_attribute(tree / "etc/passwd", ACCESS_ACL, acl(BASE + 33, BASE + 34))
    modes = {path: path.lstat().st_mode for path in (tree, *tree.rglob("*"))}
    number = 0
    while True:
        number += 1
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(tree), call, str(number)],
            cwd=Path(__file__).parents[3], check=False,
        )  # fmt: skip
        if done.returncode != -signal.SIGKILL:
            assert done.returncode == 0
            break
        assert owner(tree) == (BASE, BASE + 5), "it says whose the tree is until all of it is done"
        chown_tree(str(tree), 0)
        assert {path: owner(path) for path in modes} == dict.fromkeys(modes, (0, 5))
        assert {path: path.lstat().st_mode for path in modes} == modes
        assert os.getxattr(tree / "bin/ping", CAPABILITY) == VERSION_2
        assert os.getxattr(tree / "etc/passwd", ACCESS_ACL) == acl(33, 34)
        assert chowning._NOTE not in os.listxattr(tree / "bin/su")
        chown_tree(str(tree), BASE)
        os.setxattr(tree / "bin/ping", CAPABILITY, version_3(BASE))
    assert number > 1


def test_a_root_of_two_ranges(tree: Path) -> None:
    os.chown(tree, BASE, 0)
    with pytest.raises(OSError, match="not of one range") as caught:
        chown_tree(str(tree), 0)
    assert caught.value.errno == errno.EINVAL


def test_mounts_are_not_entered(tree: Path, in_mount_namespace: Callable[[str], list[str]]) -> None:
    inside = tree.parent / "inside"
    inside.mkdir()
    os.chown(inside, BASE, BASE)
    code = f"""
import subprocess
from machined.linux.chowning import chown_tree
for source, target in (("{inside}", "{tree}/etc/deep"), ("{inside}", "{tree}/bin")):
    subprocess.run(["mount", "--bind", source, target], check=True)
subprocess.run(["mount", "--bind", "{tree}/etc/pipe", "{tree}/etc/passwd"], check=True)
print(*chown_tree("{tree}", 0))
"""
    (line,) = in_mount_namespace(code)
    assert line.split()[1] == "3"
    assert owner(inside) == (BASE, BASE)
    assert owner(tree / "etc/deep") == owner(tree / "etc/passwd") == (BASE, BASE + 5)
    assert owner(tree) == (0, 5)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with mounted_btrfs(tmp_path_factory.mktemp("btrfs"), 128 * MIB) as where:
        yield where


def test_nested_subvolumes(pool: Path) -> None:
    def make(place: Path) -> Any:
        with btrfs.open_directory(str(place.parent)) as parent:
            btrfs.create(parent.fileno(), place.name)
        (place / "file").touch()
        for path in (place, place / "file"):
            os.chown(path, BASE, BASE)

    make(pool / "web")
    make(pool / "web/inner")
    with btrfs.open_directory(str(pool / "web/inner")) as inner:
        btrfs.set_read_only(inner.fileno(), True)
    assert chown_tree(str(pool / "web"), 0) == (4, 0)
    assert owner(pool / "web/inner/file") == owner(pool / "web/inner") == owner(pool / "web") == (0, 0)
    with btrfs.open_directory(str(pool / "web/inner")) as inner:
        assert btrfs.info(inner.fileno()).read_only
