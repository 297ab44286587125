# SPDX-License-Identifier: LGPL-2.1-or-later
"""Clones that cost next to nothing where the file system allows it, and layers where it does not.

What machine1 calls a clone is a copy, whatever it costs: other tools look for a tree under its path. This is
what our own interface offers.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from enum import StrEnum
from pathlib import Path
from typing import Final

from machined.linux import btrfs, filesystem, mstack, statx
from machined.model import image_locks, stacks
from machined.model.errors import MachineError, Problem
from machined.model.finishing import finished
from machined.model.firstboot import NOTHING, FirstBoot
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
        operations.let_go = self.unprotect
        # How many layers are being made over a tree.
        self._wanted: Counter[str] = Counter()
        self._protecting = asyncio.Lock()

    async def clone(
        self,
        image: Image,
        new_name: str,
        mode: CloneMode,
        *,
        read_only: bool = False,
        fresh: bool = True,
        told: FirstBoot = NOTHING,
    ) -> Cost:
        """A clone in the pool, with an identity of its own at its first boot if it is to be `fresh`.

        What it is `told` is in it before it gets its name.
        Raises MachineError, OSError (EEXIST, EBUSY, …).
        """
        how = self._choose(image, mode)
        if how is Cost.LAYER:
            await self._layer(image, new_name, read_only, fresh, told)
        elif image.stack is not None:
            await self._operations.flat_copy(image, new_name, read_only, fresh, told)
        else:
            await self._operations.clone(
                image, new_name, read_only, fresh=fresh, reflink=how is not Cost.COPY, told=told
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

    async def _layer(
        self, image: Image, new_name: str, read_only: bool, fresh: bool, told: FirstBoot
    ) -> None:
        stack = image.stack
        with ExitStack() as held:
            held.enter_context(self._operations.taking(new_name, told))
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
            layers = stack.layers if stack is not None else (self._base(image),)
            written = stack.written if stack is not None else ""
            pairs = self._operations.pairs(image, new_name)
            # While the lock keeps everybody away: nobody is to find the base writable below its layer.
            async with self._protected(image, layers):
                await self._operations.begin(
                    f"{_LAYERING}:create", target, list(layers), written, fresh, pairs, told.settings()
                )
        if read_only and (made := self._images.find(new_name)) is not None:
            await self._operations.mark_read_only(made, True)

    def _base(self, image: Image) -> str:
        """The tree of an image. Raises MachineError when it would be found below no layer."""
        tree = os.path.realpath(image.path)
        if not stacks.is_tree_of_image(tree, self._images.search_path):
            raise MachineError(
                Problem.NOT_SUPPORTED,
                f"Image '{image.name}' can have no layers over it: its tree, '{tree}', is not where images "
                f"are. 'machinectl clone --copy' makes a full copy.",
            )
        return tree

    @asynccontextmanager
    async def _protected(self, image: Image, layers: tuple[str, ...]) -> AsyncIterator[None]:
        """A block that makes a new layer over these trees, which are an image's own or those below it.

        Nobody is to write to what others are layers over, not even who knows nothing of layers.
        """
        self._wanted.update(layers)
        try:
            if image.stack is None and not image.is_vendor:
                await self._protect(layers[0])
            yield
        finally:
            self._wanted -= Counter(layers)
            # As for a layer that has gone, should it not be there.
            await finished(self.unprotect(layers))

    async def _protect(self, tree: str) -> None:
        async with self._protecting:
            try:
                await self._operations.short(f"{_LAYERING}:protect", tree, True)
            except OSError as error:
                log.warning("Tree '%s' cannot be made read-only for the layers over it: %s", tree, error)

    async def unprotect(self, layers: tuple[str, ...]) -> None:
        """Make writable again what was made read-only for a layer that has gone, if that was the last."""
        for layer in layers:
            base = Image(os.path.basename(layer), layer, ImageType.DIRECTORY, read_only=True)
            # Whoever wants the tree for a layer meanwhile waits, and protects it anew.
            async with self._protecting:
                if self._wanted[layer] > 0 or layers_over(self._images, base):
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
            await self._operations.begin(
                f"{_LAYERING}:flatten", image.path, list(stack.layers), os.fspath(target)
            )
        await self.unprotect(stack.layers)

    def half_flat(self) -> list[str]:
        """Stacks that were about to be replaced by flat trees when the daemon was killed."""
        pool = self._operations.pool
        return [os.fspath(marker.parent) for marker in pool.glob(f"*{stacks.SUFFIX}/{mstack.FLATTENED}")]

    async def finish(self, half_flat: list[str]) -> None:
        """Mend what a killed daemon left: stacks whose flat tree is there, bases that have no layers."""
        for stack in half_flat:
            target = stack.removesuffix(stacks.SUFFIX)
            image = Image(os.path.basename(target), stack, ImageType.MSTACK, read_only=False)
            try:
                with image_locks.image(image, exclusive=True):
                    await self._operations.short(f"{_LAYERING}:finish", stack, target)
            except OSError as error:
                log.warning("Cannot take away '%s', which is flat by now, ignoring: %s", stack, error)
        await self.unprotect(tuple(self._bases()))

    def _bases(self) -> Iterator[str]:
        """The trees that are read-only for layers, whether there are any or not."""
        for image in self._images.list():
            if image.is_tree and image.read_only and not image.is_host:
                tree = os.path.realpath(image.path)
                if mstack.is_base(tree):
                    yield tree
