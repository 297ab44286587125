# SPDX-License-Identifier: LGPL-2.1-or-later
"""`wait`: until machines are in a state. A verb of ours: systemd's manager has no states to wait for."""

from __future__ import annotations

import time

from .bus import OURS, Call
from .context import Context
from .errors import BusError, CommandError
from .output import message


class _Wait(Call):
    """A wait of so many microseconds (0: no limit) that goes on where the daemon's end has cut it off."""

    __slots__ = ("_begun",)

    def __init__(self, name: str, condition: str, usec: int) -> None:
        super().__init__(OURS, "WaitMachine", "sst", name, condition, usec, reply="s")
        self._begun = time.monotonic()

    def again(self) -> Call:
        name, condition, usec = self.arguments
        passed = int((time.monotonic() - self._begun) * 1_000_000)
        return _Wait(name, condition, usec and max(1, usec - passed))


def wait(context: Context, arguments: list[str]) -> int:
    """Wait for all machines at once; each that does not get there is named."""
    options = context.options
    limit = options.timeout if options.timeout < float("inf") else 0.0
    usec = int(limit * 1_000_000)
    calls = [_Wait(name, options.condition, usec) for name in arguments]
    results = context.bus().call_all(calls, timeout=None)
    status = 0
    for name, result in zip(arguments, results, strict=True):
        if not isinstance(result, BusError):
            continue
        if result.not_there:
            raise CommandError(
                "'wait' needs machined's own manager, but systemd's is running.",
                "'systemctl status systemd-machined.service' shows which one it is.",
            )
        failure = context.failure(result, f"Waiting for machine '{name}' to be {options.condition}")
        message(failure.message)
        if failure.hint:
            message(failure.hint)
        status = 1
    return status
