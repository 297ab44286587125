# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a machine tells of itself: addresses, operating system, user id shift, its root directory."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from machined.linux import envfile, helper, netlink, process
from machined.linux.addresswatch import AddressWatch
from machined.linux.fds import OwnedFd
from machined.linux.netlink import Address
from machined.linux.process import PidRef
from machined.model.errors import MachineError, Problem, no_such_process, not_supported
from machined.model.machine import Machine, MachineClass
from machined.model.metadata import Entry, Metadata
from machined.model.preflight import OS_RELEASE_PATHS
from machined.model.registry import Registry

log = logging.getLogger(__name__)

# Seconds a guest may take before a listing goes out without it.
LISTING_TIMEOUT: Final = 10.0

_NO_RELEASE: Final = "Failed to get OS release: No such file or directory"


class Guests:
    """Asks running machines, and keeps what containers tell (metadata.py)."""

    def __init__(self, registry: Registry) -> None:
        self._metadata = Metadata(registry)

    async def close(self) -> None:
        await self._metadata.close()

    async def addresses(self, machine: Machine) -> list[Address]:
        """Usable addresses in the order of use. Raises MachineError, OSError, TimeoutError."""
        if machine.cls is MachineClass.HOST:
            return netlink.usable(netlink.addresses())
        leader = container_leader(
            machine, "Requesting IP address data is only supported on container machines."
        )
        _check_alive(leader)
        entry = self._metadata.entry(machine)
        if entry.addresses is None:
            if process.same_namespace(leader.pid, "net"):
                raise MachineError(
                    Problem.NO_PRIVATE_NETWORKING, f"Machine {machine.name} does not use private networking"
                )
            await self._open_route_socket(machine, leader)
        return _known_addresses(entry)

    async def _open_route_socket(self, machine: Machine, leader: PidRef) -> None:
        """Of its own, since the guest's files may hang whoever reads them, and its network does not."""
        reply = await helper.run("netlink", leader, {})
        with reply.fds as fds:
            entry = self._metadata.entry(machine)
            if machine.leader is None:
                self._metadata.forget(machine)
                raise no_such_process()
            if entry.addresses is None:
                entry.addresses = AddressWatch(socket.socket(fileno=fds.steal(0)))

    async def os_release(self, machine: Machine) -> Mapping[str, str]:
        """The fields of os-release. Raises FileNotFoundError, MachineError, OSError, TimeoutError."""
        if machine.cls is MachineClass.HOST:
            return host_os_release()
        _check_alive(
            container_leader(machine, "Requesting OS release data is only supported on container machines.")
        )
        entry = self._metadata.entry(machine)
        if not entry.good:
            await self._metadata.look(entry)
        if isinstance(entry.problem, FileNotFoundError):
            raise FileNotFoundError(errno.ENOENT, _NO_RELEASE) from entry.problem
        if entry.problem is not None:
            raise OSError(entry.problem.errno, entry.problem.strerror)
        return entry.fields

    async def for_listing(self, machines: Sequence[Machine]) -> list[tuple[Mapping[str, str], list[str]]]:
        """OS fields and addresses of each for a table; what a guest does not tell in time is left empty.

        One that has hung whoever asked is not asked again by a listing; who wants just this still may.
        """
        asked = [machine for machine in machines if self._has_to_be_asked(machine)]
        if asked:
            looks = [asyncio.ensure_future(self._metadata.look(self._metadata.entry(m))) for m in asked]
            _, late = await asyncio.wait(looks, timeout=LISTING_TIMEOUT)
            for look in late:
                look.cancel()
            for result in await asyncio.gather(*looks, return_exceptions=True):
                if isinstance(result, Exception):
                    log.debug("A machine does not tell of itself: %s", result)
        return [self._known(machine) for machine in machines]

    def _has_to_be_asked(self, machine: Machine) -> bool:
        if machine.cls is not MachineClass.CONTAINER or machine.leader is None:
            return False
        entry = self._metadata.entry(machine)
        return not (entry.good or entry.silent)

    def _known(self, machine: Machine) -> tuple[Mapping[str, str], list[str]]:
        try:
            if machine.cls is MachineClass.HOST:
                found = netlink.usable(netlink.addresses())
                return host_os_release(), [netlink.text(address) for address in found]
            if machine.cls is not MachineClass.CONTAINER or machine.leader is None:
                return {}, []
            entry = self._metadata.entry(machine)
            texts = [] if entry.addresses is None else entry.addresses.texts()
            if entry.addresses is not None and not entry.addresses.usable:
                entry.drop_addresses()
            return entry.fields, texts
        except (OSError, TimeoutError) as error:
            log.debug("Machine '%s' does not tell of itself: %s", machine.name, error)
            return {}, []

    def uid_shift(self, machine: Machine) -> int:
        """The first user id on the host of a machine with a plain mapping. Raises MachineError."""
        if machine.cls is MachineClass.HOST:
            return 0
        leader = container_leader(machine, "UID/GID shift may only be determined for container machines.")
        try:
            users, groups = process.id_map(leader.pid, "uid"), process.id_map(leader.pid, "gid")
        except (FileNotFoundError, ProcessLookupError):
            return 0  # a kernel without user namespaces; or nobody is left to have a shift
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
        raise no_such_process()
    return machine.leader


def _check_alive(leader: PidRef) -> None:
    """What is kept of a container ends with its leader, where the machine does not. ProcessLookupError."""
    if not leader.alive():
        raise no_such_process()


def _known_addresses(entry: Entry) -> list[Address]:
    watch = entry.addresses
    if watch is None:
        raise no_such_process()
    try:
        return watch.addresses()
    finally:
        if not watch.usable:
            entry.drop_addresses()


def host_os_release() -> dict[str, str]:
    """The host's own fields. Raises FileNotFoundError."""
    for path in OS_RELEASE_PATHS:
        try:
            return envfile.parse(Path("/", path).read_bytes())
        except FileNotFoundError:
            continue
    raise FileNotFoundError(errno.ENOENT, "Failed to get OS release: No such file or directory")
