# SPDX-License-Identifier: LGPL-2.1-or-later
"""Why a unit failed, in the words of the program that failed: the end of its journal."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any, Final

log = logging.getLogger(__name__)

# Seconds that the journal may take; the message goes out without it otherwise.
TIMEOUT: Final = 3.0
MAX_LENGTH: Final = 400
# Records of others that are looked through at most.
MAX_RECORDS: Final = 200


async def last_words(unit: str, since_usec: int, *, program: str = "systemd-nspawn") -> str:
    """The last line of a program in this unit since then (µs realtime), empty when there is none."""
    # What the program wrote as it died may still be on its way into the journal.
    await _output("journalctl", "--sync")
    known = await _records(since_usec, 1, f"_SYSTEMD_UNIT={unit}", f"SYSLOG_IDENTIFIER={program}")
    line = _text(known[-1]) if known else await _said_by_a_dead_process(since_usec, program)
    return "".join(c if c.isprintable() else " " for c in line.strip())[:MAX_LENGTH].rstrip(".")


async def _said_by_a_dead_process(since_usec: int, program: str) -> str:
    """The last line of no unit. Empty if several processes have such lines, for it may be another's.

    journald asks the kernel for a sender's unit when it reads what was sent: who says why he fails may be
    dead by then. Any user may say something in this program's name, but only root as root.
    """
    match = (f"SYSLOG_IDENTIFIER={program}", "_UID=0", "_TRANSPORT=journal", "_TRANSPORT=syslog")
    records = await _records(since_usec, MAX_RECORDS, *match)
    lost = [record for record in records if "_SYSTEMD_UNIT" not in record]
    return _text(lost[-1]) if len({str(record.get("_PID")) for record in lost}) == 1 else ""


async def _records(since_usec: int, count: int, *match: str) -> list[dict[str, Any]]:
    """The last records since then, oldest first."""
    output = await _output(
        "journalctl", "--quiet", "--no-pager", "--output=json", f"--since=@{since_usec / 1e6:.6f}",
        "--output-fields=MESSAGE,_PID,_SYSTEMD_UNIT", f"--lines={count}", *match,
    )  # fmt: skip
    found = []
    for line in output.splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            log.debug("Not a record of the journal, ignoring: %r", line[:MAX_LENGTH])
    return found


def _text(record: dict[str, Any]) -> str:
    """The message: what is no UTF-8 comes as a list of bytes, and what is too long as null."""
    message = record.get("MESSAGE")
    if isinstance(message, list):
        return bytes(b for b in message if isinstance(b, int) and 0 <= b < 256).decode(errors="replace")
    return message if isinstance(message, str) else ""


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
