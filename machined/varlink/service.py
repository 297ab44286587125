# SPDX-License-Identifier: LGPL-2.1-or-later
"""The model on varlink: sockets (PID 1's where it listens for us, else our own), peers and errors."""

from __future__ import annotations

import errno
import logging
import os
import re
import socket
from collections.abc import Coroutine, Mapping
from pathlib import Path
from typing import Any, Final, Protocol

from machined.linux.fds import OwnedFd
from machined.model.core import Core
from machined.model.errors import MachineError, Problem, ServiceManagerError
from machined.varlink import control, hook, image, image_handlers, machine, userdb
from machined.varlink.server import Call, Server
from machined.varlink.table import Interface, VarlinkError

log = logging.getLogger(__name__)

SOCKET: Final = Path("/run/systemd/machine/io.systemd.Machine")
# The same server; where PID 1 listens for us it makes a link of this.
IMAGE_SOCKET: Final = Path("/run/systemd/machine/io.systemd.MachineImage")
# Users and groups are looked up in all sockets of this directory, names in those of the other.
USER_DATABASE: Final = Path("/run/systemd/userdb/io.systemd.Machine")
RESOLVE_HOOK: Final = Path("/run/systemd/resolve.hook/io.systemd.Machine")
# What systemd-machined.socket calls the socket that it passes (258 and later).
PASSED_NAME: Final = "varlink"
BACKLOG: Final = 128

_ERRORS: Final = {
    Problem.NO_SUCH_MACHINE: f"{machine.NAME}.NoSuchMachine",
    Problem.MACHINE_EXISTS: f"{machine.NAME}.MachineExists",
    Problem.NO_PRIVATE_NETWORKING: f"{machine.NAME}.NoPrivateNetworking",
    Problem.NOT_SUPPORTED: f"{machine.NAME}.NotSupported",
    Problem.FILE_NOT_FOUND: f"{machine.NAME}.NoIPC",
    Problem.NO_SUCH_IMAGE: f"{image_handlers.NAME}.NoSuchImage",
    Problem.ACCESS_DENIED: "org.varlink.service.PermissionDenied",
    Problem.INTERACTIVE_AUTHORIZATION_REQUIRED: "io.systemd.InteractiveAuthenticationRequired",
}


_NUMBERS: Final = {
    Problem.INVALID_ARGS: errno.EINVAL,
    Problem.PROCESS_UNKNOWN: errno.ESRCH,
    Problem.LIMITS_EXCEEDED: errno.ENOBUFS,
    Problem.FILE_EXISTS: errno.EEXIST,
    Problem.TIMEOUT: errno.ETIMEDOUT,
}


# Numbers with two names, of which Python knows the other.
_NAMES: Final = {errno.EOPNOTSUPP: "EOPNOTSUPP", errno.EDEADLK: "EDEADLK", errno.EAGAIN: "EAGAIN"}


class ProcessAuthority(Protocol):
    """Asks polkit about a process."""

    def ask_process(
        self,
        pid: int,
        pidfd: int | None,
        uid: int,
        action: str,
        details: Mapping[str, str],
        interactive: bool,
    ) -> Coroutine[Any, Any, None]: ...


def full_version(text: str) -> str:
    """PID 1's "257.13-1~deb13u1" as systemd's programs tell it: the release, then with what was added."""
    found = _RELEASE.match(text)
    return f"{found.group(1)} ({text})" if found else text


_RELEASE: Final = re.compile(r"v?([0-9]+(?:\.[0-9]+)*(?:[~-]rc[0-9]+)?)")


class VarlinkService:
    """Serves a Core on the sockets of systemd-machined."""

    def __init__(
        self, core: Core, authority: ProcessAuthority, logging_: control.Logging | None = None
    ) -> None:
        """`logging_` is what io.systemd.service changes, where there is one."""
        self._core = core
        self._authority = authority
        interfaces = [machine.table(core, self._authorize), image.table(core, self._authorize)]
        if logging_ is not None and core.version >= control.SINCE:
            interfaces.append(control.table(logging_))
        self._server = self._new_server(interfaces)
        self._others = {USER_DATABASE: self._new_server([userdb.table(core)])}
        if core.version >= hook.SINCE:
            self._others[RESOLVE_HOOK] = self._new_server([hook.table(core)])
        self._made: list[Path] = []

    def _new_server(self, interfaces: list[Interface]) -> Server:
        # Tools ask the name of the service for what the contract of its name has.
        info = {
            "vendor": "The systemd Project",
            "product": "systemd (systemd-machined)",
            "version": full_version(self._core.version_text),
            "url": "https://systemd.io/",
        }
        return Server(info, interfaces, self._map_error, self._core.version)

    async def start(self, inherited: Mapping[str, list[int]]) -> None:
        """Listen. `inherited` are descriptors from PID 1 by name; those that are not ours are closed."""
        fds = {name: [OwnedFd(fd) for fd in numbers] for name, numbers in inherited.items()}
        passed = fds.pop(PASSED_NAME, [])
        for unknown in (fd for group in fds.values() for fd in group):
            unknown.close()
        for fd in passed:
            self._server.listen(socket.socket(fileno=fd.detach()))
        if not passed:
            self._server.listen(self._make(SOCKET))
            self._server.listen(self._make(IMAGE_SOCKET))
        for path, server in self._others.items():
            server.listen(self._make(path))

    def _make(self, path: Path) -> socket.socket:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.bind(os.fspath(path))
            path.chmod(0o666)
            sock.listen(BACKLOG)
        except BaseException:
            sock.close()
            raise
        self._made.append(path)
        return sock

    async def close(self) -> None:
        for server in (self._server, *self._others.values()):
            await server.close()
        for path in self._made:
            path.unlink(missing_ok=True)

    async def _authorize(
        self, call: Call, action: str, details: Mapping[str, str], interactive: bool
    ) -> None:
        """Whether the peer may, asked for as long as it stays. Raises MachineError, PeerLostError."""
        peer = call.peer
        if peer.uid in {0, os.geteuid()}:
            return
        pidfd = peer.pidfd.fileno() if peer.pidfd is not None else None
        await call.while_there(
            self._authority.ask_process(peer.pid, pidfd, peer.uid, action, details, interactive)
        )

    def _map_error(self, error: Exception) -> VarlinkError | None:
        match error:
            case MachineError() if error.problem in _ERRORS:
                return VarlinkError(_ERRORS[error.problem])
            case MachineError():
                return self._system_error(_NUMBERS.get(error.problem, errno.EIO))
            case ServiceManagerError():
                return self._system_error(errno.EIO)
            case TimeoutError() if error.errno is None:
                return self._system_error(errno.ETIMEDOUT)
            case OSError() if error.errno is not None:
                return self._system_error(error.errno)
        return None

    def _system_error(self, number: int) -> VarlinkError:
        if self._core.version < 258:
            return VarlinkError("io.systemd.System", errno=number)
        name = _NAMES.get(number) or errno.errorcode.get(number, "EIO")
        return VarlinkError("io.systemd.System", origin="linux", errno=number, errnoName=name)
