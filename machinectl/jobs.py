# SPDX-License-Identifier: LGPL-2.1-or-later
"""Waiting for jobs: those of our manager, and those of systemd's where it is all there is."""

from __future__ import annotations

import time
from collections.abc import Iterator

from .bus import BUS_DRIVER, Bus, Target
from .errors import CommandError


class JobWaiter:
    """Notes the jobs of a manager that end. To be made before the first job is asked for.

    A job can have ended before the answer that names it is here, so every end is kept.
    """

    def __init__(self, bus: Bus, manager: Target) -> None:
        self._bus = bus
        self._manager = manager
        self._removed = bus.subscribe(manager, "JobRemoved")
        self._owner = bus.subscribe(BUS_DRIVER, "NameOwnerChanged", arg0=manager.destination)

    def wait(self, jobs: dict[str, str], timeout: float) -> Iterator[tuple[str, tuple[object, ...]]]:
        """(machine, body of JobRemoved) as each job ends; `jobs`: object path → machine; `timeout` 0 = no
        limit.

        Raises CommandError when the time is over or the manager went away.
        """
        deadline = time.monotonic() + timeout if 0 < timeout < float("inf") else None
        left = dict(jobs)
        while left:
            while self._removed.queue:
                signal = self._removed.queue.popleft()
                if not self._bus.believes(signal, self._manager) or len(signal.body) < 4:
                    continue
                if (machine := left.pop(signal.body[1], None)) is not None:
                    yield machine, signal.body
            if not left:
                return
            self._check_manager(left)
            remaining = None if deadline is None else deadline - time.monotonic()
            if (remaining is not None and remaining <= 0) or not self._bus.process(remaining):
                names = ", ".join(f"'{name}'" for name in left.values())
                raise CommandError(
                    f"Not done after {timeout:g} s: {names}. It goes on without us.",
                    "'machinectl status NAME' shows how far it is.",
                )

    def _check_manager(self, left: dict[str, str]) -> None:
        while self._owner.queue:
            signal = self._owner.queue.popleft()
            known = self._bus.owners.get(self._manager.destination)
            if self._bus.believes(signal, BUS_DRIVER) and known and signal.body[1] == known:
                names = ", ".join(f"'{name}'" for name in left.values())
                raise CommandError(
                    f"The machine manager ended while we waited for {names}: the outcome is not known.",
                    "'systemctl status systemd-machined.service' tells why, 'machinectl list' what runs.",
                )
