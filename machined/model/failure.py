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


async def last_words(unit: str, since_usec: int, *, program: str = "systemd-nspawn") -> str:
    """The last line of a program in this unit since then (µs realtime), empty when there is none."""
    # What the program wrote as it died may still be on its way into the journal.
    await _output("journalctl", "--sync")
    since = f"--since=@{since_usec / 1e6:.6f}"
    match = [f"_SYSTEMD_UNIT={unit}", f"SYSLOG_IDENTIFIER={program}"]
    output = await _output("journalctl", "--quiet", "--no-pager", "--output=cat", "--lines=1", since, *match)
    line = output.decode(errors="replace").strip()
    return "".join(c if c.isprintable() else " " for c in line)[:MAX_LENGTH].rstrip(".")


async def _output(*command: str) -> bytes:
    """What a program says within the time limit; nothing when it cannot."""
    pipe, null = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
    try:
        child = await asyncio.create_subprocess_exec(*command, stdin=null, stdout=pipe, stderr=null)
    except OSError as error:
        log.debug("Cannot run '%s', ignoring: %s", command[0], error)
        return b""
    try:
        async with asyncio.timeout(TIMEOUT):
            output, _ = await child.communicate()
    except BaseException as error:
        child.kill()
        await child.wait()
        if isinstance(error, TimeoutError):
            return b""
        raise
    return output
