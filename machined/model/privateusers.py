# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the settings of a machine say of its users, where we have to know before systemd-nspawn does.

One key of systemd.nspawn(5), [Exec] PrivateUsers=, of the file that systemd-nspawn itself would use.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from machined.linux.overlay import RANGE
from machined.model.errors import MachineError, Problem

# What counts of a machine's settings: those beside its image may not say who its users are.
TRUSTED: Final = (Path("/etc/systemd/nspawn"), Path("/run/systemd/nspawn"))
_NO: Final = frozenset({"no", "n", "false", "f", "off", "0"})
_PICKED: Final = frozenset({"", "pick", "yes", "y", "true", "t", "on", "1"})
_MAX_SIZE: Final = 1024 * 1024


def settings_file(name: str) -> Path | None:
    """The file with the trusted settings of a machine, None without one."""
    return next((path for path in (d / f"{name}.nspawn" for d in TRUSTED) if path.is_file()), None)


def base_of(name: str, image: str, pick: int) -> int:
    """The first user of a machine, 0 when its users are the host's; `pick` where it may be any.

    Without settings of its own it is to have those of its image.

    Raises MachineError (INVALID_ARGS) for what cannot be had on a tree that is mounted in layers.
    """
    path = settings_file(name) or settings_file(image)
    value = _value(path) if path is not None else ""
    text = value.lower()
    if text in _PICKED:
        return pick
    if text in _NO or text == "identity":
        return 0
    first, _, count = value.partition(":")
    fits = first.isdecimal() and int(first) < 2**31 and int(first) % RANGE == 0
    if fits and count in {"", str(RANGE)}:
        return int(first)
    raise MachineError(
        Problem.INVALID_ARGS,
        f"Machine '{name}' is made of layers, which cannot be had with 'PrivateUsers={value}' ({path}): use "
        f"'pick', 'no', or a multiple of {RANGE}, or make the image a plain tree by 'machinectl flatten'.",
    )


def _value(path: Path) -> str:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            lines = file.read(_MAX_SIZE).splitlines()
    except OSError:
        return ""
    section = found = ""
    for line in (line.strip() for line in lines):
        if line.startswith("[") and line.endswith("]"):
            section = line
        elif section == "[Exec]" and "=" in line and not line.startswith(("#", ";")):
            key, _, value = line.partition("=")
            if key.strip() == "PrivateUsers":
                found = value.strip()
    return found
