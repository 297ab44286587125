# SPDX-License-Identifier: LGPL-2.1-or-later
"""Clones that cost next to nothing where the file system allows it, and layers where it does not.

What machine1 calls a clone is a copy, whatever it costs: other tools look for a tree under its path. This is
what our own interface offers.
"""

from __future__ import annotations

import errno
import logging
import os
from contextlib import ExitStack
from enum import StrEnum
from pathlib import Path
from typing import Final

from machined.linux import btrfs, filesystem, mstack, statx
from machined.model import image_locks, stacks
from machined.model.errors import MachineError, Problem
from machined.model.image_ops import ImageOps
from machined.model.images import Image, Images, ImageType
from machined.model.roots import layers_over

log = logging.getLogger(__name__)

_LAYERING: Final = "machined.linux.layering"


class CloneMode(StrEnum):
    """What is wished for."""

    AUTO = "auto"
    COPY = "copy"
    LAYER = "layer"


class Cost(StrEnum):
    """What became of it."""

    SNAPSHOT = "snapshot"
    REFLINK = "reflink"
    LAYER = "layer"
    COPY = "copy"


class Cloning:
    """Clones, and the way back from layers to plain trees."""

    def __init__(self, images: Images, operations: ImageOps) -> None:
        self._images = images
        self._operations = operations

    async def clone(
        self, image: Image, new_name: str, mode: CloneMode, *, read_only: bool = False, fresh: bool = True
    ) -> Cost:
        """A clone in the pool, with an identity of its own at its first boot if it is to be `fresh`.

        Raises MachineError, OSError (EEXIST, EBUSY, …).
        """
        how = self._choose(image, mode)
        if how is Cost.LAYER:
            await self._layer(image, new_name, read_only, fresh)
        elif image.stack is not None:
            await self._operations.flat_copy(image, new_name, read_only, fresh)
        else:
            await self._operations.clone(
                image, new_name, read_only, fresh=fresh, reflink=how is not Cost.COPY
            )
        return how

    def _choose(self, image: Image, mode: CloneMode) -> Cost:
        if not image.is_tree and image.stack is None:
            if mode is CloneMode.LAYER:
                raise MachineError(
                    Problem.NOT_SUPPORTED,
                    f"Image '{image.name}' is of type '{image.type}': only trees can have layers over them.",
                )
            shares = mode is CloneMode.AUTO and self._shares_blocks(image)
            return Cost.REFLINK if shares else Cost.COPY
        if mode is not CloneMode.AUTO:
            return Cost.LAYER if mode is CloneMode.LAYER else Cost.COPY
        if image.stack is not None:
            return Cost.LAYER
        same = self._is_in_pool(image)
        if same and image.type is ImageType.SUBVOLUME:
            return Cost.SNAPSHOT
        if same and self._shares_blocks(image):
            return Cost.REFLINK
        return Cost.COPY if image.is_host else Cost.LAYER

    def _is_in_pool(self, image: Image) -> bool:
        """Whether an image lies on the file system of the pool."""
        pool = self._operations.pool
        if statx.is_btrfs(os.fspath(pool)):  # where each subvolume has a device number of its own
            return statx.is_btrfs(image.path) and btrfs.file_system_id(image.path) == btrfs.file_system_id(
                os.fspath(pool)
            )
        return Path(image.path).stat().st_dev == pool.stat().st_dev

    def _shares_blocks(self, image: Image) -> bool:
        return self._is_in_pool(image) and filesystem.supports_reflink(os.fspath(self._operations.pool))

    async def _layer(self, image: Image, new_name: str, read_only: bool, fresh: bool) -> None:
        stack = image.stack
        with ExitStack() as held:
            held.enter_context(image_locks.name(new_name))
            self._operations.check_new(new_name)
            try:
                held.enter_context(image_locks.image(image, exclusive=False))
            except OSError as error:
                if error.errno != errno.EBUSY:
                    raise
                raise MachineError(
                    Problem.IMAGE_BUSY,
                    f"Image '{image.name}' is in use, so there can be no layer over it. Power off what runs "
                    f"on it, or have a full copy of it as it is now by 'machinectl clone --copy'.",
                ) from None
            target = os.fspath(self._operations.pool / f"{new_name}{stacks.SUFFIX}")
            layers = stack.layers if stack is not None else (image.path,)
            written = stack.written if stack is not None else ""
            pairs = self._operations.pairs(image, new_name)
            await self._operations.begin(f"{_LAYERING}:create", target, list(layers), written, fresh, pairs)
        if stack is None:
            await self._protect(image)
        if read_only and (made := self._images.find(new_name)) is not None:
            await self._operations.mark_read_only(made, True)

    async def _protect(self, image: Image) -> None:
        """Nobody is to write to what others are layers over, not even those who know nothing of layers."""
        if image.read_only or image.is_host or image.is_vendor:
            return
        try:
            await self._operations.short(f"{_LAYERING}:protect", image.path, True)
        except OSError as error:
            log.warning("Image '%s' cannot be made read-only for the layers over it: %s", image.name, error)

    async def unprotect(self, layers: tuple[str, ...]) -> None:
        """Make writable again what was made read-only for a layer that has gone, if that was the last."""
        for layer in layers:
            base = Image(os.path.basename(layer), layer, ImageType.DIRECTORY, read_only=True)
            if layers_over(self._images, base):
                continue
            try:
                await self._operations.short(f"{_LAYERING}:protect", layer, False)
            except FileNotFoundError:
                log.debug("Tree '%s' has gone before the last layer over it", layer)
            except OSError as error:
                log.warning("Tree '%s' cannot be made writable again: %s", layer, error)

    async def flatten(self, image: Image) -> None:
        """Make a plain tree of a layered image, under its name. Raises MachineError, OSError (EBUSY, …)."""
        stack = image.stack
        if stack is None:
            raise MachineError(
                Problem.INVALID_ARGS, f"Image '{image.name}' has no layers: it is of type '{image.type}'."
            )
        target = Path(image.path).parent / image.name
        with image_locks.image(image, exclusive=True), image_locks.name(image.name):
            if target.exists():
                raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))
            await self._operations.begin(
                f"{_LAYERING}:flatten", image.path, list(stack.layers), os.fspath(target)
            )
        await self.unprotect(stack.layers)

    def half_flat(self) -> list[str]:
        """Stacks that were about to be replaced by flat trees when the daemon was killed."""
        pool = self._operations.pool
        return [os.fspath(marker.parent) for marker in pool.glob(f"*{stacks.SUFFIX}/{mstack.FLATTENED}")]

    async def finish(self, half_flat: list[str]) -> None:
        """Take those away whose flat tree is there, and let the others be."""
        for stack in half_flat:
            target = stack.removesuffix(stacks.SUFFIX)
            try:
                await self._operations.short(f"{_LAYERING}:finish", stack, target)
            except OSError as error:
                log.warning("Cannot take away '%s', which is flat by now, ignoring: %s", stack, error)

    async def remove(self, image: Image, *, keep_settings: bool) -> list[str]:
        """As ImageOps.remove(); the settings that were kept. Raises OSError, MachineError."""
        kept = await self._operations.remove(image, keep_settings=keep_settings)
        if image.stack is not None:
            await self.unprotect(image.stack.layers)
        return kept
