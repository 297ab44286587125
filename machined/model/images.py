# SPDX-License-Identifier: LGPL-2.1-or-later
"""The images of the host: where they are looked for, which of two with the same name counts, what they are.

The rules are those of systemd-machined(8) and the file system, asked at each call: a tree that changes
behind our back is seen as it is. image_cache.py gives the same answers, and asks for less.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
from collections.abc import Container, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Final

from machined.linux import btrfs, filesystem
from machined.linux.subvolumes import Subvolumes, Told
from machined.model import stacks, versions
from machined.model.names import HOST, is_image_name
from machined.model.stacks import Stack

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


class ImageType(StrEnum):
    DIRECTORY = "directory"
    SUBVOLUME = "subvolume"
    RAW = "raw"
    BLOCK = "block"
    MSTACK = "mstack"  # before 260 those alone that are layered images of ours


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
    stack: Stack | None = None
    """What a layered image is put together from."""

    @property
    def is_tree(self) -> bool:
        return self.type in {ImageType.DIRECTORY, ImageType.SUBVOLUME}

    @property
    def is_host(self) -> bool:
        return self.name == HOST or self.path == "/"

    @property
    def is_vendor(self) -> bool:
        """Whether it belongs to the operating system, which nobody changes but packages."""
        return self.path.startswith("/usr/")

    @property
    def is_hidden(self) -> bool:
        return self.name.startswith(".") and self.name != HOST

    def lock_paths(self) -> list[Path]:
        """The lock files of an image, beside it and by inode; nspawn holds both all its life. OSError."""
        path = Path(self.path)
        status = path.stat()
        if stat.S_ISBLK(status.st_mode):
            lock = LOCKS / f"block-{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
            return [lock] if self.path.startswith("/dev/") else [path.parent / f".#{path.name}.lck", lock]
        return [path.parent / f".#{path.name}.lck", LOCKS / f"inode-{status.st_dev}:{status.st_ino}"]


class Images:
    """Finds images below the search path; `.host` is the host's own tree.

    `version` is the host's systemd: from 258 on what is shown of a link is what it points to.
    """

    def __init__(self, search_path: tuple[Path, ...] = SEARCH_PATH, version: int = 257) -> None:
        self._search_path = search_path
        self._version = version
        self._suffixes = ("", ".raw", stacks.SUFFIX)

    @property
    def search_path(self) -> tuple[Path, ...]:
        """The directories that images are in."""
        return self._search_path

    def find(self, name: str) -> Image | None:
        """The image of this name, None when there is none (or the name cannot be one)."""
        if not is_image_name(name):
            return None
        for directory in self._search_path:
            image = self.find_in(os.fspath(directory), name)
            if image is not None:
                return image
        return self._host() if name == HOST else None

    def list(self) -> list[Image]:
        """Every image, hidden ones and `.host` included, each name once."""
        found: dict[str, Image] = {}
        for directory in self._search_path:
            self.list_in(os.fspath(directory), found)
        if HOST not in found:
            found[HOST] = self._host()
        return list(found.values())

    def find_in(self, directory: str, name: str) -> Image | None:
        """The image of this name in one directory."""
        directory = os.path.realpath(directory)
        for entry, suffix, versioned in self.candidates(name):
            image = self.examine(f"{directory}/{entry}", name, suffix, versioned=versioned)
            if image is not None:
                return image
        return None

    def candidates(self, name: str) -> Iterator[tuple[str, str, bool]]:
        """The entries that an image of this name may be, with suffix, and whether it has versions."""
        for version in ("", ".v"):
            for suffix in self._suffixes:
                yield f"{name}{suffix}{version}", suffix, bool(version)

    def list_in(self, directory: str, found: dict[str, Image]) -> None:
        """Add the images of one directory whose names are not known yet."""
        # Of the directory all versions tell where it is, of what is in it those before 258 tell its name.
        directory = os.path.realpath(directory)
        for entry in _entries(directory):
            image = self.entry(f"{directory}/{entry}", entry, found)
            if image is not None:
                found[image.name] = image

    def entry(self, path: str, name: str, known: Container[str]) -> Image | None:
        """The image that a file in an image directory is, unless that name is known."""
        suffix, versioned = "", False
        try:
            is_directory = stat.S_ISDIR(os.stat(path).st_mode)
        except OSError:
            return None
        if is_directory and name.endswith(".v"):
            name, versioned = name.removesuffix(".v"), True
        # A directory may be called NAME.raw; then that is all of its name.
        for candidate in self._suffixes[1:]:
            raw = candidate == ".raw"
            if name.endswith(candidate) and (versioned or raw != is_directory):
                if not raw and not self._is_mstack(path):
                    continue
                name, suffix = name.removesuffix(candidate), candidate
                break
        if name in known or not is_image_name(name):
            return None
        return self.examine(path, name, suffix, versioned=versioned, listed=True)

    def _is_mstack(self, path: str) -> bool:
        """Whether a directory with the suffix is one: before 260 the suffix meant nothing to systemd."""
        try:
            return self._version >= 260 or stacks.read(path, self._search_path) is not None
        except OSError:
            return False

    def examine(
        self, path: str, name: str, suffix: str, *, versioned: bool, listed: bool = False
    ) -> Image | None:
        """What is at a path, as the image of this name: found by a listing, or by its name."""
        try:
            status = os.stat(path)
            if versioned:
                if not stat.S_ISDIR(status.st_mode):
                    return None
                chosen = versions.newest(Path(path), name, suffix)
                if chosen is None:
                    return None
                path, status = os.fspath(chosen), chosen.stat()
            # A directory called NAME.raw is found by a listing alone.
            if not suffix and name.endswith(".raw") and stat.S_ISDIR(status.st_mode) and not listed:
                return None
            # The directory that a path is in is no link, but for versions.
            resolved = self._version < 258 or not (versioned or os.path.islink(path))
            where = path if resolved else os.path.realpath(path)
            return self._image(where, name, suffix, status)
        except OSError:
            return None  # gone, a dangling link, or not ours to see

    def _image(self, where: str, name: str, suffix: str, status: os.stat_result) -> Image | None:
        fixed = self.is_fixed(where, name) or _is_read_only(where)
        mode = status.st_mode
        if stat.S_ISDIR(mode) and where.endswith(stacks.SUFFIX):
            stack = stacks.read(where, self._search_path)
            if stack is not None and not suffix:
                return None  # it has its name without the suffix
            if stack is not None or self._version >= 260:
                return self._stack(where, name, fixed, stack)
        if stat.S_ISDIR(mode) and not suffix:
            if btrfs.is_subvolume(where, status):
                return self._subvolume(where, name, fixed)
            created, immutable = filesystem.look(where)
            return Image(name, where, ImageType.DIRECTORY, fixed or immutable, created)
        if stat.S_ISREG(mode) and suffix == ".raw":
            used, size = status.st_blocks * 512, status.st_size
            created, modified = filesystem.created_usec(where), status.st_mtime_ns // 1000
            fixed = fixed or not mode & 0o222
            return Image(name, where, ImageType.RAW, fixed, created, modified, used, size, used, size)
        if stat.S_ISBLK(mode) and not suffix:
            try:
                size, locked = filesystem.disk(where)
            except OSError:
                size, locked = 0, False
            size = size or UNKNOWN
            fixed = fixed or locked or not mode & 0o222
            return Image(name, where, ImageType.BLOCK, fixed, 0, 0, size, size, size, size)
        return None

    def is_fixed(self, where: str, name: str) -> bool:
        """Whether an image is read-only whatever the file system says."""
        return where.startswith("/usr/") or (self._version >= 259 and name.startswith("."))

    def _stack(self, where: str, name: str, fixed: bool, stack: Stack | None) -> Image:
        created, immutable = filesystem.look(where)
        fixed = fixed or (stack is not None and immutable)
        return Image(name, where, ImageType.MSTACK, fixed, created, stack=stack)

    def _subvolume(self, where: str, name: str, fixed: bool) -> Image:
        with btrfs.open_directory(where) as directory:
            fd = directory.fileno()
            told = Told(btrfs.info(fd))
            with contextlib.suppress(OSError):  # not ours to ask
                number = told.subvolume.id
                told = Subvolumes().read(fd, [number]).get(number, told)
        return self.subvolume(where, name, told, fixed=fixed)

    def subvolume(self, where: str, name: str, told: Told, *, fixed: bool) -> Image:
        """A subvolume as an image. `fixed`: it is read-only whatever it tells itself."""
        info, used, limits = told
        usage = (UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN)
        if used is not None:
            usage = (used[0], limits[0], used[1], limits[1])
        fixed = fixed or info.read_only
        modified = info.changed if self._version >= 258 else 0
        return Image(name, where, ImageType.SUBVOLUME, fixed, info.created, modified, *usage)

    def _host(self) -> Image:
        found = self._image("/", HOST, "", os.stat("/"))
        assert found is not None
        # What the host uses is no quota of an image.
        return replace(found, usage=UNKNOWN, limit=UNKNOWN, usage_exclusive=UNKNOWN, limit_exclusive=UNKNOWN)


def _entries(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        log.warning("Cannot read the image directory %s, ignoring: %s", directory, error)
        return []


def _is_read_only(path: str) -> bool:
    return bool(os.statvfs(path).f_flag & os.ST_RDONLY)
