# SPDX-License-Identifier: LGPL-2.1-or-later

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from machined.linux import btrfs, filesystem, trees


def make(path: Path) -> Path:
    (path / "etc").mkdir(parents=True)
    (path / "etc/file").write_text("text", encoding="ascii")
    os.link(path / "etc/file", path / "etc/hard")
    (path / "link").symlink_to("etc/file")
    os.mkfifo(path / "pipe")
    path.chmod(0o751)
    return path


def names(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir())


def test_a_tree_is_copied_with_all_that_is_in_it(tmp_path: Path) -> None:
    source, target = make(tmp_path / "one"), tmp_path / "two"
    (tmp_path / "one.nspawn").write_text("[Exec]", encoding="ascii")
    beside = [(f"{source}.nspawn", f"{target}.nspawn"), (f"{source}.none", f"{target}.none")]
    trees.copy_tree(str(source), str(target), False, beside)
    assert target.stat().st_mode & 0o7777 == 0o751
    assert (target / "etc/file").read_text(encoding="ascii") == "text"
    assert (target / "etc/hard").stat().st_ino == (target / "etc/file").stat().st_ino
    assert os.readlink(target / "link") == "etc/file"
    assert (target / "pipe").is_fifo()
    assert names(tmp_path) == ["one", "one.nspawn", "two", "two.nspawn"]
    assert (tmp_path / "two.nspawn").stat().st_mode & 0o777 == 0o664


def test_a_copy_that_fails_leaves_nothing(tmp_path: Path) -> None:
    source = make(tmp_path / "one")
    (tmp_path / "two").mkdir()
    with pytest.raises(FileExistsError):
        trees.copy_tree(str(source), str(tmp_path / "two"))
    with pytest.raises(FileNotFoundError):
        trees.copy_tree(str(tmp_path / "none"), str(tmp_path / "three"))
    assert names(tmp_path) == ["one", "two"]


def test_a_file_is_copied_with_its_holes(tmp_path: Path) -> None:
    source, target = tmp_path / "one.raw", tmp_path / "two.raw"
    with source.open("wb") as file:
        file.write(b"begin")
        file.seek(4 * 1024 * 1024)
        file.write(b"end")
        file.truncate(9 * 1024 * 1024)
    trees.copy_image(str(source), str(target), 0o444)
    assert target.read_bytes() == source.read_bytes()
    assert target.stat().st_blocks <= source.stat().st_blocks
    assert target.stat().st_mode & 0o777 == 0o444
    with pytest.raises(FileExistsError):
        trees.copy_image(str(source), str(target), 0o644)
    with pytest.raises(OSError, match="regular"):
        trees.copy_image("/dev/null", str(tmp_path / "null.raw"), 0o644)
    assert names(tmp_path) == ["one.raw", "two.raw"]


def test_renaming_takes_the_files_beside_along(tmp_path: Path) -> None:
    make(tmp_path / "one")
    (tmp_path / "one.nspawn").touch()
    (tmp_path / "three").mkdir()
    pairs = [(str(tmp_path / "one.nspawn"), str(tmp_path / "two.nspawn"))]
    with pytest.raises(FileExistsError):
        trees.rename(str(tmp_path / "one"), str(tmp_path / "three"), pairs)
    trees.rename(str(tmp_path / "one"), str(tmp_path / "two"), pairs)
    assert names(tmp_path) == ["three", "two", "two.nspawn"]


def test_removing_never_follows_a_link(tmp_path: Path) -> None:
    make(tmp_path / "one")
    (tmp_path / "beside").touch()
    (tmp_path / "link").symlink_to("one")
    (tmp_path / "one/out").symlink_to("/")
    trees.remove(str(tmp_path / "link"), "tree")
    assert names(tmp_path) == ["beside", "one"]
    trees.remove(str(tmp_path / "one"), "tree", [str(tmp_path / "beside"), str(tmp_path / "none")])
    assert names(tmp_path) == []


def test_a_deep_tree_goes(tmp_path: Path) -> None:
    before = os.open(".", os.O_RDONLY)
    try:
        os.chdir(tmp_path)
        os.mkdir("deep")
        os.chdir("deep")
        for _ in range(3000):
            os.mkdir("d")
            os.chdir("d")
    finally:
        os.fchdir(before)
        os.close(before)
    trees.remove(str(tmp_path / "deep"), "tree")
    assert names(tmp_path) == []


def test_a_file_is_made_read_only_by_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "one.raw"
    path.touch(mode=0o660)
    path.chmod(0o664)
    trees.mark_read_only(str(path), "file", True)
    assert path.stat().st_mode & 0o777 == 0o444
    trees.mark_read_only(str(path), "file", False)
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may make a directory immutable")
def test_an_immutable_tree_is_copied_renamed_and_removed(tmp_path: Path) -> None:
    source = make(tmp_path / "one")
    try:
        trees.mark_read_only(str(source), "tree", True)
    except OSError as error:
        pytest.skip(f"no immutable directories here: {error}")
    trees.copy_tree(str(source), str(tmp_path / "two"), True)
    trees.rename(str(source), str(tmp_path / "three"))
    for name in ("two", "three"):
        assert filesystem.attributes(str(tmp_path / name)) & filesystem.IMMUTABLE
        trees.remove(str(tmp_path / name), "tree")
    assert names(tmp_path) == []


@pytest.mark.parametrize("error", [OSError(errno.EOPNOTSUPP, "no"), SystemExit(1)])
@pytest.mark.parametrize("when", ["at once", "under its final name", "afterwards"])
def test_a_read_only_copy_that_fails_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, when: str
) -> None:
    """Without attributes, or told to end (SystemExit) before or after the attribute is set."""
    source, target = make(tmp_path / "one"), tmp_path / "two"
    immutable: set[int] = set()
    failed: list[str] = []
    rename = filesystem.rename_noreplace

    def set_attributes(path: str, value: int, mask: int) -> None:
        number = os.stat(path).st_ino
        fails = value and not failed and (when == "at once" or path == str(target))
        if not fails or when == "afterwards":
            (immutable.add if value else immutable.discard)(number)
        if fails:
            failed.append(path)
            raise error

    def rename_noreplace(old: str, new: str) -> None:
        if os.stat(old).st_ino in immutable:
            raise PermissionError(errno.EPERM, "immutable")
        rename(old, new)
        assert when != "at once"  # it was never to be seen

    def attributes(path: str) -> int:
        return filesystem.IMMUTABLE if os.stat(path).st_ino in immutable else 0

    monkeypatch.setattr(filesystem, "set_attributes", set_attributes)
    monkeypatch.setattr(filesystem, "attributes", attributes)
    monkeypatch.setattr(filesystem, "rename_noreplace", rename_noreplace)
    with pytest.raises(type(error)):
        trees.copy_tree(str(source), str(target), True)
    assert failed
    assert names(tmp_path) == ["one"]
    assert not immutable


def test_the_pool_has_no_limit_without_btrfs(tmp_path: Path) -> None:
    with pytest.raises(OSError) as caught:
        trees.limit_pool("/dev/shm", 1_000_000)
    assert caught.value.errno == errno.ENOTTY


def test_the_complaint_of_a_tool_becomes_an_errno(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        trees.run("cp", str(tmp_path / "none"), str(tmp_path / "two"))
    with pytest.raises(OSError, match="false"):
        trees.run("false")


def test_what_was_left_is_swept_away(tmp_path: Path) -> None:
    make(tmp_path / ".#machined-1")
    (tmp_path / ".#machined-2").touch()
    make(tmp_path / ".#other")
    found = trees.unfinished(str(tmp_path))
    make(tmp_path / ".#machined-begun-since")
    assert trees.sweep([*found, str(tmp_path / "gone")]) == []
    assert names(tmp_path) == [".#machined-begun-since", ".#other"]


def test_what_cannot_be_swept_does_not_keep_the_rest(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / ".#machined-2").touch()
    bad = str(tmp_path / "file/.#machined-1")
    assert trees.sweep([bad, *trees.unfinished(str(tmp_path))]) == [(bad, os.strerror(errno.ENOTDIR))]
    assert names(tmp_path) == ["file"]


# -- btrfs -------------------------------------------------------------------------------------------------


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[Path]:
    """A mounted file system with quotas and a subvolume "one" with another one nested in it."""
    if os.geteuid() != 0 or shutil.which("mkfs.btrfs") is None or shutil.which("mount") is None:
        pytest.skip("needs root and mkfs.btrfs")
    if "btrfs" not in Path("/proc/filesystems").read_text(encoding="ascii"):
        pytest.skip("no btrfs in this kernel")
    disk, where = tmp_path / "disk", tmp_path / "pool"
    disk.touch()
    os.truncate(disk, 200 * 1024 * 1024)
    where.mkdir()
    subprocess.run(["mkfs.btrfs", "-q", disk], check=True, capture_output=True)
    done = subprocess.run(["mount", "-o", "loop", disk, where], check=False, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"no loop devices here: {done.stderr}")
    try:
        for path in (where / "one", where / "one/nested"):
            with btrfs.open_directory(str(path.parent)) as parent:
                btrfs.create(parent.fileno(), path.name)
        (where / "one/nested/file").write_text("deep", encoding="ascii")
        yield where
    finally:
        subprocess.run(["umount", where], check=True, capture_output=True)


def test_a_subvolume_is_snapshot_with_what_is_nested(pool: Path) -> None:
    trees.copy_tree(str(pool / "one"), str(pool / "two"), True)
    assert (pool / "two/nested/file").read_text(encoding="ascii") == "deep"
    for place in ("two", "two/nested"):
        assert btrfs.is_subvolume(str(pool / place))
        with btrfs.open_directory(str(pool / place)) as directory:
            assert btrfs.info(directory.fileno()).read_only
    trees.remove(str(pool / "two"), "subvolume")
    trees.remove(str(pool / "one"), "subvolume")
    assert names(pool) == []


def test_subvolumes_in_a_directory_go_with_it(pool: Path) -> None:
    make(pool / "plain")
    trees.copy_tree(str(pool / "one"), str(pool / "plain/inside"), True)
    trees.copy_tree(str(pool / "plain"), str(pool / "copy"), False)
    assert btrfs.is_subvolume(str(pool / "copy"))
    assert (pool / "copy/inside/nested/file").read_text(encoding="ascii") == "deep"
    for name, kind in (("plain", "tree"), ("copy", "subvolume")):
        trees.remove(str(pool / name), kind)
    assert names(pool) == ["one"]


def test_quota_groups_follow(pool: Path) -> None:
    with pytest.raises(OSError) as caught:
        trees.limit_subvolume(str(pool / "one"), 1_000_000)
    assert caught.value.errno == errno.ENOTCONN
    trees.limit_pool(str(pool), 100_000_000)
    trees.copy_tree(str(pool / "one"), str(pool / "two"))
    trees.limit_subvolume(str(pool / "two"), 50_000_000)
    trees.copy_tree(str(pool / "two"), str(pool / "three"))
    with btrfs.open_directory(str(pool)) as directory:
        top = btrfs.subtree_group(directory.fileno(), btrfs.info(directory.fileno()).id)
        assert btrfs.quota(directory.fileno(), top).referenced_max == 100_000_000
    with btrfs.open_directory(str(pool / "three")) as directory:
        fd = directory.fileno()
        number = btrfs.info(fd).id
        group = btrfs.subtree_group(fd, number)
        assert (btrfs.level_of(group), btrfs.id_of(group)) == (254, number)
        assert btrfs.parents(fd, group) == [top]
        assert btrfs.subtree_quota(fd).referenced_max == 50_000_000
    trees.limit_subvolume(str(pool / "three"), btrfs.UNLIMITED)
    with btrfs.open_directory(str(pool / "three")) as directory:
        assert btrfs.subtree_quota(directory.fileno()).referenced_max == btrfs.UNLIMITED
    trees.remove(str(pool / "three"), "subvolume")
    with btrfs.open_directory(str(pool)) as directory, pytest.raises(OSError):
        btrfs.quota(directory.fileno(), group)
