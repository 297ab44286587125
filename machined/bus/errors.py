# SPDX-License-Identifier: LGPL-2.1-or-later
"""Exceptions of the layers below as D-Bus error names, the way sd-bus names them."""

from __future__ import annotations

import errno
import os
from typing import Final

from machined.bus.connection import RemoteError
from machined.model.errors import ERRNO_NAMES, MachineError, Problem, ServiceManagerError

MACHINE1: Final = "org.freedesktop.machine1."
OWN: Final = "org.machined1.Error."
DBUS: Final = "org.freedesktop.DBus.Error."


def problem_name(problem: Problem) -> str:
    """The D-Bus name of a problem."""
    if problem.is_machine1():
        return MACHINE1 + problem.value
    if problem.is_own():
        return OWN + problem.value
    if problem is Problem.JOB_FAILED:
        return "org.freedesktop.systemd1.JobFailed"
    return DBUS + problem.value


def errno_name(number: int) -> str:
    """The D-Bus name of an errno (sd-bus-errors(3))."""
    known = ERRNO_NAMES.get(number)
    return DBUS + known if known else f"System.Error.{errno.errorcode.get(number, 'EIO')}"


def wire_error(error: Exception) -> tuple[str | None, str]:
    """Name and text for a reply; no name for an exception that nobody foresaw (log it)."""
    match error:
        case MachineError():
            return problem_name(error.problem), error.text
        case ServiceManagerError() | RemoteError():
            return error.name, error.text
        case TimeoutError() if error.errno is None:
            return DBUS + "Timeout", str(error) or "An answer did not come in time."
        case OSError() if error.errno is not None:
            return errno_name(error.errno), error.strerror or os.strerror(error.errno)
    return None, "An internal error occurred, the journal of systemd-machined.service has it."
