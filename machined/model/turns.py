# SPDX-License-Identifier: LGPL-2.1-or-later
"""How many machines are asked something at the same time: those of one user wait for each other alone."""

from __future__ import annotations

import asyncio
import weakref
from typing import Final

# Of root's machines; more only take turns on the processors.
CONCURRENCY: Final = 8
# Of the machines of another user, who may have a thousand that all hang whoever asks.
FEW: Final = 2


class Turns:
    """A semaphore for each user who has machines."""

    def __init__(self) -> None:
        self._of_user: weakref.WeakValueDictionary[int, asyncio.Semaphore] = weakref.WeakValueDictionary()

    def of(self, uid: int) -> asyncio.Semaphore:
        """What to hold while a machine of this user is asked."""
        found = self._of_user.get(uid)
        if found is None:
            found = self._of_user[uid] = asyncio.Semaphore(FEW if uid else CONCURRENCY)
        return found
