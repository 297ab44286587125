# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a machine tells of itself: addresses, operating system, user id shift, its root directory."""

from __future__ import annotations

import asyncio
import base64
import errno
import logging
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from machined.linux import envfile, helper, netlink, process
from machined.linux.fds import OwnedFd
from machined.linux.netlink import Address
from machined.linux.process import PidRef
from machined.model.errors import MachineError, Problem, not_supported
from machined.model.machine import Machine, MachineClass
from machined.model.preflight import OS_RELEASE_PATHS
from machined.model.registry import Registry

log = logging.getLogger(__name__)

MAX_OS_RELEASE: Final = 16 * 1024
# Seconds a guest may take before a listing goes out without it.
LISTING_TIMEOUT: Final = 5.0


class Guests:
    """Asks running machines.

    What is asked once for a run (its route socket, its OS) is kept until it ends.
    """

    def __init__(self, registry: Registry) -> None:
        self._sockets: dict[Machine, socket.socket] = {}
        registry.on_removed.append(self._forget)

    def _forget(self, machine: Machine) -> None:
        sock = self._sockets.pop(machine, None)
        if sock is not None:
            sock.close()

    def close(self) -> None:
        for sock in self._sockets.values():
            sock.close()
        self._sockets.clear()

    async def addresses(self, machine: Machine) -> list[Address]:
        """Usable addresses in the order of use. Raises MachineError, OSError, TimeoutError."""
        if machine.cls is MachineClass.HOST:
            return netlink.usable(netlink.addresses())
        leader = container_leader(
            machine, "Requesting IP address data is only supported on container machines."
        )
        if process.same_namespace(leader.pid, "net"):
            raise MachineError(
                Problem.NO_PRIVATE_NETWORKING, f"Machine {machine.name} does not use private networking"
            )
        sock = self._sockets.get(machine)
        if sock is None:
            reply = await helper.run("netlink", leader, {})
            with reply.fds as fds:
                sock = socket.socket(fileno=fds.steal(0))
            if machine.leader is None or machine in self._sockets:
                sock.close()
                return await self.addresses(machine)
            self._sockets[machine] = sock
        return netlink.usable(netlink.addresses(sock))

    async def os_release(self, machine: Machine) -> dict[str, str]:
        """The fields of os-release. Raises FileNotFoundError, MachineError, OSError, TimeoutError."""
        if machine.cls is MachineClass.HOST:
            return host_os_release()
        leader = container_leader(
            machine, "Requesting OS release data is only supported on container machines."
        )
        paths = [f"/{path}" for path in OS_RELEASE_PATHS]
        try:
            reply = await helper.run("read", leader, {"paths": paths, "limit": MAX_OS_RELEASE})
        except FileNotFoundError as error:
            raise FileNotFoundError(
                errno.ENOENT, "Failed to get OS release: No such file or directory"
            ) from error
        with reply.fds:
            data = reply.data["data"]
        machine.os_release = envfile.parse(base64.b64decode(str(data)))
        return machine.os_release

    async def for_listing(self, machine: Machine) -> tuple[Mapping[str, str], list[str]]:
        """OS fields and addresses for a table; what a guest does not tell in time is left empty."""
        fields: Mapping[str, str] = {}
        found: list[str] = []
        try:
            async with asyncio.timeout(LISTING_TIMEOUT):
                if (known := machine.os_release) is None:
                    known = await self.os_release(machine)
                fields = known
        except (MachineError, OSError, TimeoutError) as error:
            log.debug("Machine '%s' does not tell its OS: %s", machine.name, error)
            if isinstance(error, TimeoutError):
                # It hangs whoever asks: a listing does not ask again, who wants just this still may.
                machine.os_release = machine.os_release or {}
        try:
            async with asyncio.timeout(LISTING_TIMEOUT):
                found = [netlink.text(address) for address in await self.addresses(machine)]
        except (MachineError, OSError, TimeoutError) as error:
            log.debug("Machine '%s' does not tell its addresses: %s", machine.name, error)
        return fields, found

    def uid_shift(self, machine: Machine) -> int:
        """The first user id on the host of a machine with a plain mapping. Raises MachineError."""
        if machine.cls is MachineClass.HOST:
            return 0
        leader = container_leader(machine, "UID/GID shift may only be determined for container machines.")
        try:
            users, groups = process.id_map(leader.pid, "uid"), process.id_map(leader.pid, "gid")
        except FileNotFoundError:
            return 0  # a kernel without user namespaces
        if len(users) != 1 or users != groups or users[0][0] != 0 or users[0][2] < 0xFFFE:
            raise not_supported(
                f"Machine {machine.name} uses a complex UID/GID mapping, cannot determine shift"
            )
        return users[0][1]

    async def root_directory(self, machine: Machine) -> OwnedFd:
        """A descriptor of the machine's root directory, in its own mount namespace."""
        if machine.cls is MachineClass.HOST:
            return OwnedFd(os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        leader = container_leader(
            machine, "Opening the root directory is only supported on container machines."
        )
        reply = await helper.run("root", leader, {})
        with reply.fds as fds:
            return OwnedFd(fds.steal(0))


def container_leader(machine: Machine, otherwise: str) -> PidRef:
    """The pinned leader of a container. Raises MachineError (NOT_SUPPORTED), ProcessLookupError."""
    if machine.cls is not MachineClass.CONTAINER:
        raise not_supported(otherwise)
    if machine.leader is None:
        raise ProcessLookupError(errno.ESRCH, f"The leader of machine {machine.name} has gone")
    return machine.leader


def host_os_release() -> dict[str, str]:
    """The host's own fields. Raises FileNotFoundError."""
    for path in OS_RELEASE_PATHS:
        try:
            return envfile.parse(Path("/", path).read_bytes())
        except FileNotFoundError:
            continue
    raise FileNotFoundError(errno.ENOENT, "Failed to get OS release: No such file or directory")
