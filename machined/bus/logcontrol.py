# SPDX-License-Identifier: LGPL-2.1-or-later
"""org.freedesktop.LogControl1.

what `systemctl service-log-level` and `service-log-target` talk to (its man page).
"""

from __future__ import annotations

import logging
import re
import sys
from typing import Any, Final

from machined.bus.vtable import Emits, Interface, prop
from machined.linux import sd
from machined.model.errors import invalid

LEVELS: Final = {
    "emerg": logging.CRITICAL,
    "alert": logging.CRITICAL,
    "crit": logging.CRITICAL,
    "err": logging.ERROR,
    "warning": logging.WARNING,
    "notice": logging.INFO,
    "info": logging.INFO,
    "debug": logging.DEBUG,
}
# By number as well, as syslog(3) has them.
NUMBERS: Final = ("emerg", "alert", "crit", "err", "warning", "notice", "info", "debug")
# The words of systemd for where messages go. All but "null" are standard error, which is the journal's.
TARGETS: Final = frozenset(
    {
        "auto",
        "console",
        "console-prefixed",
        "journal",
        "journal-or-kmsg",
        "kmsg",
        "null",
        "syslog",
        "syslog-or-kmsg",
    }
)


class LogControl:
    """The daemon's logging, changeable while it runs."""

    def __init__(self, level: str = "info") -> None:
        self.level = level
        self.target = "auto"
        self._handler = logging.StreamHandler(sys.stderr)
        self._handler.setFormatter(sd.JournalFormatter("%(message)s"))
        logging.getLogger().addHandler(self._handler)
        self.set_level(level)

    def set_level(self, level: str) -> None:
        """Raises MachineError (INVALID_ARGS)."""
        if re.fullmatch(r"0*[0-7]", level, re.ASCII):
            level = NUMBERS[int(level)]
        if level not in LEVELS:
            raise invalid(f"Invalid log level '{level}'")
        self.level = level
        logging.getLogger().setLevel(LEVELS[level])
        # The loop logs every slow callback at debug level of its own, which says nothing about machines.
        logging.getLogger("asyncio").setLevel(logging.WARNING)

    def set_target(self, target: str) -> None:
        """Raises MachineError (INVALID_ARGS)."""
        if target not in TARGETS:
            raise invalid(f"Invalid log target '{target}'")
        self.target = target
        self._handler.setLevel(logging.CRITICAL + 1 if target == "null" else logging.NOTSET)

    def close(self) -> None:
        logging.getLogger().removeHandler(self._handler)


def _set_level(call: Any, control: LogControl, value: str) -> None:
    control.set_level(value)


def _set_target(call: Any, control: LogControl, value: str) -> None:
    control.set_target(value)


TABLE: Final = Interface(
    "org.freedesktop.LogControl1",
    (
        prop("LogLevel", "s", lambda call, control: control.level, Emits.FALSE, setter=_set_level),
        prop("LogTarget", "s", lambda call, control: control.target, Emits.FALSE, setter=_set_target),
        prop("SyslogIdentifier", "s", lambda call, control: "systemd-machined", Emits.CONST),
    ),
)
