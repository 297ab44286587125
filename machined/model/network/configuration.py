# SPDX-License-Identifier: LGPL-2.1-or-later
"""/etc/machined/network.conf: which addresses the managed network may have.

[Network]
Subnet=10.20.30.0/24       # exactly this, instead of one that is chosen out of:
Pool=10.128.0.0/9
Subnet6=fd12:3456:789a::/64
Firewall=yes               # whether rules may be added where a firewall would drop what is ours
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Final

from machined.linux import inifile
from machined.linux.inifile import Assignment
from machined.model.errors import MachineError, Problem
from machined.model.settings import kinds

FILE: Final = Path("/etc/machined/network.conf")
_KEYS: Final = ("Subnet", "Pool", "Subnet6", "Firewall")
_POOL: Final = IPv4Network("10.128.0.0/9")
_SMALLEST: Final = 29


@dataclass(frozen=True, slots=True)
class Configuration:
    """What the administrator says."""

    subnet: IPv4Network | None = None
    pool: IPv4Network = _POOL
    subnet6: IPv6Network | None = None
    firewall: bool = True


def load() -> Configuration:
    """Raises MachineError (INVALID_SETTINGS) with file and line."""
    try:
        document = inifile.read(FILE)
    except (inifile.InvalidFileError, OSError) as error:
        raise MachineError(Problem.INVALID_SETTINGS, f"{FILE}: cannot be read: {error}") from None
    if document is None:
        return Configuration()
    for complaint in document.complaints:
        raise MachineError(Problem.INVALID_SETTINGS, str(complaint))
    said: dict[str, Assignment] = {}
    for line in document.assignments:
        if line.section != "Network" or line.key not in _KEYS:
            known = ", ".join(f"{key}=" for key in _KEYS)
            raise MachineError(
                Problem.INVALID_SETTINGS,
                f"{line.place}: unknown '[{line.section}] {line.key}='; [Network] has {known}.",
            )
        said[line.key] = line
    usual = Configuration()
    return Configuration(
        _network4(said.get("Subnet"), 8, _SMALLEST),
        _network4(said.get("Pool"), 8, 24) or usual.pool,
        _network6(said.get("Subnet6")),
        _boolean(said.get("Firewall")),
    )


def _bad(line: Assignment, valid: str) -> MachineError:
    return MachineError(
        Problem.INVALID_SETTINGS, f"{line.place}: [Network] {line.key}={line.value} is not valid: {valid}."
    )


def _network4(line: Assignment | None, shortest: int, longest: int) -> IPv4Network | None:
    if line is None or not line.value:
        return None
    try:
        network = ip_network(line.value)
    except ValueError:
        raise _bad(line, "must be an IPv4 network, as '10.20.30.0/24'") from None
    if not isinstance(network, IPv4Network) or not shortest <= network.prefixlen <= longest:
        raise _bad(line, f"must be an IPv4 network with a prefix from /{shortest} to /{longest}")
    if network.is_loopback or network.is_multicast or network.is_link_local:
        raise _bad(line, "must be a network of hosts")
    return network


def _network6(line: Assignment | None) -> IPv6Network | None:
    if line is None or not line.value:
        return None
    try:
        network = ip_network(line.value)
    except ValueError:
        raise _bad(line, "must be an IPv6 network, as 'fd12:3456:789a::/64'") from None
    if not isinstance(network, IPv6Network) or network.prefixlen != 64:
        raise _bad(line, "must be an IPv6 network with a prefix of /64")
    if network.is_multicast or network.is_link_local:
        raise _bad(line, "must be a network of hosts")
    return network


def _boolean(line: Assignment | None) -> bool:
    if line is None or not line.value:
        return True
    try:
        return kinds.boolean(line.value) == "yes"
    except ValueError as error:
        raise _bad(line, str(error)) from None
