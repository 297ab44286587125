# SPDX-License-Identifier: LGPL-2.1-or-later
"""Copies that share blocks or not, that come from a tree that changes, and with an identity of their own."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from machined.linux import filedata, filesystem, imagecopy, partials, removal, strays, treeclone

if TYPE_CHECKING:
    from machined.linux.filedata import Reflink


SHARING: Final[tuple[Reflink, ...]] = ("auto", "always")
OTHERS: Final[tuple[Reflink, ...]] = ("auto", "never", "tried")


@contextmanager
def mounted(tmp_path: Path, kind: str) -> Iterator[Path]:
    if os.geteuid() != 0 or shutil.which(f"mkfs.{kind}") is None or shutil.which("mount") is None:
        pytest.skip(f"needs root and mkfs.{kind}")
    if f"\t{kind}\n" not in Path("/proc/filesystems").read_text(encoding="ascii"):
        pytest.skip(f"no {kind} in this kernel")
    disk, where = tmp_path / "disk", tmp_path / "mounted"
    disk.touch()
    os.truncate(disk, 400 << 20)
    where.mkdir()
    subprocess.run([f"mkfs.{kind}", "-q", disk], check=True, capture_output=True)
    done = subprocess.run(["mount", "-o", "loop", disk, where], check=False, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"no loop devices here: {done.stderr}")
    try:
        yield where
    finally:
        subprocess.run(["umount", where], check=True, capture_output=True)


@pytest.fixture(params=["btrfs", "xfs"])
def sharing(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A file system whose files can share blocks."""
    with mounted(tmp_path, request.param) as where:
        yield where


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[Path]:
    """One whose files cannot."""
    with mounted(tmp_path, "ext4") as where:
        yield where


def used(where: Path) -> int:
    """Bytes taken, with what is on its way to the disk."""
    subprocess.run(["sync", "-f", where], check=True)
    status = os.statvfs(where)
    return (status.f_blocks - status.f_bfree) * status.f_frsize


def tree(where: Path) -> Path:
    path = where / "one"
    (path / "etc").mkdir(parents=True)
    for number in range(8):
        (path / f"etc/{number}").write_bytes(os.urandom(4 << 20))
    (path / "etc/machine-id").write_text("0123456789abcdef0123456789abcdef\n", encoding="ascii")
    (where / "disk.raw").write_bytes(os.urandom(16 << 20))
    return path


def test_blocks_are_shared_or_not(sharing: Path) -> None:
    assert filesystem.supports_reflink(str(sharing))
    source = tree(sharing)
    before = used(sharing)
    for number, reflink in enumerate(SHARING):
        imagecopy.copy_tree(str(source), str(sharing / f"copy{number}"), reflink=reflink)
        imagecopy.copy_image(
            str(sharing / "disk.raw"), str(sharing / f"{number}.raw"), 0o644, reflink=reflink
        )
    assert used(sharing) - before < 8 << 20
    imagecopy.copy_tree(str(source), str(sharing / "real"), reflink="never")
    assert used(sharing) - before > 32 << 20
    imagecopy.copy_image(str(sharing / "disk.raw"), str(sharing / "real.raw"), 0o644, reflink="never")
    assert used(sharing) - before > 48 << 20
    for path in sharing.glob("*.raw"):
        assert path.read_bytes() == (sharing / "disk.raw").read_bytes()
    for name in ("copy0", "copy1", "real"):
        for file in (source / "etc").iterdir():
            assert (sharing / name / "etc" / file.name).read_bytes() == file.read_bytes()
    left = {path.name for path in sharing.iterdir()}
    assert not [name for name in left if name.startswith(".#")]


def test_where_no_blocks_can_be_shared(plain: Path) -> None:
    assert not filesystem.supports_reflink(str(plain))
    source = tree(plain)
    before = {path.name for path in plain.iterdir()}
    with pytest.raises(OSError) as tree_refused:
        imagecopy.copy_tree(str(source), str(plain / "copy"), reflink="always")
    with pytest.raises(OSError) as file_refused:
        imagecopy.copy_image(str(plain / "disk.raw"), str(plain / "c.raw"), 0o644, reflink="always")
    assert tree_refused.value.errno == file_refused.value.errno == errno.EOPNOTSUPP
    assert {path.name for path in plain.iterdir()} == before
    imagecopy.copy_tree(str(source), str(plain / "copy"))
    assert (plain / "copy/etc/7").read_bytes() == (source / "etc/7").read_bytes()


def test_whether_blocks_can_be_shared_where_nothing_can_be_written() -> None:
    assert not filesystem.supports_reflink("/proc")
    with pytest.raises(FileNotFoundError):
        filesystem.supports_reflink("/nowhere")


def test_a_fresh_copy_is_nobody_yet(tmp_path: Path) -> None:
    source = tree(tmp_path)
    imagecopy.copy_tree(str(source), str(tmp_path / "same"))
    imagecopy.copy_tree(str(source), str(tmp_path / "fresh"), fresh=True)
    assert (tmp_path / "same/etc/machine-id").read_bytes() == (source / "etc/machine-id").read_bytes() != b""
    assert (tmp_path / "fresh/etc/machine-id").read_bytes() == b""


def test_a_tree_that_somebody_changes_meanwhile(tmp_path: Path) -> None:
    """Directories become links out of the tree and back: nothing of what is outside gets into a copy."""
    source, outside, stop = tmp_path / "one", tmp_path / "outside", threading.Event()
    for directory in (source / "deep", outside):
        directory.mkdir(parents=True)
        for number in range(30):
            (directory / f"{number}").write_text(
                "outside" if directory == outside else "in", encoding="ascii"
            )

    def change() -> None:
        while not stop.is_set():
            (source / "deep").rename(source / "away")
            (source / "deep").symlink_to(outside)
            (source / "deep").unlink()
            (source / "away").rename(source / "deep")

    thread = threading.Thread(target=change)
    thread.start()
    copied = 0
    try:
        for number in range(60):
            copy = tmp_path / f"copy{number}"
            copy.mkdir()
            try:
                treeclone.fill(str(source), str(copy))
            except OSError as error:  # an entry that was seen as another kind of file each time
                assert error.errno in {errno.EAGAIN, errno.ENOTDIR, errno.ELOOP, errno.EEXIST}
                continue
            files = [path for path in copy.glob("*/*") if not path.parent.is_symlink()]
            assert {path.read_text(encoding="ascii") for path in files} <= {"in"}
            copied += 1
    finally:
        stop.set()
        thread.join()
    assert copied


def test_a_file_with_many_names_far_away(tmp_path: Path) -> None:
    source = tmp_path / "one"
    deep = source
    for _ in range(5):
        deep /= "d" * 250
    deep.mkdir(parents=True)
    (source / "file").write_text("text", encoding="ascii")
    os.link(source / "file", deep / "again")
    imagecopy.copy_tree(str(source), str(tmp_path / "two"))
    again = tmp_path / "two" / deep.relative_to(source) / "again"
    assert again.stat().st_ino == (tmp_path / "two/file").stat().st_ino


def test_a_copy_into_the_tree_itself(tmp_path: Path) -> None:
    source = tree(tmp_path)
    imagecopy.copy_tree(str(source), str(source / "etc/copy"))
    assert (source / "etc/copy/etc/7").exists()
    assert not (source / "etc/copy/etc/copy").exists()


def test_holes_stay_holes(tmp_path: Path) -> None:
    source, target = tmp_path / "one", tmp_path / "two"
    with source.open("wb") as file:
        file.seek(1 << 20)
        file.write(b"x")
        file.truncate(8 << 20)
    for reflink in OTHERS:
        with source.open("rb") as one, target.open("wb") as two:
            filedata.copy_data(one.fileno(), two.fileno(), 8 << 20, reflink)
        assert target.read_bytes() == source.read_bytes()
        assert target.stat().st_blocks <= source.stat().st_blocks


# -- what goes, and what was left --------------------------------------------------------------------------


def test_what_is_mounted_in_a_tree_keeps_it(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may mount")
    (tmp_path / "one/mnt").mkdir(parents=True)
    (tmp_path / "one/file").touch()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", tmp_path / "one/mnt"], check=True)
    try:
        with pytest.raises(OSError) as caught:
            removal.remove(str(tmp_path / "one"), "tree")
        assert caught.value.errno == errno.EBUSY
        assert (tmp_path / "one/file").exists()
    finally:
        subprocess.run(["umount", tmp_path / "one/mnt"], check=True)
    removal.remove(str(tmp_path / "one"), "tree")
    assert list(tmp_path.iterdir()) == []


def test_files_that_cannot_be_removed_are_made_removable(plain: Path) -> None:
    source = tree(plain)
    filesystem.set_attributes(str(source / "etc/1"), filesystem.IMMUTABLE, filesystem.IMMUTABLE)
    filesystem.set_attributes(str(source / "etc"), filesystem.APPEND_ONLY, filesystem.APPEND_ONLY)
    removal.remove(str(source), "tree")
    assert {path.name for path in plain.iterdir()} == {"lost+found", "disk.raw"}


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    """A directory of images that nobody else can write to."""
    path = tmp_path / "pool"
    path.mkdir(mode=0o700)
    return path


def test_who_works_is_left_alone(ours: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("what others than root own is nobody's to sweep")
    monkeypatch.setattr(partials, "LOCKS", str(tmp_path / "locks"))
    with partials.beside(str(ours / "target")) as busy:
        os.mkdir(busy)
        (ours / ".#machined-0123456789abcdef").mkdir()
        (ours / ".#machined-0123456789abcdee").touch()
        (ours / "some.v").mkdir()
        (ours / "some.v/.#machined-0123456789abcdef").mkdir()
        removed, failures = strays.sweep([str(ours), str(tmp_path / "nowhere")])
        assert (len(removed), failures) == (3, [])
        assert {path.name for path in ours.iterdir()} == {os.path.basename(busy), "some.v"}
    assert strays.sweep([str(ours)]) == ([busy], [])
    assert os.listdir(tmp_path / "locks") == []


def test_a_directory_of_others_is_not_swept(ours: Path) -> None:
    """Who can put names there could have us remove what he likes."""
    (ours / ".#machined-0123456789abcdef").mkdir()
    ours.chmod(0o777)
    assert strays.sweep([str(ours)]) == ([], [])


def test_special_files_are_copied(tmp_path: Path) -> None:
    source = tmp_path / "one"
    source.mkdir()
    os.mkfifo(source / "pipe", 0o640)
    imagecopy.copy_tree(str(source), str(tmp_path / "two"))
    assert stat.S_ISFIFO((tmp_path / "two/pipe").lstat().st_mode)
