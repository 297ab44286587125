# SPDX-License-Identifier: LGPL-2.1-or-later
"""Images that are subvolumes of a btrfs: what is kept of them is what would be found."""

from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from machined.linux import btrfs, quotas
from machined.model.image_cache import ImageCache
from machined.model.images import UNKNOWN, Image, Images, ImageType
from tests.loopdisk import MIB, mounted_btrfs
from tests.until import agree

STEPS = 120


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[Path]:
    """A directory on a btrfs."""
    with mounted_btrfs(tmp_path, 300 * MIB) as where:
        (where / "pool").mkdir()
        yield where / "pool"


def create(pool: Path, name: str) -> None:
    with btrfs.open_directory(str(pool)) as parent:
        btrfs.create(parent.fileno(), name)


def enable_quota(pool: Path) -> None:
    with btrfs.open_directory(str(pool)) as directory:
        btrfs.enable_quota(directory.fileno())


def rescan(pool: Path) -> None:
    """Count, and wait for it."""
    subprocess.run(["btrfs", "quota", "rescan", "-w", pool], check=True, capture_output=True)
    os.sync()


def mark(path: Path, *, read_only: bool) -> None:
    with btrfs.open_directory(str(path)) as directory:
        btrfs.set_read_only(directory.fileno(), read_only)


class Changes:
    """What may happen to subvolumes, at random. What cannot be done is not done."""

    def __init__(self, pool: Path, random: Random) -> None:
        self.pool = pool
        self.random = random

    def step(self) -> str:
        name, other = self.random.choices(("a", "b", "c", ".hidden", "d.raw", "e.v", "bad\x01name"), k=2)
        path = self.pool / name
        what = self.random.choice(
            ("create", "create", "directory", "destroy", "snapshot", "rename", "read-only", "writable",
             "limit", "write", "quota", "mount", "umount")
        )  # fmt: skip
        try:
            self._do(what, path, other)
        except OSError as error:
            return f"{what} {name!r} {other!r}: {error}"
        return f"{what} {name!r} {other!r}"

    def _do(self, what: str, path: Path, other: str) -> None:
        with btrfs.open_directory(str(self.pool)) as directory:
            fd = directory.fileno()
            if what == "create":
                btrfs.create(fd, path.name)
            elif what == "directory":
                path.mkdir()
            elif what == "destroy":
                btrfs.destroy(fd, path.name)
            elif what == "snapshot":
                with btrfs.open_directory(str(path)) as source:
                    btrfs.snapshot(source.fileno(), fd, other, read_only=self.random.random() < 0.5)
            elif what == "rename":
                path.rename(self.pool / other)
            elif what in {"read-only", "writable"}:
                mark(path, read_only=what == "read-only")
            elif what == "limit":
                quotas.limit(str(path), self.random.choice((10_000_000, 20_000_000, btrfs.UNLIMITED)))
            elif what == "write":
                (path / "file").write_bytes(os.urandom(self.random.randrange(100_000)))
                os.sync()
            elif what == "quota":
                btrfs.enable_quota(fd)
            else:
                words = ["mount", "-t", "tmpfs", "none"] if what == "mount" else ["umount"]
                subprocess.run([*words, path], check=False, capture_output=True)


@pytest.mark.parametrize("version", [257, 262])
@pytest.mark.parametrize("seed", range(2))
def test_whatever_happens(pool: Path, seed: int, version: int) -> None:
    changes = Changes(pool, Random(seed))
    cache, fresh = ImageCache((pool,), version), Images((pool,), version)
    history = []
    try:
        for _ in range(STEPS):
            history += [changes.step() for _ in range(changes.random.choice((1, 1, 2, 5)))]
            # The kernel may write something down, or count anew, between the two.
            agree(
                lambda: ((cache.list(), cache.find("a")), (fresh.list(), fresh.find("a"))),
                "\n".join(history[-40:]),
            )
    finally:
        cache.close()


@pytest.mark.parametrize("version", [257, 262])
def test_what_is_asked_for_does_not_grow(pool: Path, version: int, monkeypatch: pytest.MonkeyPatch) -> None:
    enable_quota(pool)
    asked: list[int] = []
    ioctl = fcntl.ioctl

    def counted(fd: Any, request: int, *rest: Any) -> Any:
        asked.append(request)
        return ioctl(fd, request, *rest)

    def looked(*_: Any, **__: Any) -> Image | None:
        raise AssertionError("as if nothing were known of it")

    cache = ImageCache((pool,), version)
    counts = []
    try:
        for numbers in (range(10), range(10, 60)):
            for number in numbers:
                create(pool, f"image-{number}")
            rescan(pool)
            cache.list()
            with monkeypatch.context() as patches:
                patches.setattr(fcntl, "ioctl", counted)
                patches.setattr(Images, "entry", looked)
                assert len(cache.list()) == len(os.listdir(pool)) + 1
            counts.append(len(asked))
            asked.clear()
        generation = cache.generation
        cache.list()
        assert cache.generation == generation
        mark(pool / "image-3", read_only=True)
        assert [image.name for image in cache.list()[:-1] if image.read_only] == ["image-3"]
        assert cache.generation > generation
    finally:
        cache.close()
    assert counts[0] == counts[1] < 10


def test_what_is_told(pool: Path) -> None:
    for name in ("one", "two"):
        create(pool, name)
    with ClosingCache(pool) as cache:
        one = cache.list()[0]
        assert (one.name, one.type, one.usage, one.limit) == ("one", ImageType.SUBVOLUME, UNKNOWN, UNKNOWN)
        assert one.created > 0
        enable_quota(pool)
        quotas.limit(str(pool / "two"), 50_000_000)
        rescan(pool)
        one, two = cache.list()[:2]
        assert one.usage > 0
        assert (one.limit, two.limit) == (UNKNOWN, 50_000_000)


def test_a_file_system_that_does_not_tell_us(pool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create(pool, "one")

    def denied(*_: Any) -> dict[int, Any]:
        raise PermissionError

    monkeypatch.setattr("machined.linux.subvolumes.Subvolumes.read", denied)
    with ClosingCache(pool) as cache:
        for read_only in (False, True, False):
            mark(pool / "one", read_only=read_only)
            found = [(image.name, image.type, image.read_only) for image in cache.list()]
            assert found[0] == ("one", ImageType.SUBVOLUME, read_only)


class ClosingCache(ImageCache):
    def __init__(self, pool: Path) -> None:
        super().__init__((pool,), 262)

    def __enter__(self) -> ImageCache:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
