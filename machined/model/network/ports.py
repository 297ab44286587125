# SPDX-License-Identifier: LGPL-2.1-or-later
"""Published ports: a port of the host that leads to one of a machine."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from machined.linux import listening
from machined.model.errors import MachineError, Problem, invalid
from machined.model.settings import links


@dataclass(frozen=True, slots=True, order=True)
class Port:
    """`live`: it was published while the machine ran, and ends with it."""

    protocol: str
    host: int
    machine: int
    live: bool = False

    @classmethod
    def parse(cls, text: str, *, live: bool = False) -> Self:
        """[tcp:|udp:]HOST[:MACHINE]. Raises MachineError (INVALID_ARGS)."""
        try:
            protocol, host, machine = links.port(text).split(":")
        except ValueError as error:
            raise invalid(f"Port '{text[:80]}' {error}.") from None
        return cls(protocol, int(host), int(machine), live)

    @property
    def place(self) -> tuple[str, int]:
        """What only one machine can have."""
        return self.protocol, self.host

    def __str__(self) -> str:
        return f"{self.protocol}:{self.host}:{self.machine}"


def check_free(wanted: Port, others: Iterable[tuple[str, Port]], said: str) -> None:
    """Raises MachineError when a port has a user: another machine, or a program of the host.

    `others` are the published ports, with their machines; `said` says where it is wished for.
    """
    for name, port in others:
        if port.place == wanted.place:
            raise MachineError(
                Problem.FILE_EXISTS,
                f"{said}: {wanted.protocol} port {wanted.host} of this host leads to machine '{name}' "
                f"already ({port}); choose another one, or 'machinectl unpublish {name} {port}'.",
            )
    if wanted.host in listening.ports(wanted.protocol):
        tool = f"ss -l{wanted.protocol[0]}np 'sport = {wanted.host}'"
        raise MachineError(
            Problem.FILE_EXISTS,
            f"{said}: a program of this host listens on {wanted.protocol} port {wanted.host} already; "
            f"choose another one ({tool} shows which program it is).",
        )
