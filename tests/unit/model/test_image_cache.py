# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is kept of images is what would be found, whatever happens, and however lately."""

from __future__ import annotations

import errno
import logging
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from machined.linux import dirwatch, filesystem, statx
from machined.linux.dirwatch import DirectoryWatch
from machined.model import image_cache, image_directory
from machined.model.image_cache import ImageCache
from machined.model.images import Image, Images
from tests.settled import descriptors
from tests.unit.model.image_changes import IMAGES, Changes
from tests.until import agree

STEPS = 160


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "machines").mkdir()
    return tmp_path / "machines"


@pytest.fixture
def images(place: Path) -> Iterator[ImageCache]:
    cache = ImageCache((place, place.parent / "none"))
    yield cache
    cache.close()


class Examined:
    """Which entries are looked at as if nothing were known of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._names: list[str] = []
        entry, examine = Images.entry, Images.examine

        def counted_entry(images: Images, path: str, name: str, known: Any) -> Image | None:
            self._names.append(name)
            return entry(images, path, name, known)

        def counted_examine(images: Images, path: str, *args: Any, **more: Any) -> Image | None:
            if not more.get("listed"):
                self._names.append(os.path.basename(path))
            return examine(images, path, *args, **more)

        monkeypatch.setattr(Images, "entry", counted_entry)
        monkeypatch.setattr(Images, "examine", counted_examine)

    def take(self) -> list[str]:
        names, self._names = self._names, []
        return sorted(names)


@pytest.fixture
def examined(monkeypatch: pytest.MonkeyPatch) -> Examined:
    return Examined(monkeypatch)


def same(cache: ImageCache, said: str, *, find_first: bool = False) -> None:
    """Both find the same; the fresh ones again where disk blocks were given out just then."""
    fresh = Images(cache._search_path, cache._version)

    def ask() -> tuple[object, object]:
        by_name = {name: cache.find(name) for name in IMAGES} if find_first else {}
        found = cache.list(), by_name or {name: cache.find(name) for name in IMAGES}
        return found, (fresh.list(), {name: fresh.find(name) for name in IMAGES})

    agree(ask, said)


@pytest.mark.parametrize("version", [257, 262])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("mounts", [False, True], ids=["files", "mounts"])
def test_whatever_happens(tmp_path: Path, seed: int, version: int, mounts: bool) -> None:
    changes = Changes(tmp_path, Random(seed))
    if mounts:
        if os.geteuid() != 0:
            pytest.skip("mounts take root")
        changes.with_mounts()
    cache = ImageCache(changes.path, version)
    history = []
    try:
        for _ in range(STEPS):
            # Several changes at a time, so that one event may be about what is no more.
            history += [changes.step() for _ in range(changes.random.choice((1, 1, 1, 2, 5)))]
            same(cache, "\n".join(history[-40:]), find_first=changes.random.random() < 0.5)
    finally:
        cache.close()
        changes.close()


def test_what_does_not_change_is_not_looked_at(images: ImageCache, place: Path, examined: Examined) -> None:
    for name in ("a", "b", "c"):
        (place / name).mkdir()
    (place / "disk.raw").write_bytes(b"x")
    (place / "a.nspawn").touch()
    (place / ".#a.lck").touch()
    os.utime(place / "disk.raw")
    assert [image.name for image in images.list()] == ["a", "b", "c", "disk", ".host"]
    assert set(examined.take()) == {"a", "b", "c", "disk.raw"}
    images.list()
    assert set(examined.take()) <= {"disk.raw"}, "it is new, and might change without a trace"
    assert images.find("a") is not None
    assert images.find("none") is None
    assert examined.take() == []
    (place / "b").chmod(0o700)
    (place / "d").mkdir()
    images.find("a")
    assert examined.take() == ["b", "d"]


def test_a_disk_image_is_known_once_it_is_old_enough(
    images: ImageCache, place: Path, examined: Examined, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "disk.raw").write_bytes(b"x")
    monkeypatch.setattr(image_directory, "YOUNG", 3600 * 10**9)
    for _ in range(3):
        images.list()
        assert set(examined.take()) == {"disk.raw"}
    monkeypatch.setattr(image_directory, "YOUNG", -(10**9))
    images.list()
    images.list()
    assert set(examined.take()) == {"disk.raw"}
    with (place / "disk.raw").open("ab") as file:
        file.write(b"y" * 5000)
    assert images.list()[0].limit == 5001
    assert set(examined.take()) == {"disk.raw"}


def test_the_generation_says_whether_anything_has_changed(images: ImageCache, place: Path) -> None:
    (place / "a").mkdir()
    first = images.list()
    generation = images.generation
    first.clear()
    assert len(images.list()) == 2, "the list belongs to who asked"
    (place / "a").chmod(0o700)  # nothing that is told of an image
    images.list()
    assert images.generation == generation
    (place / "b").mkdir()
    images.find("b")
    images.list()
    assert images.generation > generation


def test_an_immutable_tree_by_whatever_way(images: ImageCache, place: Path, examined: Examined) -> None:
    tree = place / "a"
    tree.mkdir()
    held = os.open(tree, os.O_RDONLY)
    try:
        images.list()
        examined.take()
        try:
            filesystem.set_attributes(f"/proc/self/fd/{held}", filesystem.IMMUTABLE, filesystem.IMMUTABLE)
        except OSError as error:
            pytest.skip(f"no attributes here: {error}")
        by_name = images.find("a")
        assert by_name is not None
        assert by_name.read_only
        assert images.list()[0] == by_name
        filesystem.set_attributes(f"/proc/self/fd/{held}", 0, filesystem.IMMUTABLE)
        assert not images.list()[0].read_only
    finally:
        os.close(held)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts take root")
def test_a_tree_that_is_mounted_from_elsewhere(images: ImageCache, place: Path) -> None:
    elsewhere = place.parent / "elsewhere"
    for path in (place / "a", elsewhere):
        path.mkdir()
    images.list()
    subprocess.run(["mount", "--bind", elsewhere, place / "a"], check=True)
    try:
        same(images, "mounted")
        # Of this nothing is told to who watches the directory.
        os.setxattr(elsewhere, filesystem.CREATED, (5).to_bytes(8, "little"))
        same(images, "changed where it comes from")
        assert images.list()[0].created == 5
    finally:
        subprocess.run(["umount", place / "a"], check=True)
    same(images, "unmounted")
    assert images.list()[0].created > 5


def test_one_directory_by_two_names(place: Path) -> None:
    (place.parent / "link").symlink_to(place)
    (place / "a").mkdir()
    images = ImageCache((place.parent / "link", place))
    try:
        same(images, "first")
        (place.parent / "link").unlink()
        same(images, "one of them is gone")
        (place / "b").mkdir()
        same(images, "the other is still watched")
    finally:
        images.close()


def test_a_new_directory_with_the_number_of_the_old_one(images: ImageCache, place: Path) -> None:
    number = place.stat().st_ino
    for _ in range(100):
        images.list()
        place.rmdir()
        place.mkdir()
        if place.stat().st_ino == number:
            break
    else:
        pytest.skip("numbers of inodes are not given out again here")
    images.list()
    (place / "a").mkdir()
    same(images, "its watch had ended")
    assert images.find("a") is not None


def test_lost_events(images: ImageCache, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "a").mkdir()
    images.list()
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text(encoding="ascii"))
    if limit > 100_000:
        pytest.skip("the queue of events is too long to be filled here")
    for number in range(limit + 2):
        (place / f"{number % 2}").mkdir() if number < 2 else (place / f"{number % 2}").chmod(0o755)
    (place / "late").mkdir()
    watches = images._watches
    assert watches is not None
    changes = watches.changes()
    assert changes is None
    monkeypatch.setattr(watches, "changes", lambda: changes)
    same(images, "lost")
    assert images.find("late") is not None


def test_what_others_may_change_is_always_looked_at(
    images: ImageCache, place: Path, examined: Examined, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statx, "filesystem_type", lambda path: 0x6969)  # NFS
    (place / "a").mkdir()
    for _ in range(2):
        assert [image.name for image in images.list()] == ["a", ".host"]
        assert examined.take() == ["a"]
    generation = images.generation
    (place / "b").mkdir()
    same(images, "b")
    assert images.generation == generation + 1


def test_names_that_differ_in_case_only(
    images: ImageCache, place: Path, examined: Examined, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "a").mkdir()
    monkeypatch.setattr(filesystem, "attributes_of", lambda fd: dirwatch._CASEFOLD)
    images.list()
    examined.take()
    images.list()
    assert examined.take() == ["a"], "the kernel knows what is the same name, we do not"


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENOSPC])
def test_without_watches(
    images: ImageCache,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    number: int,
) -> None:
    def refuse(*args: object) -> None:
        raise OSError(number, os.strerror(number))

    if number == errno.EMFILE:
        monkeypatch.setattr(image_cache, "DirectoryWatch", refuse)
    else:
        monkeypatch.setattr(DirectoryWatch, "add", refuse)
    caplog.set_level(logging.WARNING)
    before = descriptors()
    for name in ("a", "b"):
        (place / name).mkdir()
        same(images, name)
    assert len(caplog.records) == 1
    assert os.strerror(number) in caplog.text
    if number == errno.EMFILE:
        assert descriptors() == before
    monkeypatch.undo()
    same(images, "and again")
    assert images._directories[str(place)].watch >= 0, "there are watches again"


def test_everything_is_given_back(place: Path) -> None:
    before = descriptors()
    images = ImageCache((place,))
    images.list()
    assert len(descriptors()) == len(before) + 2  # inotify and the table of mounts
    images.close()
    images.close()
    assert descriptors() == before
    (place / "a").mkdir()
    same(images, "it answers all the same")
    assert descriptors() == before


def test_a_watch_goes_with_its_directory(images: ImageCache, place: Path) -> None:
    def watched() -> int:
        assert images._watches is not None
        return Path(f"/proc/self/fdinfo/{images._watches._fd.fileno()}").read_text().count("inotify wd")

    (place / "a").mkdir()
    for _ in range(3):
        images.list()
        assert watched() == 1
        place.rename(place.with_suffix(".old"))
        assert [image.name for image in images.list()] == [".host"]
        assert watched() == 0
        place.with_suffix(".old").rename(place)
    images.list()
    place.rename(place.with_suffix(".old"))
    place.mkdir()
    assert [image.name for image in images.list()] == [".host"]
    assert watched() == 1
