# SPDX-License-Identifier: LGPL-2.1-or-later
"""Roots of machines without mounts."""

from __future__ import annotations

import asyncio
import os
import shutil
from typing import Any

from machined.linux import mstack
from machined.linux.locks import holder_conflict
from machined.model import rootrecord
from machined.model.images import Image
from tests.fakes.world import World

MOUNT = "machined.linux.layering:mount"


class Operations:
    """Workers that do in this process what they are told, but for mounts, which tests cannot have."""

    def __init__(self) -> None:
        self.done: list[tuple[Any, ...]] = []
        self.fails: OSError | None = None

    async def run(self, operation: str, *arguments: Any) -> None:
        self.done.append((operation, *arguments))
        await asyncio.sleep(0)
        if operation == MOUNT:
            if self.fails is not None:
                raise self.fails
            os.makedirs(arguments[0])
            if arguments[4]:
                mstack.make_writable(arguments[2], arguments[1][0])
        else:
            shutil.rmtree(arguments[0])


def found(host: World, name: str) -> Image:
    image = host.core.images.find(name)
    assert image is not None
    return image


def locked(image: Image, *, by_readers: bool = False) -> bool:
    return any(holder_conflict(os.fspath(lock), exclusive=by_readers) for lock in image.lock_paths())


def scratch(host: World) -> list[str]:
    return [entry for entry in os.listdir(host.sandbox.pool) if entry.startswith(rootrecord.SCRATCH)]
