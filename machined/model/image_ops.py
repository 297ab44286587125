# SPDX-License-Identifier: LGPL-2.1-or-later
"""What can be done to an image: removed, renamed, cloned, made read-only, limited.

Rules, locks and the files that belong to an image are here; the work is that of machined.linux.trees, in a
process of its own. OSError says what stock's systemd-machined says in the same place.
"""

from __future__ import annotations

import errno
import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import Final

from machined.linux import trees
from machined.linux.worker import TooManyError, Workers
from machined.model import image_locks
from machined.model.errors import MachineError, Problem
from machined.model.images import POOL, Image, Images, ImageType
from machined.model.names import is_image_name

log = logging.getLogger(__name__)

_TREES: Final = "machined.linux.trees"
# Where settings of a machine may be, besides the directory of its image.
_SETTINGS: Final = (Path("/etc/systemd/nspawn"), Path("/run/systemd/nspawn"))
_LATER_SETTINGS: Final = Path("/var/lib/systemd/nspawn")
_BESIDE: Final = (".roothash",)
_BESIDE_LATER: Final = (".roothash", ".roothash.p7s", ".usrhash", ".usrhash.p7s", ".verity")

_KINDS: Final = {
    ImageType.DIRECTORY: "tree",
    ImageType.SUBVOLUME: "subvolume",
    ImageType.RAW: "file",
    ImageType.BLOCK: "disk",
    ImageType.MSTACK: "mstack",
}


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def too_many() -> MachineError:
    return MachineError(Problem.LIMITS_EXCEEDED, "Too many ongoing operations.")


class ImageOps:
    """Operations on the images of one host. Long ones are counted by `long`, short ones wait their turn."""

    def __init__(self, images: Images, long: Workers, short: Workers, version: int) -> None:
        self._images = images
        self._long = long
        self._short = short
        self._version = version
        self.pool = POOL

    @property
    def full(self) -> bool:
        """Whether no further long operation may begin."""
        return self._long.full

    async def _begin(self, function: str, *args: object) -> None:
        try:
            await self._long.run(f"{_TREES}:{function}", *args)
        except TooManyError:
            raise too_many() from None

    def unfinished(self) -> list[str]:
        """Paths of unfinished copies in the pool: before anything is served, those of a killed daemon."""
        try:
            return trees.unfinished(os.fspath(self.pool))
        except FileNotFoundError:
            return []
        except OSError as error:
            log.warning("Cannot look for unfinished copies in %s, ignoring: %s", self.pool, error)
            return []

    async def sweep(self, unfinished: list[str]) -> None:
        """Remove what a killed daemon's copies have left, and nothing that was begun since."""
        if not unfinished:
            return
        try:
            failures = await self._short.run(f"{_TREES}:sweep", unfinished)
        except OSError as error:
            failures = [(os.fspath(self.pool), str(error))]
        for path, why in failures:
            log.warning("Cannot remove unfinished copy '%s', ignoring: %s", path, why)

    # -- the files that belong to an image -----------------------------------------------------------------

    def _files(self, image: Image) -> list[tuple[Path, str]]:
        """Directory and suffix of what may lie beside an image under its name."""
        home = Path(image.path).parent
        places = (*_SETTINGS, _LATER_SETTINGS) if self._version >= 258 else _SETTINGS
        settings = dict.fromkeys((*places, home))
        suffixes = _BESIDE_LATER if self._version >= 261 else _BESIDE
        return [(place, ".nspawn") for place in settings] + [(home, suffix) for suffix in suffixes]

    def _pairs(self, image: Image, new_name: str) -> list[tuple[str, str]]:
        return [
            (os.fspath(place / f"{image.name}{suffix}"), os.fspath(place / f"{new_name}{suffix}"))
            for place, suffix in self._files(image)
        ]

    # -- operations ----------------------------------------------------------------------------------------

    def _check_changeable(self, image: Image) -> None:
        if image.is_vendor or image.is_host:
            raise _error(errno.EROFS)

    def _check_new(self, new_name: str) -> None:
        if not is_image_name(new_name):
            raise _error(errno.EINVAL)
        if self._images.find(new_name) is not None:
            raise _error(errno.EEXIST)

    async def remove(self, image: Image) -> None:
        """Raises OSError (EROFS, EBUSY, …), MachineError (LIMITS_EXCEEDED)."""
        self._check_changeable(image)
        with image_locks.image(image, exclusive=True):
            beside = [os.fspath(place / f"{image.name}{suffix}") for place, suffix in self._files(image)]
            if image.type is ImageType.BLOCK and image.path.startswith("/dev/"):
                await self._begin("unlink", beside)
                return
            kind = {"disk": "file", "mstack": "tree"}.get(_KINDS[image.type], _KINDS[image.type])
            await self._begin("remove", image.path, kind, beside)

    async def rename(self, image: Image, new_name: str) -> Image:
        """The image under its new name. Raises OSError (EROFS, EBUSY, EEXIST, …)."""
        if not is_image_name(new_name):
            raise _error(errno.EINVAL)
        self._check_changeable(image)
        with image_locks.image(image, exclusive=True), image_locks.name(new_name):
            self._check_new(new_name)
            if image.type is ImageType.MSTACK:
                raise _error(errno.EOPNOTSUPP)
            if image.type is ImageType.BLOCK and image.path.startswith("/dev/"):
                raise _error(errno.EROFS)
            suffix = ".raw" if image.type is ImageType.RAW else ""
            target = os.fspath(Path(image.path).parent / f"{new_name}{suffix}")
            pairs = self._pairs(image, new_name)
            await self._short.run(f"{_TREES}:rename", image.path, target, pairs)
        return replace(image, name=new_name, path=target)

    async def clone(self, image: Image, new_name: str, read_only: bool) -> None:
        """A copy in the pool. Raises OSError (EEXIST, EBUSY, EOPNOTSUPP, …), MachineError."""
        if not is_image_name(new_name):
            raise _error(errno.EINVAL)
        with image_locks.name(new_name):
            self._check_new(new_name)
            pairs = self._pairs(image, new_name)
            if image.is_tree:
                self._check_source(image)
                target = os.fspath(self.pool / new_name)
                await self._begin("copy_tree", image.path, target, read_only, pairs)
            elif image.type is ImageType.RAW:
                target = os.fspath(self.pool / f"{new_name}.raw")
                await self._begin("copy_image", image.path, target, 0o444 if read_only else 0o644, pairs)
            else:
                raise _error(errno.EOPNOTSUPP)

    def _check_source(self, image: Image) -> None:
        if self._version >= 258:
            return
        if image.is_host:
            raise _error(errno.EADDRNOTAVAIL)
        if image.type is ImageType.DIRECTORY and os.path.islink(image.path):
            raise _error(errno.ELOOP)

    async def mark_read_only(self, image: Image, read_only: bool) -> None:
        """Raises OSError (EROFS, EBUSY, …)."""
        if image.is_vendor or image.is_host or (self._version >= 258 and image.is_hidden):
            raise _error(errno.EROFS)
        with image_locks.image(image, exclusive=True):
            if image.type is ImageType.MSTACK:
                raise _error(errno.EOPNOTSUPP)
            await self._short.run(f"{_TREES}:mark_read_only", image.path, _KINDS[image.type], read_only)

    async def set_limit(self, image: Image, limit: int) -> None:
        """Limit what a subvolume refers to, in bytes. Raises OSError (EROFS, EOPNOTSUPP, ENOTCONN, …)."""
        self._check_changeable(image)
        if image.type is not ImageType.SUBVOLUME:
            raise _error(errno.EOPNOTSUPP)
        await self._short.run(f"{_TREES}:limit_subvolume", image.path, limit)
