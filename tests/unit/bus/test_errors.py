# SPDX-License-Identifier: LGPL-2.1-or-later

from __future__ import annotations

import errno

import pytest
from dbus_fast import Variant

from machined.bus.connection import RemoteError
from machined.bus.errors import errno_name, problem_name, wire_error
from machined.bus.verbs import options
from machined.model.errors import MachineError, Problem, ServiceManagerError

DBUS = "org.freedesktop.DBus.Error."


@pytest.mark.parametrize(
    ("problem", "name"),
    [
        (Problem.NO_SUCH_MACHINE, "org.freedesktop.machine1.NoSuchMachine"),
        (Problem.NO_SUCH_IMAGE, "org.freedesktop.machine1.NoSuchImage"),
        (Problem.NO_MACHINE_FOR_PID, "org.freedesktop.machine1.NoMachineForPID"),
        (Problem.MACHINE_EXISTS, "org.freedesktop.machine1.MachineExists"),
        (Problem.NO_PRIVATE_NETWORKING, "org.freedesktop.machine1.NoPrivateNetworking"),
        (Problem.JOB_FAILED, "org.freedesktop.systemd1.JobFailed"),
        (Problem.NOT_BOOTABLE, "org.machined1.Error.NotBootable"),
        (Problem.NO_EXEC_MOUNT, "org.machined1.Error.NoExecMount"),
        (Problem.IMAGE_BUSY, "org.machined1.Error.ImageBusy"),
        (Problem.JOB_RUNNING, "org.machined1.Error.JobRunning"),
        (Problem.NOT_RUNNING, "org.machined1.Error.NotRunning"),
        (Problem.INVALID_ARGS, DBUS + "InvalidArgs"),
        (Problem.PROCESS_UNKNOWN, DBUS + "UnixProcessIdUnknown"),
        (Problem.INTERACTIVE_AUTHORIZATION_REQUIRED, DBUS + "InteractiveAuthorizationRequired"),
    ],
)
def test_problems(problem: Problem, name: str) -> None:
    assert problem_name(problem) == name


def test_every_problem_has_a_name() -> None:
    assert len({problem_name(problem) for problem in Problem}) == len(Problem)


@pytest.mark.parametrize(
    ("number", "name"),
    [
        (errno.EINVAL, DBUS + "InvalidArgs"),
        (errno.ENOENT, DBUS + "FileNotFound"),
        (errno.EEXIST, DBUS + "FileExists"),
        (errno.EOPNOTSUPP, DBUS + "NotSupported"),
        (errno.ESRCH, DBUS + "UnixProcessIdUnknown"),
        (errno.EADDRNOTAVAIL, DBUS + "BadAddress"),
        (errno.EACCES, DBUS + "AccessDenied"),
        (errno.EPERM, DBUS + "AccessDenied"),
        (errno.ENOMEM, DBUS + "NoMemory"),
        (errno.ETIMEDOUT, DBUS + "Timeout"),
        (errno.EIO, DBUS + "IOError"),
        (errno.ENOBUFS, DBUS + "LimitsExceeded"),
        (errno.EADDRINUSE, DBUS + "AddressInUse"),
        (errno.ECONNRESET, DBUS + "Disconnected"),
        (errno.EBADMSG, DBUS + "InconsistentMessage"),
        (errno.EBUSY, "System.Error.EBUSY"),
        (errno.EROFS, "System.Error.EROFS"),
        (errno.ENOTTY, "System.Error.ENOTTY"),
        (9999, "System.Error.EIO"),
    ],
)
def test_errno(number: int, name: str) -> None:
    assert errno_name(number) == name


@pytest.mark.parametrize(
    ("error", "name", "text"),
    [
        (MachineError(Problem.FAILED, "Why."), DBUS + "Failed", "Why."),
        (ServiceManagerError("org.x.Y", "Why."), "org.x.Y", "Why."),
        (RemoteError("org.x.Y", ""), "org.x.Y", ""),
        (TimeoutError(), DBUS + "Timeout", "An answer did not come in time."),
        (TimeoutError(errno.ETIMEDOUT, "Slow"), DBUS + "Timeout", "Slow"),
        (FileNotFoundError(errno.ENOENT, "Gone"), DBUS + "FileNotFound", "Gone"),
        (OSError(errno.EBUSY, ""), "System.Error.EBUSY", "Device or resource busy"),
    ],
)
def test_exceptions(error: Exception, name: str, text: str) -> None:
    assert wire_error(error) == (name, text)


@pytest.mark.parametrize("error", [RuntimeError("secret"), KeyError("secret"), ConnectionError("secret")])
def test_bugs_have_no_name(error: Exception) -> None:
    name, text = wire_error(error)
    assert name is None
    assert "secret" not in text


def test_options() -> None:
    known = {"mode": "s", "n": "u"}
    assert options({"n": Variant("u", 3)}, known) == {"n": 3}
    assert options({}, known) == {}
    with pytest.raises(MachineError, match=r"Unknown option 'x', known are: mode, n\."):
        options({"x": Variant("s", "")}, known)
    with pytest.raises(MachineError, match=r"Unknown option 'x', known are: none\."):
        options({"x": Variant("s", "")}, {})
    with pytest.raises(MachineError, match=r"Option 'n' has type 's', expected 'u'\."):
        options({"n": Variant("s", "3")}, known)
