# SPDX-License-Identifier: LGPL-2.1-or-later
"""Work that has to be done to its end, in a thread or not: something is left where it is left alone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar, TypeVarTuple

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")


async def finished(work: Awaitable[_T]) -> _T:
    """The result of what has to be done to its end, whoever is cancelled meanwhile; raised afterwards."""
    task = asyncio.ensure_future(work)
    cancelled = False
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            cancelled = True
    if cancelled:
        if not task.cancelled():
            task.exception()  # nobody will ask for it
        raise asyncio.CancelledError
    return task.result()


async def to_the_end(work: Callable[[*_Ts], _T], *args: *_Ts) -> _T:
    """What a function returns in a thread. None can be cancelled: what it makes is there when we return."""
    return await finished(asyncio.to_thread(work, *args))
