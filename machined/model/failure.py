# SPDX-License-Identifier: LGPL-2.1-or-later
"""Why a unit failed, in the words of the program that failed: the end of its journal."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

log = logging.getLogger(__name__)

# Seconds that the journal may take; the message goes out without it otherwise.
TIMEOUT: Final = 3.0
MAX_LENGTH: Final = 400


async def last_words(unit: str, since_usec: int) -> str:
    """The last line of systemd-nspawn in this unit since then (µs realtime), empty when there is none."""
    command = [
        "journalctl",
        "--quiet",
        "--no-pager",
        "--output=cat",
        "--lines=1",
        f"--since=@{since_usec / 1e6:.6f}",
    ]
    match = [f"_SYSTEMD_UNIT={unit}", "_COMM=systemd-nspawn"]
    try:
        child = await asyncio.create_subprocess_exec(
            *command,
            *match,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
    except OSError as error:
        log.debug("Cannot read the journal of '%s', ignoring: %s", unit, error)
        return ""
    try:
        async with asyncio.timeout(TIMEOUT):
            output, _ = await child.communicate()
    except BaseException as error:
        child.kill()
        await child.wait()
        if isinstance(error, TimeoutError):
            return ""
        raise
    line = output.decode(errors="replace").strip()
    return "".join(c if c.isprintable() else " " for c in line)[:MAX_LENGTH].rstrip(".")
