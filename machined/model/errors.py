# SPDX-License-Identifier: LGPL-2.1-or-later
"""The one family of errors that callers see; each wire maps a problem to its own name for it."""

from __future__ import annotations

import errno
import os
from enum import StrEnum


class Problem(StrEnum):
    """What went wrong, independent of the wire. The values are D-Bus error names without their prefix."""

    # org.freedesktop.machine1 (contract of systemd-machined)
    NO_SUCH_MACHINE = "NoSuchMachine"
    NO_SUCH_IMAGE = "NoSuchImage"
    NO_MACHINE_FOR_PID = "NoMachineForPID"
    MACHINE_EXISTS = "MachineExists"
    NO_PRIVATE_NETWORKING = "NoPrivateNetworking"
    NO_SUCH_USER_MAPPING = "NoSuchUserMapping"
    NO_SUCH_GROUP_MAPPING = "NoSuchGroupMapping"
    # org.freedesktop.systemd1
    JOB_FAILED = "JobFailed"
    # org.machined1.Error
    NOT_BOOTABLE = "NotBootable"
    NO_EXEC_MOUNT = "NoExecMount"
    IMAGE_BUSY = "ImageBusy"
    INVALID_SETTINGS = "InvalidSettings"
    JOB_RUNNING = "JobRunning"
    NOT_RUNNING = "NotRunning"
    # org.freedesktop.DBus.Error
    INVALID_ARGS = "InvalidArgs"
    NOT_SUPPORTED = "NotSupported"
    ACCESS_DENIED = "AccessDenied"
    INTERACTIVE_AUTHORIZATION_REQUIRED = "InteractiveAuthorizationRequired"
    FILE_NOT_FOUND = "FileNotFound"
    FILE_EXISTS = "FileExists"
    LIMITS_EXCEEDED = "LimitsExceeded"
    TIMEOUT = "Timeout"
    PROCESS_UNKNOWN = "UnixProcessIdUnknown"
    FAILED = "Failed"

    def is_machine1(self) -> bool:
        return self in _MACHINE1

    def is_own(self) -> bool:
        return self in _OWN


_MACHINE1 = frozenset(
    {
        Problem.NO_SUCH_MACHINE,
        Problem.NO_SUCH_IMAGE,
        Problem.NO_MACHINE_FOR_PID,
        Problem.MACHINE_EXISTS,
        Problem.NO_PRIVATE_NETWORKING,
        Problem.NO_SUCH_USER_MAPPING,
        Problem.NO_SUCH_GROUP_MAPPING,
    }
)
_OWN = frozenset(
    {
        Problem.NOT_BOOTABLE,
        Problem.NO_EXEC_MOUNT,
        Problem.IMAGE_BUSY,
        Problem.INVALID_SETTINGS,
        Problem.JOB_RUNNING,
        Problem.NOT_RUNNING,
    }
)


class MachineError(Exception):
    """A request that cannot be served: why, for programs (`problem`) and for people (the text)."""

    def __init__(self, problem: Problem, text: str) -> None:
        super().__init__(text)
        self.problem = problem
        self.text = text


class ServiceManagerError(Exception):
    """An error of PID 1 (or of a guest's).

    the name on its wire, passed through to the caller, and the text.
    """

    def __init__(self, name: str, text: str) -> None:
        super().__init__(text)
        self.name = name
        self.text = text

    def is_missing_unit(self) -> bool:
        """Whether it says that the unit is not there (any more)."""
        return self.name in {"org.freedesktop.systemd1.NoSuchUnit", "org.freedesktop.systemd1.LoadFailed"}

    def is_no_answer(self) -> bool:
        """Whether nothing is known: the manager is busy re-executing, say. Never take that for "gone"."""
        return self.name in {
            "org.freedesktop.DBus.Error.NoReply",
            "org.freedesktop.DBus.Error.Disconnected",
            "org.freedesktop.DBus.Error.Timeout",
        }


def no_such_machine(name: str) -> MachineError:
    return MachineError(Problem.NO_SUCH_MACHINE, f"No machine '{name}' known")


def no_such_process() -> ProcessLookupError:
    return ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))


def no_such_image(name: str) -> MachineError:
    return MachineError(Problem.NO_SUCH_IMAGE, f"No image '{name}' known")


def invalid(text: str) -> MachineError:
    return MachineError(Problem.INVALID_ARGS, text)


def not_supported(text: str) -> MachineError:
    return MachineError(Problem.NOT_SUPPORTED, text)


# How sd-bus names an errno on the wire (sd-bus-errors(3)); everything else is System.Error.E….
ERRNO_NAMES: dict[int, str] = {
    errno.EINVAL: "InvalidArgs",
    errno.ENOENT: "FileNotFound",
    errno.EEXIST: "FileExists",
    errno.EOPNOTSUPP: "NotSupported",
    errno.ESRCH: "UnixProcessIdUnknown",
    errno.EADDRNOTAVAIL: "BadAddress",
    errno.EACCES: "AccessDenied",
    errno.EPERM: "AccessDenied",
    errno.ENOMEM: "NoMemory",
    errno.ETIMEDOUT: "Timeout",
    errno.ETIME: "Timeout",
    errno.EIO: "IOError",
    errno.ENOBUFS: "LimitsExceeded",
    errno.EADDRINUSE: "AddressInUse",
    errno.ENETRESET: "Disconnected",
    errno.ECONNABORTED: "Disconnected",
    errno.ECONNRESET: "Disconnected",
    errno.EBADMSG: "InconsistentMessage",
}
