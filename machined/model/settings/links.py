# SPDX-License-Identifier: LGPL-2.1-or-later
"""Kinds of values of the network: names of interfaces, ports, addresses of hardware."""

from __future__ import annotations

import re
from typing import Final

from machined.model.names import is_machine_name
from machined.model.settings import kinds
from machined.model.settings.kinds import Kind

NAME_MAX: Final = 15
"""Bytes of an interface's name (IFNAMSIZ - 1)."""
ZONE_PREFIX: Final = "vz-"
_ALTERNATIVE_MAX: Final = 127


def interface(text: str) -> str:
    """The name of an interface."""
    if not text:
        raise ValueError("must be the name of an interface")
    wrong = (
        text in {".", "..", "all", "default"}
        or text.isdecimal()
        or any(c in "/:%" or not 32 < ord(c) < 127 for c in text)
    )
    if wrong:
        raise ValueError(
            f"'{text}' can be no interface's name: letters, digits and '-_.', and not only digits"
        )
    if len(text) > NAME_MAX:
        raise ValueError(f"'{text}' is longer than an interface's name may be, {NAME_MAX} characters")
    return text


def alternative(text: str) -> str:
    """A name of one that is there, which may be an alternative one (ip-link(8), altname)."""
    return interface(text[:NAME_MAX]) + text[NAME_MAX:] if len(text) <= _ALTERNATIVE_MAX else interface(text)


def pair(text: str) -> str:
    """HOST[:CONTAINER]"""
    host, colon, inside = text.partition(":")
    return alternative(host) + (colon + interface(inside) if colon else "")


def extra(text: str) -> str:
    """HOST[:CONTAINER], both of which are made."""
    host, colon, inside = text.partition(":")
    return interface(host) + (colon + interface(inside) if colon else "")


def zone(text: str) -> str:
    """What comes after vz- in the name of the zone's bridge."""
    if not is_machine_name(text):
        raise ValueError("must be a word of letters, digits and '-'")
    if len(ZONE_PREFIX + text) > NAME_MAX:
        raise ValueError(f"must have no more than {NAME_MAX - len(ZONE_PREFIX)} characters")
    return text


INTERFACE: Final = Kind("INTERFACE", alternative)
PAIR: Final = Kind("HOST[:CONTAINER]", pair, words=True)
EXTRA: Final = Kind("HOST[:CONTAINER]", extra)
ZONE: Final = Kind("NAME", zone)


def port(text: str) -> str:
    """PROTOCOL:HOST:CONTAINER"""
    parts = text.split(":")
    protocol = parts.pop(0) if parts[0] in {"tcp", "udp"} else "tcp"
    numbers = [int(part) for part in parts if part.isascii() and part.isdecimal() and len(part) < 6]
    if not 1 <= len(parts) <= 2 or len(numbers) != len(parts) or not all(0 < n < 65536 for n in numbers):
        raise ValueError("must be [tcp:|udp:]HOST-PORT[:CONTAINER-PORT], ports from 1 to 65535")
    return f"{protocol}:{numbers[0]}:{numbers[-1]}"


PORT: Final = Kind("[PROTOCOL:]HOST[:CONTAINER]", port)


def mac_address(text: str) -> str:
    """Six bytes, of one interface."""
    value = text.lower().replace("-", ":")
    if not re.fullmatch(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", value) or value == "00:00:00:00:00:00":
        raise ValueError("must be a hardware address, as '02:11:22:33:44:55'")
    if int(value[:2], 16) & 1:
        raise ValueError("must not be a multicast address (its first byte is odd)")
    return value


MAC_ADDRESS: Final = Kind("ADDRESS", mac_address)
HOST_NAME: Final = kinds.matching(
    r"(?=.{1,64}$)[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?)*",
    "a host name of at most 64 letters, digits, '-' and '.'", shown="NAME",
)  # fmt: skip
