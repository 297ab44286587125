# SPDX-License-Identifier: LGPL-2.1-or-later
"""Files between the host and running containers: bind mounts into them, copies in and out."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass

from machined.linux import helper, paths
from machined.linux.process import PidRef
from machined.model.errors import MachineError, Problem, no_such_machine, not_supported
from machined.model.guests import Guests, container_leader
from machined.model.inflight import InFlight
from machined.model.machine import Machine, MachineClass
from machined.model.registry import Registry


@dataclass(frozen=True, slots=True)
class Copy:
    """One copy: absolute paths on the host and in the guest, and which way it goes."""

    host: str
    guest: str
    to_guest: bool
    replace: bool = False


@dataclass(frozen=True, slots=True)
class Bind:
    """One bind mount: an absolute path of the host, and where the guest is to see it."""

    source: str
    destination: str
    read_only: bool = False
    mkdir: bool = False


class StepError(OSError):
    """A step before the copying itself failed. `why`: the step and the path, for people."""

    def __init__(self, number: int, why: str) -> None:
        super().__init__(number, os.strerror(number))
        self.why = why


class FileTransfer:
    """What is done with files of running machines. Copies count as operations, of which there are 64."""

    def __init__(self, registry: Registry, guests: Guests, version: int) -> None:
        self._guests = guests
        self._version = version
        self.operations = InFlight()
        registry.on_removed.append(self.operations.end_of)

    def may_copy(self, machine: Machine) -> None:
        """What can be said before a password is asked for. Raises MachineError."""
        if self.operations.full:
            raise MachineError(Problem.LIMITS_EXCEEDED, "Too many ongoing copies.")
        if machine.cls is not MachineClass.CONTAINER:
            raise not_supported("Copying files is only supported on container machines.")

    @staticmethod
    def may_bind(machine: Machine) -> None:
        """What can be said before a password is asked for. Raises MachineError."""
        if machine.cls is not MachineClass.CONTAINER:
            raise not_supported("Bind mounting is only supported on container machines.")

    async def copy(self, machine: Machine, what: Copy) -> None:
        """Copy a file or a tree; takes as long as it takes, but ends with the machine.

        Ownership is kept, unless the machine has user ids of its own: then all becomes root.s of the
        side it goes to. Raises MachineError; StepError before anything was copied; OSError.
        """
        self.may_copy(machine)
        leader = _leader(machine)
        if self._version < 258:  # what is wrong with both is told of this one
            self._shift(machine)
        host, guest = _split(what.host), _split(what.guest)
        shift = self._shift(machine)
        owner = None if not shift else shift if what.to_guest else 0
        arguments = {
            "host": host,
            "guest": guest,
            "to_guest": what.to_guest,
            "replace": what.replace,
            "owner": owner,
        }
        failed = await self.operations.run(machine, _copy(leader, arguments))
        if failed is None:
            raise no_such_machine(machine.name)
        step, number = failed
        if step == "host":
            raise StepError(number, f"Failed to open host directory {what.host}")
        if number:
            raise OSError(number, os.strerror(number))

    async def bind(self, machine: Machine, what: Bind) -> None:
        """Mount a file or directory of the host in the machine.

        Raises MachineError, OSError, TimeoutError.
        """
        self.may_bind(machine)
        leader = _leader(machine)
        if self._shift(machine):
            raise not_supported("Can't bind mount on container with user namespacing applied.")
        arguments = {
            "source": what.source,
            "destination": what.destination,
            "read_only": what.read_only,
            "mkdir": what.mkdir,
        }
        (await helper.run("bind", leader, arguments)).fds.close()

    def _shift(self, machine: Machine) -> int:
        """As Guests.uid_shift, but with the errno of systemd-machined for what is no plain mapping."""
        try:
            return self._guests.uid_shift(machine)
        except MachineError as error:
            raise StepError(errno.ENXIO, error.text) from error


def _split(path: str) -> tuple[str, str]:
    try:
        return paths.split(path)
    except OSError as error:
        assert error.errno is not None
        raise StepError(error.errno, f"Failed to extract file name of '{path}' path") from None


def _leader(machine: Machine) -> PidRef:
    return container_leader(machine, "Files are only reached in container machines.")


async def _copy(leader: PidRef, arguments: dict[str, object]) -> tuple[str, int]:
    """At which step the copy failed and its errno, ("", 0) when it did not."""
    try:
        reply = await helper.run("copy", leader, arguments, timeout=None, in_turn=False)
    except OSError as error:
        return "copy", error.errno or errno.EIO
    with reply.fds:
        step, number = reply.data.get("failed"), reply.data.get("errno")
    if step is None:
        return "", 0
    if not isinstance(step, str) or not isinstance(number, int):
        return "copy", errno.EIO
    return step, number
