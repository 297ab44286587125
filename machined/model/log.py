# SPDX-License-Identifier: LGPL-2.1-or-later
"""Journal messages with an identity, which monitoring and the message catalog key on (sd-messages.h)."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from machined.linux import sd

MACHINE_START: Final = "24d8d4452573402496068381a6312df2"
MACHINE_STOP: Final = "58432bd3bace477cb514b56381b8a758"

# syslog(3): LOG_AUTH and LOG_INFO, as systemd-machined says it.
AUTH: Final = 4
INFO: Final = 6
# Whose word it is; journalctl -t asks for that.
IDENTIFIER: Final = "systemd-machined"
# Our own: a job on a machine ended (fields NAME=, VERB=, RESULT=).
JOB_ENDED: Final = "6d0f3a1be4c94d6f9c2a7b5e8f10c3d4"


def machine_started(name: str, leader: int) -> None:
    _say(f"New machine {name}.", MESSAGE_ID=MACHINE_START, NAME=name, LEADER=leader)


def machine_stopped(name: str, leader: int) -> None:
    _say(f"Machine {name} terminated.", MESSAGE_ID=MACHINE_STOP, NAME=name, LEADER=leader)


def job_ended(name: str, verb: str, result: str, text: str) -> None:
    message = f"Machine {name}: {verb} {result}." + (f" {text}" if text else "")
    _say(message, MESSAGE_ID=JOB_ENDED, NAME=name, VERB=verb, RESULT=result)


# Seconds that a record may wait: the journal can be slow, and whoever registers a machine waits for us.
_DELAY: Final = 0.002
_waiting: deque[tuple[str, dict[str, object]]] = deque()


def _say(message: str, **fields: object) -> None:
    _waiting.append((message, fields))
    if len(_waiting) > 1:
        return  # whoever was first has seen to it
    try:
        asyncio.get_running_loop().call_later(_DELAY, flush)
    except RuntimeError:
        flush()


def flush() -> None:
    """Write what waits, in order. Also for the end, when no loop turns any more."""
    while _waiting:
        message, fields = _waiting.popleft()
        sd.journal(message, priority=INFO, facility=AUTH, SYSLOG_IDENTIFIER=IDENTIFIER, **fields)
