# SPDX-License-Identifier: LGPL-2.1-or-later
"""Waiting for something that nothing tells of, and comparing what may change while one looks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

PATIENCE = 10.0


async def until(condition: Callable[[], bool | Awaitable[bool]]) -> None:
    """Return when the condition holds. Raises TimeoutError."""
    async with asyncio.timeout(PATIENCE):
        while True:
            holds = condition()
            if holds if isinstance(holds, bool) else await holds:
                return
            await asyncio.sleep(0.001)


def agree(ask: Callable[[], tuple[object, object]], said: str = "") -> None:
    """Fail unless both answers are the same. What they are about may change between the two, so that what
    differs is asked for again, for some time: only what goes on differing is wrong."""
    deadline = time.monotonic() + PATIENCE
    while (both := ask())[0] != both[1] and time.monotonic() < deadline:
        time.sleep(0.02)
    assert both[0] == both[1], said
