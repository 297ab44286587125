# SPDX-License-Identifier: LGPL-2.1-or-later
"""The network that we manage: [Machine] Network=, and what [Network] says of it, all unknown to nspawn."""

from __future__ import annotations

from ipaddress import IPv4Interface, IPv6Interface, ip_address, ip_interface
from typing import Final

from machined.model.settings import kinds, links
from machined.model.settings.kinds import Kind
from machined.model.settings.setting import Form, Setting, Trust

MANAGED: Final = "managed"
VLAN_MAX: Final = 4094


def address(text: str) -> str:
    """ADDRESS[/PREFIX] of a machine."""
    try:
        found = ip_interface(text)
    except ValueError:
        raise ValueError("must be an IPv4 or IPv6 address, as '10.1.2.3' or 'fd00::3/64'") from None
    if found.ip.is_multicast or found.ip.is_loopback or found.ip.is_unspecified:
        raise ValueError("must be the address of one machine")
    return str(found) if "/" in text else str(found.ip)


def host_address(text: str) -> str:
    """ADDRESS"""
    try:
        found = ip_address(text)
    except ValueError:
        raise ValueError("must be an IPv4 or IPv6 address, without '/'") from None
    if found.is_multicast or found.is_unspecified:
        raise ValueError("must be the address of one host")
    return str(found)


def link(text: str) -> str:
    """NAME[:bridge=…,vlan=…,mac=…,address=…], one more interface; address= may be there several times."""
    name, _, rest = text.partition(":")
    parts = [links.interface(name)]
    said = set()
    for word in filter(None, rest.split(",")):
        key, equals, value = word.partition("=")
        if not equals or key not in _LINK_KEYS:
            raise ValueError(f"'{word}' must be one of {', '.join(f'{known}=' for known in _LINK_KEYS)}")
        if key in said and key != "address":
            raise ValueError(f"{key}= is there twice")
        said.add(key)
        parts.append(f"{key}={_LINK_KEYS[key](value)}")
    if name == "host0":
        raise ValueError("'host0' is the link that is there already; choose another name")
    if "vlan" in said and "bridge" not in said:
        raise ValueError("vlan= is one of a bridge: say bridge= as well")
    return ":".join([parts[0], *([",".join(parts[1:])] if parts[1:] else [])])


def _with_prefix(text: str) -> str:
    if "/" not in text:
        raise ValueError("address= must have its prefix, as '10.1.2.3/24'")
    return address(text)


_LINK_KEYS: Final = {
    "bridge": links.interface,
    "vlan": kinds.number(1, VLAN_MAX).read,
    "mac": links.mac_address,
    "address": _with_prefix,
}


def interface_of(text: str) -> IPv4Interface | IPv6Interface:
    """An address as address() made it."""
    return ip_interface(text)


ROWS: Final = (
    Setting(
        "Machine", "Network", kinds.one_of(MANAGED, "own"), "",
        "'managed': addresses, routes, names and a way out by machined itself, as [Network] Managed=yes.",
        Form.OWN, trust=Trust.NOTHING, nspawn_since=None,
    ),
    Setting(
        "Network", "Managed", kinds.BOOLEAN, "",
        "The link to the host is one of machined's network, which gives it addresses, routes, names and a "
        "way out, whatever the host runs.",
        Form.OWN, trust=Trust.NOTHING, nspawn_since=None,
    ),
    Setting(
        "Network", "Address", Kind("ADDRESS[/PREFIX]", address, words=True), "",
        "The machine's address in the managed network, instead of one that is chosen for it.",
        Form.OWN, many=True, whole=True, trust=Trust.NOTHING, nspawn_since=None,
    ),
    Setting(
        "Network", "Gateway", Kind("ADDRESS", host_address), "",
        "Its router, instead of this host.", Form.OWN, trust=Trust.NOTHING, nspawn_since=None,
    ),
    Setting(
        "Network", "DNS", Kind("ADDRESS", host_address, words=True), "",
        "Its name servers, instead of this host.",
        Form.OWN, many=True, whole=True, trust=Trust.NOTHING, nspawn_since=None,
    ),
    Setting(
        "Network", "Link", Kind("NAME[:bridge=…,vlan=…,mac=…,address=…]", link), "",
        "One more interface of a managed machine, on a bridge of the host and in a VLAN of it.",
        Form.OWN, many=True, trust=Trust.NOTHING, nspawn_since=None,
    ),
)  # fmt: skip
