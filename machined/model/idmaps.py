# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which user or group of the host stands for which one in a machine, by the kernel's maps of its leader.

Asked for every user name that the host does not know, so nothing here waits: /proc answers at once, and the
map of a user namespace, which the kernel lets nobody change (user_namespaces(7)), is read once.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from enum import StrEnum
from typing import Final

from machined.linux import process
from machined.linux.process import IdMap
from machined.model.errors import MachineError, Problem, invalid, no_such_process
from machined.model.machine import Machine, MachineClass
from machined.model.registry import Registry

# What is below belongs to the host, whatever a map says.
HOST_RANGE: Final = 0x10000
# (uid_t) -1 of 32 and of 16 bits: chown(2) takes neither for a user.
NOBODY_AT_ALL: Final = frozenset({0xFFFFFFFF, 0xFFFF})


class Kind(StrEnum):
    """The two kinds of ids, as the kernel's files call them; they have maps of their own."""

    USER = "uid"
    GROUP = "gid"


def is_id(number: int) -> bool:
    """Whether there can be a user (or group) of this number."""
    return 0 <= number < 2**32 and number not in NOBODY_AT_ALL


class IdMaps:
    """The maps of all machines."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._known: dict[Machine, tuple[tuple[int, int], dict[Kind, IdMap]]] = {}
        registry.on_removed.append(self._forget)

    def _forget(self, machine: Machine) -> None:
        self._known.pop(machine, None)

    def outside(self, machine: Machine, kind: Kind, inner: int) -> int | None:
        """The id on the host of one inside; None without any. `machine` is a container.

        Raises OSError: EINVAL when the map leads to no valid id, ESRCH when the leader has gone.
        """
        for first_inner, first_outer, count in self._map(machine, kind):
            if first_inner <= inner < first_inner + count:
                return _valid(first_outer + inner - first_inner)
        return None

    def inside(self, kind: Kind, outer: int) -> tuple[Machine, int] | None:
        """The container that an id of the host belongs to, and the id in there.

        A part of a map that begins with the host's root is no private one: it owns nothing.
        Raises OSError (EINVAL) when the map leads to no valid id.
        """
        for machine, lines in self._maps(kind):
            for first_inner, first_outer, count in lines:
                if first_outer and first_outer <= outer < first_outer + count:
                    return machine, _valid(first_inner + outer - first_outer)
        return None

    def ranges(self, kind: Kind) -> Iterator[tuple[Machine, int, int]]:
        """What containers have of the host's ids: first, and how many, if not from root on."""
        for machine, lines in self._maps(kind):
            yield from ((machine, first, count) for _, first, count in lines if first)

    def _maps(self, kind: Kind) -> Iterator[tuple[Machine, IdMap]]:
        for machine in self._registry:
            if machine.cls is not MachineClass.CONTAINER:
                continue
            try:
                lines = self._map(machine, kind)
            except OSError:
                continue  # its leader has gone and it follows soon; the others are none the worse for it
            yield machine, lines

    def _map(self, machine: Machine, kind: Kind) -> IdMap:
        leader = machine.leader
        if leader is None:
            raise no_such_process()
        namespace = process.namespace_id(leader.pid, "user")
        known = self._known.get(machine)
        if known is None or known[0] != namespace:
            known = (namespace, {})
        lines = known[1].get(kind)
        if lines is None:
            lines = process.id_map(leader.pid, kind.value)
            if lines and process.namespace_id(leader.pid, "user") == namespace:
                # One that is empty is still to be written.
                known[1][kind] = lines
                self._known[machine] = known
        if not leader.alive():
            # What was read may be of another process with its number.
            self._forget(machine)
            raise no_such_process()
        return lines


def _valid(number: int) -> int:
    if not is_id(number):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    return number


def check_container(machine: Machine) -> None:
    """Raises MachineError (INVALID_ARGS) for what has no maps of its own."""
    if machine.cls is not MachineClass.CONTAINER:
        raise invalid("Not supported for non-container machines.")


def no_user(text: str) -> MachineError:
    return MachineError(Problem.NO_SUCH_USER_MAPPING, text)


def no_group(text: str) -> MachineError:
    return MachineError(Problem.NO_SUCH_GROUP_MAPPING, text)
