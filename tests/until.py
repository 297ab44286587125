# SPDX-License-Identifier: LGPL-2.1-or-later
"""Waiting for something that nothing tells of: what the kernel does, and what another loop callback does."""

from __future__ import annotations

import asyncio
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
