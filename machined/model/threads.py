# SPDX-License-Identifier: LGPL-2.1-or-later
"""Blocking work in threads, of which something is left when it is left alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar, TypeVarTuple, Unpack

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")


async def to_the_end(work: Callable[[Unpack[_Ts]], _T], *args: *_Ts) -> _T:
    """What it returns.

    A caller who is cancelled meanwhile hears of it when the work has ended: no thread can be cancelled, and
    what it has made is there then, to be taken away.
    """
    task = asyncio.ensure_future(asyncio.to_thread(work, *args))
    cancelled = False
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            cancelled = True
    if cancelled:
        task.exception()  # nobody will ask for it
        raise asyncio.CancelledError
    return task.result()
