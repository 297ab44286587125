# SPDX-License-Identifier: LGPL-2.1-or-later
"""The pool, /var/lib/machines: how much is in it, how much may be, and what in it can go."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from enum import StrEnum

from machined.linux import btrfs
from machined.linux.worker import Workers
from machined.model.errors import not_supported
from machined.model.image_ops import ImageOps, too_many
from machined.model.images import UNKNOWN, Image, Images
from machined.model.poolservice import PoolService
from machined.model.sweeping import Sweeping

MAX_SIZE = 2**63 - 1


class CleanMode(StrEnum):
    HIDDEN = "hidden"
    ALL = "all"


class CleanError(OSError):
    """The removal of an image that ended a cleaning; errno says why, `image` which."""

    def __init__(self, number: int, image: str) -> None:
        super().__init__(number, f"Failed to remove image '{image}': {os.strerror(number)}")
        self.image = image


@dataclass(frozen=True, slots=True)
class Usage:
    """Bytes; UNKNOWN where there are no quotas, or no limit."""

    used: int = UNKNOWN
    limit: int = UNKNOWN


def is_size(value: int) -> bool:
    """Whether a limit is one that the file system can have; UNKNOWN takes limits away."""
    return 0 <= value <= MAX_SIZE or value == UNKNOWN


class Pool:
    """The pool of one host."""

    def __init__(
        self, images: Images, operations: ImageOps, short: Workers, file: PoolService, sweeping: Sweeping
    ) -> None:
        self._images = images
        self._operations = operations
        self._short = short
        self._file = file
        self._sweeping = sweeping

    def usage(self) -> Usage:
        """Asked of the file system; it does not wait."""
        try:
            with btrfs.open_directory(os.fspath(self._operations.pool)) as directory:
                quota = btrfs.subtree_quota(directory.fileno())
        except OSError:
            return Usage()
        return Usage(quota.referenced, quota.referenced_max)

    async def set_limit(self, limit: int) -> None:
        """Limit all images together, in bytes; a pool in a file is made as large as that first.

        Raises MachineError (NOT_SUPPORTED, LIMITS_EXCEEDED when the file cannot be), OSError.
        """
        if limit != UNKNOWN:
            await self._file.fit(limit)
        try:
            await self._short.run("machined.linux.trees:limit_pool", os.fspath(self._operations.pool), limit)
        except OSError as error:
            if error.errno in {errno.ENOTTY, errno.EOPNOTSUPP, errno.ENOSYS, errno.EAFNOSUPPORT}:
                raise not_supported("Quota is only supported on btrfs.") from None
            raise

    async def clean(self, mode: CleanMode) -> list[Image]:
        """Remove images that are not in use; those removed. Raises CleanError, MachineError."""
        if self._operations.full:
            raise too_many()
        await self._sweeping.sweep()
        removed = []
        for image in self._images.list():
            if image.is_vendor or image.is_host or (mode is CleanMode.HIDDEN and not image.is_hidden):
                continue
            try:
                await self._operations.remove(image)
            except OSError as error:
                if error.errno == errno.EBUSY:
                    continue
                raise CleanError(error.errno or errno.EIO, image.name) from error
            removed.append(image)
        return removed
