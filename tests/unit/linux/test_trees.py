# SPDX-License-Identifier: LGPL-2.1-or-later

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from machined.linux import btrfs, filesystem, mstack, partials, trees
from machined.linux.locks import FileLock
from tests.loopdisk import MIB, mounted_btrfs


@pytest.fixture(autouse=True)
def locks(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where those who work hold locks: of their own for each test, so that who is not root has some too."""
    path = tmp_path_factory.mktemp("locks")
    monkeypatch.setattr(partials, "LOCKS", str(path))
    return path


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


def test_a_copy_of_a_base_is_none(tmp_path: Path) -> None:
    source = make(tmp_path / "one")
    try:
        for name in (mstack.BASE, "user.other"):
            os.setxattr(source, name, b"1")
    except OSError as error:
        pytest.skip(f"no extended attributes here: {error}")
    trees.copy_tree(str(source), str(tmp_path / "two"))
    assert "user.other" in os.listxattr(tmp_path / "two")
    assert mstack.BASE not in os.listxattr(tmp_path / "two")


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


@pytest.mark.parametrize("when", ["before it is hidden", "once it is hidden"])
def test_a_link_in_its_place_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """Whoever may write to the directory that an image lies in puts a link there while it is removed."""
    home, victim = tmp_path / "home", make(tmp_path / "victim")
    make(home / "web")
    rename = filesystem.rename_noreplace
    hidden: list[str] = []

    def swap(where: Path) -> None:
        where.rename(home / "moved")
        where.symlink_to(victim)

    def rename_noreplace(old: str, new: str, **more: int) -> None:
        hidden.append(os.path.basename(new))
        if when == "before it is hidden" and len(hidden) == 1:
            swap(home / "web")
        rename(old, new, **more)
        if when == "once it is hidden":
            swap(home / hidden[0])

    monkeypatch.setattr(filesystem, "rename_noreplace", rename_noreplace)
    with pytest.raises(OSError):
        trees.remove(str(home / "web"), "tree")
    assert hidden
    assert names(victim) == ["etc", "link", "pipe"]
    assert (victim / "etc/file").exists()


def test_two_may_remove_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a process told to end takes back is also removed by those who clean up behind it."""
    source = make(tmp_path / "one")
    unlink = os.unlink

    def twice(path: str, *, dir_fd: int | None = None) -> None:
        unlink(path, dir_fd=dir_fd)
        unlink(path, dir_fd=dir_fd)

    monkeypatch.setattr(os, "unlink", twice)
    trees.remove(str(source), "tree")
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

    def rename_noreplace(old: str, new: str, **_: int) -> None:
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


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_who_cannot_lock_sweeps_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    (tmp_path / ".#machined-1").touch()

    def acquire(path: str, **_: bool) -> FileLock:
        raise OSError(number, os.strerror(number), path)

    monkeypatch.setattr(FileLock, "acquire", acquire)
    assert trees.sweep(trees.unfinished(str(tmp_path))) == []
    assert names(tmp_path) == [".#machined-1"]


@pytest.mark.parametrize(
    ("number", "works"),
    [(errno.EMFILE, False), (errno.ENOSPC, False), (errno.EACCES, True), (errno.EROFS, True)],
)
def test_nothing_begins_without_a_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, works: bool
) -> None:
    """But for those who can never have one: whoever could sweep theirs away cannot lock either."""
    source = make(tmp_path / "one")

    def acquire(path: str, **_: bool) -> FileLock:
        raise OSError(number, os.strerror(number), path)

    monkeypatch.setattr(FileLock, "acquire", acquire)
    with contextlib.nullcontext() if works else pytest.raises(OSError, match=os.strerror(number)):
        trees.copy_tree(str(source), str(tmp_path / "two"))
    assert names(tmp_path) == (["one", "two"] if works else ["one"])


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
    with mounted_btrfs(tmp_path, 200 * MIB) as where:
        for path in (where / "one", where / "one/nested"):
            with btrfs.open_directory(str(path.parent)) as parent:
                btrfs.create(parent.fileno(), path.name)
        (where / "one/nested/file").write_text("deep", encoding="ascii")
        yield where


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


def subvolume(path: Path) -> None:
    with btrfs.open_directory(str(path.parent)) as parent:
        btrfs.create(parent.fileno(), path.name)


def exchange(one: Path, other: Path) -> None:
    between = one.with_name("between")
    one.rename(between)
    other.rename(one)
    between.rename(other)


@pytest.fixture
def hostile(pool: Path) -> Path:
    """A pool with an image "web" that has a subvolume a/evil, and a link "l" to `victim` on the host.

    What is in there is called alike.
    """
    for name in ("web", "victim"):
        subvolume(pool / name)
    (pool / "web/a").mkdir()
    subvolume(pool / "web/a/evil")
    (pool / "web/l").symlink_to(pool / "victim")
    return pool


def test_a_copy_leaves_what_a_link_in_the_copy_leads_to(
    hostile: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The snapshot has a link where the kernel names a directory: the guest has put it there meanwhile."""
    (hostile / "victim/evil").mkdir()
    snapshot = btrfs.snapshot
    taken: list[str] = []

    def swapped(source: int, parent: int, name: str, *, read_only: bool) -> None:
        swap = not taken
        taken.append(name)
        if swap:
            exchange(hostile / "web/a", hostile / "web/l")
        snapshot(source, parent, name, read_only=read_only)
        if swap:
            exchange(hostile / "web/a", hostile / "web/l")

    monkeypatch.setattr(btrfs, "snapshot", swapped)
    with pytest.raises(BlockingIOError):
        trees.copy_tree(str(hostile / "web"), str(hostile / "copy"))
    assert not btrfs.is_subvolume(str(hostile / "victim/evil"))
    assert names(hostile) == ["one", "victim", "web"]


def test_a_copy_has_nothing_that_a_link_leads_to(hostile: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subvolume(hostile / "victim/evil")
    (hostile / "victim/evil/secret").touch()
    snapshot = btrfs.snapshot
    taken: list[str] = []

    def swapped(source: int, parent: int, name: str, *, read_only: bool) -> None:
        snapshot(source, parent, name, read_only=read_only)
        taken.append(name)
        if len(taken) == 1:
            exchange(hostile / "web/a", hostile / "web/l")

    monkeypatch.setattr(btrfs, "snapshot", swapped)
    with pytest.raises(BlockingIOError):
        trees.copy_tree(str(hostile / "web"), str(hostile / "copy"))
    assert names(hostile) == ["one", "victim", "web"]
    assert names(hostile / "victim/evil") == ["secret"]


def test_what_goes_while_it_is_copied_is_left_out(hostile: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = btrfs.snapshot
    taken: list[str] = []

    def going(source: int, parent: int, name: str, *, read_only: bool) -> None:
        snapshot(source, parent, name, read_only=read_only)
        taken.append(name)
        if len(taken) == 1:
            trees.remove(str(hostile / "web/a/evil"), "subvolume")

    monkeypatch.setattr(btrfs, "snapshot", going)
    trees.copy_tree(str(hostile / "web"), str(hostile / "copy"))
    assert names(hostile / "copy/a") in ([], ["evil"])
    trees.remove(str(hostile / "copy"), "subvolume")
    assert names(hostile) == ["one", "victim", "web"]


def test_what_is_mounted_over_a_subvolume_is_not_copied(hostile: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", hostile / "web/a/evil"], check=True)
    try:
        (hostile / "web/a/evil/mounted").touch()
        trees.copy_tree(str(hostile / "web"), str(hostile / "copy"))
        assert names(hostile / "copy/a/evil") == []
        with pytest.raises(OSError) as caught:
            trees.remove(str(hostile / "web"), "subvolume")
        assert caught.value.errno == errno.EBUSY
    finally:
        subprocess.run(["umount", hostile / "web/a/evil"], check=True)


def test_a_copy_inside_of_its_original_ends(pool: Path) -> None:
    """As that of the host's own tree, where the pool is a subvolume nested in it."""
    subvolume(pool / "one/machines")
    trees.copy_tree(str(pool / "one"), str(pool / "one/machines/copy"))
    copy = pool / "one/machines/copy"
    assert (copy / "nested/file").read_text(encoding="ascii") == "deep"
    assert not [path for path in (copy / "machines").iterdir() if any(path.iterdir())]
    trees.remove(str(pool / "one"), "subvolume")
    assert names(pool) == []


@pytest.mark.parametrize("kind", ["tree", "subvolume"])
def test_a_link_in_the_place_of_what_is_removed(
    hostile: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """On btrfs as well: by a link in the tree, and by one in the place of the tree."""
    subvolume(hostile / "victim/evil")
    (hostile / "victim/evil/kept").touch()
    doomed = hostile / "web"
    if kind == "tree":
        (hostile / "plain").mkdir()
        doomed = (hostile / "web").rename(hostile / "plain/web").parent
    rename, children = filesystem.rename_noreplace, btrfs.children
    swapped: list[bool] = []

    def rename_noreplace(old: str, new: str, **more: int) -> None:
        rename(old, new, **more)
        hidden = hostile / os.path.basename(new)
        hidden.rename(hostile / "moved")
        hidden.symlink_to(hostile / "victim")

    def then_swap(fd: int, parent: int) -> list[tuple[int, str]]:
        found = children(fd, parent)
        inside = [path for path in (hostile / "moved", hostile / "moved/web") if (path / "l").is_symlink()]
        if not swapped and any(path.endswith("a/evil") for _, path in found):
            swapped.append(True)
            exchange(inside[0] / "a", inside[0] / "l")
        return found

    monkeypatch.setattr(filesystem, "rename_noreplace", rename_noreplace)
    monkeypatch.setattr(btrfs, "children", then_swap)
    with pytest.raises(OSError):
        trees.remove(str(doomed), kind)
    assert names(hostile / "victim/evil") == ["kept"]
    assert btrfs.is_subvolume(str(hostile / "victim"))


def test_a_snapshot_of_a_base_is_none(pool: Path) -> None:
    os.setxattr(pool / "one", mstack.BASE, b"1")
    filesystem.set_attributes(str(pool / "one"), filesystem.IMMUTABLE, filesystem.IMMUTABLE)
    trees.copy_tree(str(pool / "one"), str(pool / "two"))
    assert mstack.BASE not in os.listxattr(pool / "two")
    assert not filesystem.attributes(str(pool / "two")) & filesystem.IMMUTABLE
    assert (pool / "two/nested/file").read_text(encoding="ascii") == "deep"
    trees.remove(str(pool / "one"), "subvolume")
    assert names(pool) == ["two"]
