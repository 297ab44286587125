# SPDX-License-Identifier: LGPL-2.1-or-later
"""nftables by nft(8), in its JSON (libnftables-json(5)): a list of commands is done as a whole or not at
all.

Both functions block: call them in a thread.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Sequence
from typing import Any

from machined.linux.commands import run

Command = dict[str, Any]


def apply(commands: Sequence[Command]) -> None:
    """Do these. Raises OSError with nft's first complaint, NotInstalledError, TimeoutError."""
    if commands:
        run("nft", "--json", "-f", "-", text=json.dumps({"nftables": list(commands)}))


def ruleset() -> list[Command]:
    """All tables, chains and rules of this network namespace. Raises as apply()."""
    try:
        found = json.loads(run("nft", "--json", "list", "ruleset"))["nftables"]
    except (ValueError, KeyError, TypeError) as error:
        raise OSError(errno.EBADMSG, f"nft printed no list of rules: {error}") from None
    return list(found)
