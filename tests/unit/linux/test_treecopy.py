# SPDX-License-Identifier: LGPL-2.1-or-later
"""The copier: everything arrives as it was, and nothing in a third place, whatever others do meanwhile."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from machined.linux import filedata, treecopy
from machined.linux.treecopy import Manner, copy_tree

OLD = 1_000_000_000_000_000
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may do this")


@contextlib.contextmanager
def opened(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


def copied(source: Path, target: Path, manner: Manner | None = None) -> Path:
    """Copy source to target, which may be named differently; returns target."""
    with opened(source.parent) as origin, opened(target.parent) as destination:
        copy_tree(origin, source.name, destination, target.name, manner or Manner())
    return target


def look(top: Path) -> dict[str, tuple[Any, ...]]:
    """Everything about a tree that a copy should keep, by relative path."""
    found = {}
    for path in [top, *sorted(top.rglob("*"))]:
        status = path.lstat()
        kind = stat.S_IFMT(status.st_mode)
        data: object = None
        if kind == stat.S_IFREG:
            data = path.read_bytes()
        elif kind == stat.S_IFLNK:
            data = os.readlink(path)
        elif kind in {stat.S_IFBLK, stat.S_IFCHR}:
            data = status.st_rdev
        times = status.st_mtime_ns if kind != stat.S_IFDIR or path == top else None
        found[str(path.relative_to(top))] = (status.st_mode, status.st_uid, status.st_gid, data, times)
    return found


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """One of everything an ordinary user may make."""
    top = tmp_path / "source"
    (top / "deep/er").mkdir(parents=True)
    (top / "file").write_text("content")
    (top / "file").chmod(0o640)
    (top / "empty").touch()
    (top / "deep/er/leaf").write_bytes(bytes(range(256)) * 5000)
    (top / "link").symlink_to("file")
    (top / "dangling").symlink_to("/nowhere/at/all")
    os.link(top / "file", top / "deep/other-name")
    os.mkfifo(top / "fifo", 0o604)
    with socket.socket(socket.AF_UNIX) as server, opened(top) as fd:
        server.bind(f"/proc/self/fd/{fd}/socket")
    (top / "deep").chmod(0o2751)
    for path in [*top.rglob("*"), top]:
        os.utime(path, ns=(OLD, OLD), follow_symlinks=False)
    return top


def test_everything_arrives_as_it_was(tree: Path, tmp_path: Path) -> None:
    target = copied(tree, tmp_path / "target")
    assert look(target) == look(tree)
    assert (target / "file").stat().st_ino == (target / "deep/other-name").stat().st_ino
    assert (target / "deep").stat().st_mtime_ns == OLD


def test_a_single_file_and_a_single_link(tree: Path, tmp_path: Path) -> None:
    assert copied(tree / "file", tmp_path / "file").read_text() == "content"
    assert os.readlink(copied(tree / "link", tmp_path / "link")) == "file"


@needs_root
def test_owners_and_device_nodes(tree: Path, tmp_path: Path) -> None:
    os.mknod(tree / "null", stat.S_IFCHR | 0o640, os.makedev(1, 3))
    for number, path in enumerate(sorted(tree.rglob("*"))):
        os.chown(path, 1000 + number, 2000 + number, follow_symlinks=False)
    (tree / "empty").chmod(0o6755)
    assert look(copied(tree, tmp_path / "kept")) == look(tree)
    given_away = copied(tree, tmp_path / "given", Manner(owner=4711))
    assert {(path.lstat().st_uid, path.lstat().st_gid) for path in given_away.rglob("*")} == {(4711, 4711)}
    assert stat.S_IMODE((given_away / "empty").stat().st_mode) == 0o6755


@needs_root
def test_what_becomes_roots_is_no_longer_set_id(tree: Path, tmp_path: Path) -> None:
    """With owner 0, the host's root, whoever ran what was some guest user's set-uid file would be root."""
    for name, mode in (("empty", 0o6755), ("deep", 0o2770), ("file", 0o1750)):
        os.chown(tree / name, 1000, 1000)
        (tree / name).chmod(mode)
    target = copied(tree, tmp_path / "target", Manner(owner=0))
    modes = [stat.S_IMODE((target / name).stat().st_mode) for name in ("empty", "deep", "file")]
    assert modes == [0o755, 0o2770, 0o1750]
    again = copied(tree, tmp_path / "target", Manner(owner=0, replace=True))
    assert stat.S_IMODE((again / "empty").stat().st_mode) == 0o755


def test_extended_attributes(tree: Path, tmp_path: Path) -> None:
    try:
        os.setxattr(tree / "file", "user.one", b"1")
        os.setxattr(tree / "deep", "user.two", b"2")
    except OSError:
        pytest.skip("no extended attributes on this file system")
    target = copied(tree, tmp_path / "target")
    assert os.getxattr(target / "file", "user.one") == b"1"
    assert os.getxattr(target / "deep", "user.two") == b"2"
    bare = copied(tree, tmp_path / "bare", Manner(attributes=()))
    assert not [name for name in os.listxattr(bare / "file") if name.startswith("user.")]


def test_access_control_lists_follow_the_owner(tree: Path, tmp_path: Path) -> None:
    # struct posix_acl_xattr: version 2, then (tag, permissions, id): owner, user 65534, group, mask, others
    entries = ((1, 6, -1), (2, 4, 65534), (4, 0, -1), (16, 4, -1), (32, 0, -1))
    value = (2).to_bytes(4, "little") + b"".join(
        tag.to_bytes(2, "little") + bits.to_bytes(2, "little") + number.to_bytes(4, "little", signed=True)
        for tag, bits, number in entries
    )
    try:
        os.setxattr(tree / "file", filedata.ACCESS_ACL, value)
    except OSError:
        pytest.skip("no access control lists on this file system")
    kept = copied(tree / "file", tmp_path / "kept", Manner.plain(None, replace=False))
    assert os.getxattr(kept, filedata.ACCESS_ACL) == value
    if os.geteuid() == 0:
        moved = copied(tree / "file", tmp_path / "moved", Manner.plain(4711, replace=False))
        assert filedata.ACCESS_ACL not in os.listxattr(moved)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(1, 3)), max_size=6),
    st.booleans(),
    st.integers(0, 5000),
)
def test_holes_and_data(tmp_path: Path, pieces: list[tuple[int, int]], clone: bool, trailing: int) -> None:
    """Any mixture of data and holes arrives byte by byte, and needs no more blocks."""
    source, target = tmp_path / "holes", tmp_path / "copy"
    with source.open("wb") as file:
        for block, length in pieces:
            file.seek(block * 65536)
            file.write(os.urandom(length * 4096 + 7))
        file.truncate(max(file.tell(), os.fstat(file.fileno()).st_size) + trailing)
    target.unlink(missing_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        if not clone:
            patch.setattr(filedata, "FICLONE", 0)
        copied(source, target)
    assert target.read_bytes() == source.read_bytes()
    assert target.stat().st_blocks <= source.stat().st_blocks + 8


def test_by_hand_where_the_kernel_does_not_help(tree: Path, tmp_path: Path) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.EXDEV, "not across file systems")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(filedata, "FICLONE", 0)
        patch.setattr(os, "copy_file_range", refuse)
        assert look(copied(tree, tmp_path / "target")) == look(tree)


def test_files_of_procfs_say_that_they_are_empty(tmp_path: Path) -> None:
    assert (
        copied(Path("/proc/version"), tmp_path / "version").read_bytes()
        == Path("/proc/version").read_bytes()
    )


def test_merging(tree: Path, tmp_path: Path) -> None:
    """What is missing is added; what is there stays, down to the mode of directories."""
    target = tmp_path / "target"
    (target / "deep").mkdir(parents=True)
    (target / "deep").chmod(0o700)
    (target / "file").write_text("was here")
    copied(tree, target)
    assert (target / "file").read_text() == "was here"
    assert stat.S_IMODE((target / "deep").stat().st_mode) == 0o700
    assert (target / "deep/er/leaf").read_bytes() == (tree / "deep/er/leaf").read_bytes()
    copied(tree, target, Manner(replace=True))
    assert (target / "file").read_text() == "content"
    assert sorted(p.name for p in target.iterdir()) == sorted(p.name for p in tree.iterdir())
    assert (target / "file").stat().st_ino == (target / "deep/other-name").stat().st_ino


@pytest.mark.parametrize("replace", [False, True])
def test_what_does_not_fit(tree: Path, tmp_path: Path, replace: bool) -> None:
    manner = Manner(replace=replace)
    (tmp_path / "directory").mkdir()
    with pytest.raises(FileExistsError):
        copied(tree / "file", tmp_path / "directory", manner)
    (tmp_path / "there").write_text("old")
    with pytest.raises(NotADirectoryError):
        copied(tree, tmp_path / "there", manner)
    (tmp_path / "symlink").symlink_to("directory")
    with pytest.raises(NotADirectoryError):
        copied(tree, tmp_path / "symlink", manner)
    assert not list((tmp_path / "directory").iterdir())


def test_existing_files(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "there").symlink_to("victim")
    with pytest.raises(FileExistsError):
        copied(tree / "file", tmp_path / "there")
    copied(tree / "file", tmp_path / "there", Manner(replace=True))
    assert (tmp_path / "victim").read_text() == "precious"
    assert not (tmp_path / "there").is_symlink()


def test_one_failure_does_not_keep_the_others(tree: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (target / "deep").write_text("in the way")
    with pytest.raises(NotADirectoryError):
        copied(tree, target)
    assert {p.name for p in target.iterdir()} == {p.name for p in tree.iterdir()}


def test_missing_source(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        copied(tmp_path / "nothing", tmp_path / "target")
    assert not list(tmp_path.iterdir())


def test_into_itself(tree: Path) -> None:
    """The copy does not contain the copy of the copy."""
    copied(tree, tree / "deep/copy")
    assert (tree / "deep/copy/deep/er/leaf").exists()
    assert not (tree / "deep/copy/deep/copy").exists()


def test_too_deep(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    with opened(source) as fd:
        here = os.dup(fd)
        for _ in range(60):
            os.mkdir("d", dir_fd=here)
            deeper = os.open("d", os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = deeper
        os.close(here)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(treecopy, "DEPTH_MAX", 50)
        with pytest.raises(OSError, match="too long") as caught:
            copied(source, tmp_path / "target")
    assert caught.value.errno == errno.ENAMETOOLONG


@needs_root
def test_deep_and_wide_enough(tmp_path: Path) -> None:
    """In a process of its own, since limits are raised."""
    code = """
import os, sys
from machined.linux import treecopy
treecopy.unlimit()
os.chdir(sys.argv[1])
top = os.getcwd()
os.mkdir("s")
os.chdir("s")
for _ in range(treecopy.DEPTH_MAX - 1):
    os.mkdir("d")
    os.chdir("d")
open("end", "w").close()
os.chdir(top)
fd = os.open(".", os.O_RDONLY)
treecopy.copy_tree(fd, "s", fd, "t", treecopy.Manner())
os.chdir("t")
for _ in range(treecopy.DEPTH_MAX - 1):
    os.chdir("d")
assert os.listdir(".") == ["end"]
"""
    command = [sys.executable, "-c", code, str(tmp_path)]
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    subprocess.run(["rm", "-rf", tmp_path / "s", tmp_path / "t"], check=True)
    assert done.returncode == 0, done.stderr


def test_no_space_left(in_mount_namespace: Callable[[str], list[str]]) -> None:
    """Says so, leaves no half file, and does not go through all the rest in vain."""
    code = """
import os, subprocess, tempfile
from machined.linux import treecopy
where = tempfile.mkdtemp()
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1M", "tmpfs", where], check=True)
source = tempfile.mkdtemp()
for number in range(8):
    with open(f"{source}/{number}", "wb") as file:
        file.write(os.urandom(300_000))
inner, outer = os.open(source, os.O_RDONLY), os.open(where, os.O_RDONLY)
try:
    treecopy.copy_tree(os.open("/", os.O_RDONLY), source[1:], outer, "copy", treecopy.Manner())
except OSError as error:
    print(error.errno)
print(sorted({os.stat(f"{where}/copy/{name}").st_size for name in os.listdir(f"{where}/copy")}))
print(len(os.listdir(f"{where}/copy")) < 8)
subprocess.run(["rm", "-rf", source])
"""
    assert in_mount_namespace(code) == [str(errno.ENOSPC), "[300000]", "True"]


def _swapping(path: Path, other: Path, stop: threading.Event) -> None:
    """Put a link to another place where a directory was, and back, over and over."""
    aside = path.with_name(path.name + "-aside")
    while not stop.is_set():
        with contextlib.suppress(OSError):
            os.rename(path, aside)
            os.symlink(other, path)
            os.unlink(path)
            os.rename(aside, path)


@pytest.mark.parametrize("side", ["source", "target"])
def test_nobody_leads_it_astray(tree: Path, tmp_path: Path, side: str) -> None:
    """While a directory is replaced by a link to a secret again and again."""
    secret = tmp_path / "secret"
    (secret / "er").mkdir(parents=True)
    (secret / "er/key").write_text("secret")
    target = tmp_path / "target"
    stop = threading.Event()
    swapped = tree / "deep" if side == "source" else target / "deep"
    if side == "target":
        swapped.mkdir(parents=True)
    before = look(secret)
    thread = threading.Thread(target=_swapping, args=(swapped, secret, stop))
    thread.start()
    try:
        for _ in range(150):
            if side == "source":
                shutil.rmtree(target, ignore_errors=True)
            with contextlib.suppress(OSError):
                copied(tree, target, Manner(replace=True))
            if side == "source":
                assert not [p for p in target.rglob("key") if not p.is_symlink()]
    finally:
        stop.set()
        thread.join()
    if side == "target":
        assert look(secret) == before


def test_a_file_that_becomes_a_fifo_does_not_hang_it(tmp_path: Path) -> None:
    """What was looked at is what is read."""
    tree = tmp_path / "tree"
    tree.mkdir()
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            for make in (os.mkfifo, Path.touch):
                make(tree / "new")
                os.rename(tree / "new", tree / "it")

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        for number in range(300):
            with contextlib.suppress(FileNotFoundError):
                copied(tree, tmp_path / f"copy-{number}")
    finally:
        stop.set()
        thread.join()


def test_links_to_a_replaced_file(tmp_path: Path) -> None:
    """Were the first copy exchanged for another file, a later name would become a link to that one."""
    (tmp_path / "a").write_text("a")
    os.link(tmp_path / "a", tmp_path / "b")
    target = tmp_path / "target"
    target.mkdir()
    (target / "planted").write_text("planted")
    with opened(tmp_path) as source, opened(target) as destination:
        copier = treecopy._Copier(destination, Manner())
        copier.entry(source, "a", destination, ("a",))
        (target / "planted").replace(target / "a")
        copier.entry(source, "b", destination, ("b",))
    assert (target / "b").read_text() == "a"
