# SPDX-License-Identifier: LGPL-2.1-or-later

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from machined.linux import btrfs
from machined.linux.btrfs import Subvolume
from machined.linux.subvolumes import Subvolumes, Told
from machined.model.images import UNKNOWN, Image, Images, ImageType


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    return tmp_path / "first", tmp_path / "second"


@pytest.fixture
def images(places: tuple[Path, Path], tmp_path: Path) -> Images:
    return Images((*places, tmp_path / "not-there"))


def found(images: Images, name: str) -> Image:
    image = images.find(name)
    assert image is not None
    return image


def test_directory(images: Images, places: tuple[Path, Path]) -> None:
    (places[0] / "web").mkdir()
    image = found(images, "web")
    assert (image.name, image.path, image.type) == ("web", str(places[0] / "web"), ImageType.DIRECTORY)
    assert image.is_tree
    assert not image.read_only
    assert image.modified == 0
    assert {image.usage, image.limit, image.usage_exclusive, image.limit_exclusive} == {UNKNOWN}
    assert image.created > 1_000_000_000_000_000, "in µs"


def test_raw(images: Images, places: tuple[Path, Path]) -> None:
    path = places[0] / "disk.raw"
    path.write_bytes(b"x" * 5000)
    os.utime(path, ns=(0, 1_700_000_000_123_456_789))
    image = found(images, "disk")
    assert (image.type, image.path, image.read_only) == (ImageType.RAW, str(path), False)
    assert image.limit == 5000
    assert image.usage == path.stat().st_blocks * 512
    assert image.modified == 1_700_000_000_123_456
    path.chmod(0o444)
    assert found(images, "disk").read_only
    assert images.find("disk.raw") is None


def test_a_directory_may_end_in_raw(images: Images, places: tuple[Path, Path]) -> None:
    (places[0] / "tree.raw").mkdir()
    assert images.find("tree.raw") is None, "as with systemd-machined: only a listing finds it"
    assert images.find("tree") is None
    assert [image.name for image in images.list()] == ["tree.raw", ".host"]


def test_links_are_followed_and_keep_their_name(
    images: Images, places: tuple[Path, Path], tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (places[0] / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "file").touch()
    (places[0] / "linked.raw").symlink_to(tmp_path / "file")
    (places[0] / "dangling").symlink_to(tmp_path / "gone")
    assert found(images, "link").path == str(places[0] / "link")
    assert found(images, "linked").type is ImageType.RAW
    assert images.find("dangling") is None


@pytest.mark.parametrize("version", [257, 262])
def test_a_directory_of_images_by_a_link(tmp_path: Path, places: tuple[Path, Path], version: int) -> None:
    (tmp_path / "link").symlink_to(places[0])
    (places[0] / "web").mkdir()
    (places[0] / "name").symlink_to("web")
    images = Images((tmp_path / "link",), version)
    listed = {image.name: image.path for image in images.list()}
    assert listed["web"] == found(images, "web").path == str(places[0] / "web")
    # What the link in it leads to is told by the newer versions alone.
    assert (
        listed["name"] == found(images, "name").path == str(places[0] / ("name" if version < 258 else "web"))
    )


def test_a_link_to_itself_is_no_image(images: Images, places: tuple[Path, Path]) -> None:
    (places[0] / "loop").symlink_to("loop")
    (places[0] / "web").mkdir()
    assert [image.name for image in images.list()] == ["web", ".host"]
    assert images.find("loop") is None


def test_what_is_no_image(images: Images, places: tuple[Path, Path]) -> None:
    (places[0] / "file").touch()
    os.mkfifo(places[0] / "fifo.raw")
    (places[0] / ".#web.lck").touch()
    (places[0] / ".#copy").mkdir()
    assert [image.name for image in images.list()] == [".host"]
    for name in ("file", "fifo", ".#copy", "", ".", "..", "a/b", "../first"):
        assert images.find(name) is None


def test_the_first_place_wins(images: Images, places: tuple[Path, Path]) -> None:
    (places[1] / "web").mkdir()
    assert found(images, "web").path == str(places[1] / "web")
    (places[0] / "web.raw").touch()
    assert found(images, "web").path == str(places[0] / "web.raw")
    assert [(i.name, i.type) for i in images.list()] == [
        ("web", ImageType.RAW),
        (".host", ImageType.DIRECTORY),
    ]


def test_list_agrees_with_find(images: Images, places: tuple[Path, Path]) -> None:
    for name in ("b", "a", ".hidden", "with blank", "größe"):
        (places[0] / name).mkdir()
    (places[1] / "b").mkdir()
    (places[1] / "c.raw").touch()
    listed = images.list()
    assert sorted(i.name for i in listed) == sorted(
        [".hidden", ".host", "a", "b", "c", "größe", "with blank"]
    )
    assert all(images.find(image.name) == image for image in listed)


def test_the_host(images: Images) -> None:
    image = found(images, ".host")
    assert (image.path, image.is_host, image.type) == ("/", True, ImageType.DIRECTORY)


def test_a_place_that_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert [image.name for image in Images((tmp_path / "file",)).list()] == [".host"]


def test_recorded_birth(images: Images, places: tuple[Path, Path]) -> None:
    path = places[0] / "web"
    path.mkdir()
    try:
        os.setxattr(path, "user.crtime_usec", (1_600_000_000_000_000).to_bytes(8, "little"))
    except OSError as error:
        pytest.skip(f"no extended attributes for users here: {error}")
    assert found(images, "web").created == 1_600_000_000_000_000


def test_subvolume(images: Images, places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    (places[0] / "web").mkdir()
    subvolume = Subvolume(300, 5, True, 1_000, 2_000)
    monkeypatch.setattr(btrfs, "is_subvolume", lambda *_: True)
    monkeypatch.setattr(btrfs, "info", lambda fd: subvolume)
    told = {300: Told(subvolume, (10, 20), (30, 40))}
    monkeypatch.setattr(Subvolumes, "read", lambda self, fd, numbers: told)
    image = found(images, "web")
    assert (image.read_only, image.created, image.modified) == (True, 1_000, 0)
    assert (image.usage, image.usage_exclusive, image.limit, image.limit_exclusive) == (10, 20, 30, 40)
    assert found(Images((places[0],), 262), "web").modified == 2_000
    assert found(images, "web").type is ImageType.SUBVOLUME
    assert found(images, "web").is_tree


def test_block_device(images: Images, places: tuple[Path, Path]) -> None:
    device = next((p for p in Path("/dev").glob("loop[0-9]*") if stat.S_ISBLK(p.stat().st_mode)), None)
    if device is None:
        pytest.skip("no block device here")
    (places[0] / "disk").symlink_to(device)
    image = found(images, "disk")
    assert (image.type, image.created, image.is_tree) == (ImageType.BLOCK, 0, False)
    assert image.limit == image.usage
    assert [path.name[:6] for path in image.lock_paths()] == [".#disk", "block-"]
    resolved = found(Images((places[0],), 262), "disk")
    assert resolved.path == str(device)
    assert [path.name[:6] for path in resolved.lock_paths()] == ["block-"]


def test_vendor_images_are_read_only() -> None:
    image = Images((Path("/usr"),)).find("share")
    assert image is not None
    assert image.read_only
