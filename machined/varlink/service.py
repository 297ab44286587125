# SPDX-License-Identifier: LGPL-2.1-or-later
"""The model on varlink: sockets (PID 1's where it listens for us, else our own), peers and errors."""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Protocol

from machined.linux.fds import OwnedFd
from machined.model.core import Core
from machined.model.errors import MachineError, Problem, ServiceManagerError
from machined.varlink import machine
from machined.varlink.server import Call, Server
from machined.varlink.table import VarlinkError

log = logging.getLogger(__name__)

SOCKET: Final = Path("/run/systemd/machine/io.systemd.Machine")
# What systemd-machined.socket calls the socket that it passes (258 and later).
PASSED_NAME: Final = "varlink"
BACKLOG: Final = 128

_ERRORS: Final = {
    Problem.NO_SUCH_MACHINE: f"{machine.NAME}.NoSuchMachine",
    Problem.MACHINE_EXISTS: f"{machine.NAME}.MachineExists",
    Problem.NO_PRIVATE_NETWORKING: f"{machine.NAME}.NoPrivateNetworking",
    Problem.NOT_SUPPORTED: f"{machine.NAME}.NotSupported",
    Problem.FILE_NOT_FOUND: f"{machine.NAME}.NoIPC",
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


class ProcessAuthority(Protocol):
    """Asks polkit about a process."""

    async def ask_process(
        self,
        pid: int,
        pidfd: int | None,
        uid: int,
        action: str,
        details: Mapping[str, str],
        interactive: bool,
    ) -> None: ...


class VarlinkService:
    """Serves a Core on the sockets of systemd-machined."""

    def __init__(self, core: Core, authority: ProcessAuthority) -> None:
        self._core = core
        self._authority = authority
        info = {
            "vendor": "The machined project",
            "product": "machined",
            "version": str(core.version),
            "url": "https://systemd.io/",
        }
        self._server = Server(info, [machine.table(core, self._authorize)], self._map_error)
        self._made: list[Path] = []

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
        await self._server.close()
        for path in self._made:
            path.unlink(missing_ok=True)

    async def _authorize(
        self, call: Call, action: str, details: Mapping[str, str], interactive: bool
    ) -> None:
        peer = call.peer
        if peer.uid in {0, os.geteuid()}:
            return
        pidfd = peer.pidfd.fileno() if peer.pidfd is not None else None
        await self._authority.ask_process(peer.pid, pidfd, peer.uid, action, details, interactive)

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
        name = errno.errorcode.get(number, "EIO")
        return VarlinkError("io.systemd.System", origin="linux", errno=number, errnoName=name)
