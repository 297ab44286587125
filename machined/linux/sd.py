# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a service says to, and gets from, the service manager and the journal (through systemd-python).

The library is imported when it is first needed: a run without a service manager does not need it.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
from typing import Any

_log = logging.getLogger(__name__)

LOG_EMERG, LOG_ALERT, LOG_CRIT, LOG_ERR, LOG_WARNING, LOG_NOTICE, LOG_INFO, LOG_DEBUG = range(8)
LOG_DAEMON = 3
"""Facilities as the journal has them, not shifted as syslog(3) has them."""
LOG_AUTH = 4

JOURNAL_SOCKET = "/run/systemd/journal/socket"
_LEVELS = {
    LOG_EMERG: logging.CRITICAL,
    LOG_ALERT: logging.CRITICAL,
    LOG_CRIT: logging.CRITICAL,
    LOG_ERR: logging.ERROR,
    LOG_WARNING: logging.WARNING,
    LOG_NOTICE: logging.INFO,
    LOG_INFO: logging.INFO,
    LOG_DEBUG: logging.DEBUG,
}


def _library(module: str, what: str) -> Any:
    try:
        return importlib.import_module(f"systemd.{module}")
    except ImportError as error:
        raise ImportError(
            f"{what} needs systemd-python, which this Python ({sys.executable}) does not find: {error}. "
            "Install the package python3-systemd, or systemd-python into the virtual environment."
        ) from error


def notify(state: str) -> None:
    """Tell the service manager something ("READY=1"), if it asked to be told."""
    if os.environ.get("NOTIFY_SOCKET"):
        _library("daemon", f"Telling the service manager '{state}'").notify(state)


def watchdog_usec() -> int:
    """Within how many µs the service manager expects each WATCHDOG=1; 0 if it does not watch us."""
    usec, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", str(os.getpid()))
    return int(usec) if usec.isdecimal() and pid == str(os.getpid()) else 0


def listen_fds() -> dict[str, list[int]]:
    """The sockets we were started with, by name; the caller owns them. Children do not inherit them.

    A second call finds nothing.
    """
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return {}
    passed = _library("daemon", "Taking over sockets").listen_fds_with_names(unset_environment=True)
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        os.environ.pop(
            name, None
        )  # libsystemd cleans the C library's environment only, os.environ is a copy
    named: dict[str, list[int]] = {}
    for fd, name in sorted(passed.items()):
        os.set_inheritable(fd, False)
        named.setdefault(name, []).append(fd)
    return named


def journal(message: str, priority: int = LOG_INFO, facility: int = LOG_DAEMON, **fields: object) -> None:
    """A structured record (fields in upper case, as MESSAGE_ID); without a journal: the logging module."""
    entry = {"MESSAGE": message, "PRIORITY": priority, "SYSLOG_FACILITY": facility, **fields}
    try:
        if not os.path.exists(JOURNAL_SOCKET):
            raise FileNotFoundError(JOURNAL_SOCKET)
        sender = _library("journal", "Writing to the journal").sendv
        sender(*(f"{name}={value}".encode("utf-8", "surrogateescape") for name, value in entry.items()))
    except (ImportError, OSError) as error:
        _log.debug("No structured record in the journal, ignoring: %s", error)
        _log.log(_LEVELS.get(priority, logging.INFO), "%s", message, extra={"journal_fields": entry})


def stderr_is_journal() -> bool:
    """Whether what we write to stderr goes to the journal: $JOURNAL_STREAM names that very stream."""
    device, _, inode = os.environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        info = os.fstat(2)
    except OSError:
        return False
    return (device, inode) == (str(info.st_dev), str(info.st_ino))


class JournalFormatter(logging.Formatter):
    """Puts <N>, the priority, before each line when stderr is the journal's; see sd-daemon(3)."""

    def __init__(self, fmt: str | None = None) -> None:
        super().__init__(fmt)
        self._prefix = stderr_is_journal()

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        if not self._prefix:
            return text
        if record.levelno >= logging.CRITICAL:
            priority = LOG_CRIT
        elif record.levelno >= logging.ERROR:
            priority = LOG_ERR
        elif record.levelno >= logging.WARNING:
            priority = LOG_WARNING
        else:
            priority = LOG_INFO if record.levelno >= logging.INFO else LOG_DEBUG
        return "\n".join(f"<{priority}>{line}" for line in text.split("\n"))
