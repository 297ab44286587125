# SPDX-License-Identifier: LGPL-2.1-or-later
"""The images of the host: where they are looked for, which of two with the same name counts, what they are.

The rules are those of systemd-machined(8) and the file system, asked at each call: a tree that changes
behind our back is seen as it is.
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from machined.linux import statx
from machined.model.names import HOST, is_image_name

log = logging.getLogger(__name__)

# First hit of a name wins.
SEARCH_PATH: Final = (
    Path("/etc/machines"),
    Path("/run/machines"),
    Path("/var/lib/machines"),
    Path("/var/lib/container"),
    Path("/usr/local/lib/machines"),
    Path("/usr/lib/machines"),
)
POOL: Final = Path("/var/lib/machines")
LOCKS: Final = Path("/run/systemd/nspawn/locks")
UNKNOWN: Final = 0xFFFF_FFFF_FFFF_FFFF  # "not known" of sizes and limits

# The root of a subvolume has this inode number (btrfs, BTRFS_FIRST_FREE_OBJECTID).
_SUBVOLUME_INODE: Final = 256


class ImageType(StrEnum):
    DIRECTORY = "directory"
    SUBVOLUME = "subvolume"
    RAW = "raw"
    BLOCK = "block"


@dataclass(frozen=True, slots=True)
class Image:
    """One image. Times are µs realtime (0: unknown), sizes are bytes (UNKNOWN: unknown)."""

    name: str
    path: str
    type: ImageType
    read_only: bool
    created: int = 0
    modified: int = 0
    usage: int = UNKNOWN
    limit: int = UNKNOWN
    usage_exclusive: int = UNKNOWN
    limit_exclusive: int = UNKNOWN

    @property
    def is_tree(self) -> bool:
        return self.type in {ImageType.DIRECTORY, ImageType.SUBVOLUME}

    @property
    def is_host(self) -> bool:
        return self.path == "/"

    def lock_paths(self) -> list[Path]:
        """The lock files of an image, beside it and by inode; nspawn holds both all its life. OSError."""
        path = Path(self.path)
        status = path.stat()
        if stat.S_ISBLK(status.st_mode):
            return [LOCKS / f"block-{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"]
        return [path.parent / f".#{path.name}.lck", LOCKS / f"inode-{status.st_dev}:{status.st_ino}"]


class Images:
    """Finds images below the search path; `.host` is the host's own tree."""

    def __init__(self, search_path: tuple[Path, ...] = SEARCH_PATH) -> None:
        self._search_path = search_path

    def find(self, name: str) -> Image | None:
        """The image of this name, None when there is none (or the name cannot be one)."""
        if name == HOST:
            return _host()
        if not is_image_name(name):
            return None
        for directory in self._search_path:
            for candidate in (directory / name, directory / f"{name}.raw"):
                image = _examine(candidate, name)
                if image is not None:
                    return image
        return None

    def list(self) -> list[Image]:
        """Every image, hidden ones and `.host` included, each name once."""
        found: dict[str, Image] = {}
        for directory in self._search_path:
            for path, name in _candidates(directory):
                if name not in found and (image := _examine(path, name)) is not None:
                    found[name] = image
        found.setdefault(HOST, _host())
        return list(found.values())


def _candidates(directory: Path) -> Iterator[tuple[Path, str]]:
    try:
        entries = sorted(os.listdir(directory))
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        log.warning("Cannot read the image directory %s, ignoring: %s", directory, error)
        return
    for entry in entries:
        path = directory / entry
        name = entry.removesuffix(".raw") if entry.endswith(".raw") and not path.is_dir() else entry
        if is_image_name(name):
            yield path, name


def _examine(path: Path, name: str) -> Image | None:
    try:
        status = path.stat()
    except OSError:
        return None  # gone, a dangling link, or not ours to see
    where = os.fspath(path)
    vendor = where.startswith("/usr/")
    is_raw_name = path.name != name
    if stat.S_ISDIR(status.st_mode) and not is_raw_name:
        kind = ImageType.SUBVOLUME if _is_subvolume(path, status) else ImageType.DIRECTORY
        return Image(name, where, kind, vendor or _is_read_only(path), created=_created(path))
    if stat.S_ISREG(status.st_mode) and is_raw_name:
        return Image(
            name,
            where,
            ImageType.RAW,
            vendor or _is_read_only(path) or not status.st_mode & 0o222,
            created=_created(path),
            modified=status.st_mtime_ns // 1000,
            usage=status.st_blocks * 512,
            limit=status.st_size,
            usage_exclusive=status.st_blocks * 512,
            limit_exclusive=status.st_size,
        )
    if stat.S_ISBLK(status.st_mode) and not is_raw_name:
        size = _block_size(status.st_rdev)
        return Image(name, where, ImageType.BLOCK, vendor, 0, 0, size, size, size, size)
    return None


def _host() -> Image:
    path = Path("/")
    return Image(HOST, "/", ImageType.DIRECTORY, _is_read_only(path))


def _is_subvolume(path: Path, status: os.stat_result) -> bool:
    if status.st_ino != _SUBVOLUME_INODE:
        return False
    return statx.is_btrfs(os.fspath(path))


def _is_read_only(path: Path) -> bool:
    return bool(os.statvfs(path).f_flag & os.ST_RDONLY)


def _created(path: Path) -> int:
    """Time of birth: what importers recorded, else what the file system knows (µs)."""
    try:
        recorded = int.from_bytes(os.getxattr(path, "user.crtime_usec"), "little")
    except OSError:
        recorded = 0
    born = statx.birth_time_usec(os.fspath(path))
    return min(filter(None, (recorded, born)), default=0)


def _block_size(device: int) -> int:
    """Bytes of a block device (sysfs counts in 512-byte sectors, Documentation/ABI/stable/sysfs-block)."""
    try:
        text = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/size").read_text(encoding="ascii")
        return int(text) * 512
    except (OSError, ValueError):
        return UNKNOWN
