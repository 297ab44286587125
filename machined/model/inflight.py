# SPDX-License-Identifier: LGPL-2.1-or-later
"""Long operations under way: how many there may be, and their end when what they work on goes away."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Hashable
from typing import Any, Final, TypeVar

# systemd-machined's limit, over all callers.
MAX_OPERATIONS: Final = 64

T = TypeVar("T")


class InFlight:
    """Operations by what they work on (a machine, an image). Those who wait for one own its result."""

    def __init__(self, limit: int = MAX_OPERATIONS) -> None:
        self._limit = limit
        self._tasks: dict[asyncio.Task[Any], Hashable] = {}

    @property
    def full(self) -> bool:
        return len(self._tasks) >= self._limit

    def __len__(self) -> int:
        return len(self._tasks)

    async def run(self, subject: Hashable, operation: Coroutine[Any, Any, T]) -> T | None:
        """The operation's result, or None when it was ended by end_of(). Look at `full` before.

        Who waits may be cancelled, which ends the operation as well.
        """
        task = asyncio.ensure_future(operation)
        self._tasks[task] = subject
        task.add_done_callback(self._tasks.pop)
        try:
            return await task
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if current is not None and current.cancelling():
                raise
            return None

    def end_of(self, subject: Hashable) -> None:
        """End the operations of one subject."""
        for task, of in list(self._tasks.items()):
            if of is subject:
                task.cancel()

    async def close(self) -> None:
        """End all of them and wait until they have."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
