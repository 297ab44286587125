# SPDX-License-Identifier: LGPL-2.1-or-later
"""What can be done to an image: removed, renamed, cloned, made read-only, limited.

Rules, locks and the files that belong to an image are here; the work is that of machined.linux.trees, in a
process of its own. OSError says what stock's systemd-machined says in the same place.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from machined.linux import partials
from machined.linux.worker import TooManyError, Workers
from machined.model import credentials, image_locks, rangebook, stacks
from machined.model.errors import MachineError, Problem
from machined.model.firstboot import NOTHING, FirstBoot
from machined.model.images import POOL, Image, Images, ImageType
from machined.model.names import is_image_name, is_machine_name
from machined.model.roots import layers_over
from machined.model.settings import files as settings_files

log = logging.getLogger(__name__)

_TREES: Final = "machined.linux.trees"
_COPY: Final = "machined.linux.imagecopy"
_REMOVAL: Final = "machined.linux.removal"
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


@contextmanager
def _reading(image: Image) -> Iterator[None]:
    """Keep what is copied from being removed or written to meanwhile, unless that is going on already."""
    with ExitStack() as held:
        try:
            held.enter_context(image_locks.image(image, exclusive=False))
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            log.debug("Image '%s' is copied while it is in use", image.name)
        yield


class ImageOps:
    """Operations on the images of one host. Long ones are counted by `long`, short ones wait their turn."""

    def __init__(self, images: Images, long: Workers, short: Workers, version: int) -> None:
        self._images = images
        self._long = long
        self._short = short
        self._version = version
        self.pool = POOL
        self.make_room: Callable[[], Awaitable[None]] | None = None
        """Called before each long operation: a pool that can grow does so, and one on the move refuses."""
        self.let_go: Callable[[tuple[str, ...]], Awaitable[None]] | None = None
        """Called with the layers of a layered image that has been removed, by whichever way."""

    @property
    def full(self) -> bool:
        """Whether no further long operation may begin."""
        return self._long.full

    async def begin(self, operation: str, *args: object) -> Any:
        """A long operation's result. Raises what it raises, MachineError (LIMITS_EXCEEDED, JOB_RUNNING)."""
        if self.make_room is not None:
            await self.make_room()
        try:
            return await self._long.run(operation, *args)
        except TooManyError:
            raise too_many() from None

    async def short(self, operation: str, *args: object) -> None:
        """One that is soon done, in its turn. Raises what it raises."""
        await self._short.run(operation, *args)

    def unfinished(self) -> list[str]:
        """Paths of unfinished copies in the pool: before anything is served, those of a killed daemon."""
        try:
            return partials.unfinished(os.fspath(self.pool))
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
            failures = await self._short.run(f"{_REMOVAL}:sweep", unfinished)
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

    def pairs(self, image: Image, new_name: str) -> list[tuple[str, str]]:
        """What lies beside an image, and what that is called beside one with another name."""
        return [
            (os.fspath(place / f"{image.name}{suffix}"), os.fspath(place / f"{new_name}{suffix}"))
            for place, suffix in self._files(image)
        ]

    # -- operations ----------------------------------------------------------------------------------------

    def _check_changeable(self, image: Image) -> None:
        if image.is_vendor or image.is_host:
            raise _error(errno.EROFS)

    def _check_no_base(self, image: Image) -> None:
        """What others are layers over stays as it is, and where it is."""
        if layers := layers_over(self._images, image):
            names = ", ".join(f"'{layer.name}'" for layer in layers[:5])
            raise OSError(errno.EBUSY, f"Image '{image.name}' is in use: {names} are layers over it")

    def check_writable(self, image: Image) -> None:
        """Raises OSError (EROFS, EBUSY) for what nobody is to write to, whatever its file system says."""
        self._check_changeable(image)
        self._check_no_base(image)

    def check_new(self, new_name: str) -> None:
        """Raises OSError: EINVAL for what no image can be called, EEXIST."""
        if not is_image_name(new_name):
            raise _error(errno.EINVAL)
        if self._images.find(new_name) is not None:
            raise _error(errno.EEXIST)

    @contextmanager
    def taking(self, new_name: str, told: FirstBoot = NOTHING) -> Iterator[None]:
        """Hold a name that an image is to get, which is `told` that. OSError as check_new(), and EBUSY."""
        with image_locks.name(new_name):
            self.check_new(new_name)
            if not is_machine_name(new_name):
                yield
                return
            # In the place of what an image was told that somebody took away without us.
            credentials.store(new_name, told.credentials())
            try:
                yield
            except BaseException:
                credentials.remove(new_name)
                raise

    async def remove(self, image: Image, *, keep_settings: bool = False) -> list[str]:
        """Remove an image and what lies beside it; with `keep_settings` not what the administrator wrote.

        Returns the files that were kept. Raises OSError (EROFS, EBUSY, …), MachineError (LIMITS_EXCEEDED).
        """
        self._check_changeable(image)
        self._check_no_base(image)
        kept = [os.fspath(path) for path in self._administrators(image) if path.exists()]
        kept += map(os.fspath, settings_files.of_machine(image.name))
        try:
            await self._remove(image, kept if keep_settings else [])
        finally:
            # Also when it failed: it may have lost its name by then. (If not it is over its layers still.)
            if image.stack is not None and self.let_go is not None:
                await self.let_go(image.stack.layers)
        if is_machine_name(image.name):
            credentials.remove(image.name)  # no later image of that name is to be told this one's secrets
            rangebook.forget(image.name)
            if not keep_settings:
                settings_files.remove(image.name)
        return kept if keep_settings else []

    def _administrators(self, image: Image) -> list[Path]:
        """The settings of an image that an administrator may have written."""
        return [place / f"{image.name}.nspawn" for place in (_SETTINGS[0], _LATER_SETTINGS)]

    async def _remove(self, image: Image, kept: list[str]) -> None:
        with image_locks.image(image, exclusive=True):
            files = (os.fspath(place / f"{image.name}{suffix}") for place, suffix in self._files(image))
            beside = [file for file in files if file not in kept]
            if image.type is ImageType.BLOCK and image.path.startswith("/dev/"):
                await self.begin(f"{_REMOVAL}:unlink", beside)
                return
            kind = {"disk": "file", "mstack": "tree"}.get(_KINDS[image.type], _KINDS[image.type])
            await self.begin(f"{_REMOVAL}:remove", image.path, kind, beside)

    async def rename(self, image: Image, new_name: str) -> Image:
        """The image under its new name. Raises OSError (EROFS, EBUSY, EEXIST, …)."""
        if not is_image_name(new_name):
            raise _error(errno.EINVAL)
        self._check_changeable(image)
        self._check_no_base(image)
        settings_files.check_rename(image.name, new_name)
        with image_locks.image(image, exclusive=True), image_locks.name(new_name):
            self.check_new(new_name)
            if image.type is ImageType.MSTACK and image.stack is None:
                raise _error(errno.EOPNOTSUPP)
            if image.type is ImageType.BLOCK and image.path.startswith("/dev/"):
                raise _error(errno.EROFS)
            suffix = {ImageType.RAW: ".raw", ImageType.MSTACK: stacks.SUFFIX}.get(image.type, "")
            target = os.fspath(Path(image.path).parent / f"{new_name}{suffix}")
            pairs = self.pairs(image, new_name)
            await self._short.run(f"{_TREES}:rename", image.path, target, pairs)
        if is_machine_name(image.name):
            credentials.rename(image.name, new_name)
            rangebook.rename(image.name, new_name)
            settings_files.rename(image.name, new_name)
        return replace(image, name=new_name, path=target)

    async def clone(
        self,
        image: Image,
        new_name: str,
        read_only: bool,
        *,
        fresh: bool = False,
        reflink: bool = True,
        told: FirstBoot = NOTHING,
    ) -> None:
        """A copy in the pool, with `fresh` one that gets an identity of its own at its first boot.

        Without `reflink` it shares nothing with the original. Raises OSError (EEXIST, EBUSY, EOPNOTSUPP, …),
        MachineError.
        """
        if not is_image_name(new_name):
            raise _error(errno.EINVAL)
        if image.is_tree:
            self._check_source(image)
        with self.taking(new_name, told), _reading(image):
            pairs = self.pairs(image, new_name)
            share = "auto" if reflink else "never"
            if image.is_tree:
                target, settings = os.fspath(self.pool / new_name), told.settings()
                await self.begin(
                    f"{_COPY}:copy_tree", image.path, target, read_only, pairs, share, fresh, settings
                )
            elif image.type is ImageType.RAW:
                target = os.fspath(self.pool / f"{new_name}.raw")
                await self.begin(
                    f"{_COPY}:copy_image",
                    image.path,
                    target,
                    0o444 if read_only else 0o644,
                    pairs,
                    share,
                    fresh,
                )
            else:
                raise _error(errno.EOPNOTSUPP)

    async def flat_copy(
        self, image: Image, new_name: str, read_only: bool, fresh: bool, told: FirstBoot = NOTHING
    ) -> None:
        """A plain copy in the pool of all that is in a layered image. Raises OSError, MachineError."""
        assert image.stack is not None
        with self.taking(new_name, told), _reading(image):
            target = os.fspath(self.pool / new_name)
            layers, settings = list(image.stack.trees), told.settings()
            pairs = self.pairs(image, new_name)
            await self.begin(
                "machined.linux.layering:flat_copy", layers, target, read_only, fresh, pairs, settings
            )

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
        if not read_only:
            self._check_no_base(image)
        with image_locks.image(image, exclusive=True):
            if image.type is ImageType.MSTACK and image.stack is None:
                raise _error(errno.EOPNOTSUPP)
            kind = "tree" if image.stack is not None else _KINDS[image.type]
            await self._short.run(f"{_TREES}:mark_read_only", image.path, kind, read_only)

    async def set_limit(self, image: Image, limit: int) -> None:
        """Limit what a subvolume refers to, in bytes. Raises OSError (EROFS, EOPNOTSUPP, ENOTCONN, …)."""
        self._check_changeable(image)
        if image.type is not ImageType.SUBVOLUME:
            raise _error(errno.EOPNOTSUPP)
        await self._short.run(f"{_TREES}:limit_subvolume", image.path, limit)
