# SPDX-License-Identifier: LGPL-2.1-or-later
"""Names and numbers of signals for `kill`."""

from __future__ import annotations

import signal

from .errors import CommandError

_LAST = 64
_RTMIN = 34  # glibc keeps 32 and 33 for itself; signal.SIGRTMIN says the same
_RTMAX = _LAST


def number(text: str) -> int:
    """SIGTERM, TERM, 15, RTMIN+4, RTMAX-1. Raises CommandError."""
    name = text.removeprefix("SIG")
    value = 0
    if name.isascii() and name.isdigit():
        value = int(name)
    elif name in ("RTMIN", "RTMAX"):
        value = _RTMIN if name == "RTMIN" else _RTMAX
    elif name.startswith("RTMIN+") and name[6:].isdigit():
        value = _RTMIN + int(name[6:])
    elif name.startswith("RTMAX-") and name[6:].isdigit():
        value = _RTMAX - int(name[6:])
    else:
        value = next((s.value for s in signal.Signals if s.name == f"SIG{name}"), 0)
    if not 1 <= value <= _LAST:
        raise CommandError(f'Failed to parse signal string "{text}".', "'--signal=list' shows the names.")
    return value


def names() -> list[tuple[int, str]]:
    """(number, name) of all signals, in order."""
    plain = {s.value: s.name for s in signal.Signals if s.value < _RTMIN}
    return [
        (n, plain.get(n, f"SIG{n}") if n < _RTMIN else f"SIGRTMIN+{n - _RTMIN}")
        for n in range(1, _RTMAX + 1)
    ]


def table() -> str:
    """What --signal=list prints."""
    return "SIGNAL NAME\n" + "\n".join(f"{n:<6} {name}" for n, name in names())


def short_names() -> str:
    """What --signal=help prints."""
    return "\n".join(name.removeprefix("SIG") for _, name in names())
