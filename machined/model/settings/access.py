# SPDX-License-Identifier: LGPL-2.1-or-later
"""Kinds of values for what a unit may reach: devices, disks, addresses, ports, network links."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Callable
from typing import Any, Final

from machined.model.settings import kinds, places, quantities
from machined.model.settings.limits import (
    IO_WEIGHT,
    Property,
    UnitKind,
    array,
    single,
)
from machined.model.settings.words import join_words, split_words

_RIGHTS: Final = "rwm"
_CLASS: Final = re.compile(r"(char|block)-[^\s/]{1,200}")


def _device(text: str) -> str:
    node, rights = _pair(text, "a device and what is allowed, as '/dev/kvm rw'", second=_RIGHTS)
    if not _CLASS.fullmatch(node):
        node = places.path(node)
        if not node.startswith(("/dev/", "/run/systemd/inaccessible/")):
            raise ValueError(
                f"'{node}' must be a path under /dev, or a kind of device as 'char-pts' or 'block-*'"
            )
    if not rights or set(rights) - set(_RIGHTS) or len(set(rights)) < len(rights):
        raise ValueError(f"'{rights}' must be of the letters r, w and m (read, write, make)")
    return join_words([node, "".join(right for right in _RIGHTS if right in rights)])


def _pair(text: str, valid: str, *, second: str = "") -> tuple[str, str]:
    """Two words, of which the second one may be missing where there is a usual one."""
    words = split_words(text)
    if len(words) == 1 and second:
        return words[0], second
    if len(words) < 2 or (second and len(words) > 2):
        raise ValueError(f"must be {valid}")
    return words[0], " ".join(words[1:])


DEVICE: Final = array(
    "DEVICE [rwm]", _device, "a(ss)", lambda text: [split_words(text)], choices=("/dev/kvm", "char-input rw")
)


def _of_disk(read: Callable[[str], object], to_bus: Callable[[str], int], example: str) -> UnitKind:
    """A disk, or a file on it, and an amount: a(st)."""
    valid = f"a path and an amount, as '/dev/sda {example}'"

    def read_both(text: str) -> str:
        path, amount = _pair(text, valid)
        read(amount)
        return join_words([places.path(path), *amount.split()])

    def element(text: str) -> list[Any]:
        path, *amount = split_words(text)
        return [[path, to_bus(" ".join(amount))]]

    return array("PATH AMOUNT", read_both, "a(st)", element)


def _rate(text: str) -> int:
    value = quantities.size(text, 1000)
    if not value:
        raise ValueError("must be more than nothing")
    return value


def _latency(text: str) -> int:
    value = quantities.span(text)
    if not value:
        raise ValueError("must be more than nothing")
    return value


DISK_WEIGHT: Final = _of_disk(IO_WEIGHT.read, int, "200")
DISK_RATE: Final = _of_disk(_rate, _rate, "10M")
DISK_LATENCY: Final = _of_disk(_latency, _latency, "25ms")

_NETWORKS: Final = {
    "any": ("0.0.0.0/0", "::/0"),
    "localhost": ("127.0.0.0/8", "::1/128"),
    "link-local": ("169.254.0.0/16", "fe80::/64"),
    "multicast": ("224.0.0.0/4", "ff00::/8"),
}


def _network(text: str) -> str:
    if text in _NETWORKS:
        return text
    try:
        return str(ipaddress.ip_network(text, strict=False)) if "%" not in text else _no_network()
    except ValueError:
        _no_network()
        raise


def _no_network() -> str:
    raise ValueError(
        "must be addresses or networks, as '10.0.0.0/8' or 'fd00::1', or "
        + ", ".join(f"'{name}'" for name in _NETWORKS)
    ) from None


def _addresses(text: str) -> list[Any]:
    networks = [ipaddress.ip_network(network) for network in _NETWORKS.get(text, (text,))]
    return [
        [
            int(socket.AF_INET if network.version == 4 else socket.AF_INET6),
            network.network_address.packed,
            network.prefixlen,
        ]
        for network in networks
    ]


ADDRESSES: Final = array(
    "ADDRESS[/LENGTH]…", _network, "a(iayu)", _addresses, words=True, choices=tuple(_NETWORKS)
)

_PORT: Final = re.compile(
    r"((ipv4|ipv6):)?((tcp|udp):)?(any|([1-9][0-9]{0,4})(-([1-9][0-9]{0,4}))?)|(ipv4|ipv6)(:(tcp|udp))?|tcp|udp"
)
_FAMILIES: Final = {"ipv4": int(socket.AF_INET), "ipv6": int(socket.AF_INET6)}
_PROTOCOLS: Final = {"tcp": socket.IPPROTO_TCP, "udp": socket.IPPROTO_UDP}


def _ports(text: str) -> tuple[int, int, int, int]:
    """Family, protocol, how many ports, the first of them; 0 for all."""
    family = protocol = count = first = 0
    for word in text.split(":") if _PORT.fullmatch(text) else [""]:
        low, _, high = word.partition("-")
        if word in _FAMILIES:
            family = _FAMILIES[word]
        elif word in _PROTOCOLS:
            protocol = int(_PROTOCOLS[word])
        elif low.isdigit() and int(low) <= int(high or low) <= 65535:
            first, count = int(low), int(high or low) - int(low) + 1
        elif word != "any":
            raise ValueError("must be [ipv4:|ipv6:][tcp:|udp:]PORT[-PORT], or 'any'")
    return family, protocol, count, first


def _port(text: str) -> str:
    _ports(text)
    return text


PORT: Final = array("PORT", _port, "a(iiqq)", lambda text: [list(_ports(text))], choices=("any",))

_LINK: Final = r"~?[^\s/:~]{1,15}"


def _links(name: str, values: tuple[str, ...]) -> Property:
    # PID 1 takes the whole list for one of links to keep out where the first one says so.
    allowed = not values or not values[0].startswith("~")
    return name, "(bas)", [allowed, [value.removeprefix("~") for value in values]]


LINKS: Final = UnitKind(
    "[~]LINK…",
    kinds.matching(_LINK, "names of network links, after a '~' all but these", shown="").read,
    words=True,
    convert=_links,
)
LINK: Final = single(
    "LINK", kinds.matching(r"[^\s/:~]{1,15}", "the name of a network link", shown="").read, "s", str, ""
)

# Sources and protocol families that a rule of nftables names, by PID 1's and the kernel's numbers.
_SOURCES: Final = {"cgroup": 3, "user": 4, "group": 5}
_TABLES: Final = {"inet": 1, "ip": 2, "arp": 3, "netdev": 5, "bridge": 7, "ip6": 10}


def _set(text: str) -> str:
    parts = text.split(":")
    known = len(parts) == 4 and parts[0] in _SOURCES and parts[1] in _TABLES
    if known and all(re.fullmatch(r"[A-Za-z][A-Za-z0-9/\\_.]{0,30}", part) for part in parts[2:]):
        return text
    raise ValueError(
        f"must be SOURCE:FAMILY:TABLE:SET, of {', '.join(_SOURCES)} and {', '.join(_TABLES)}, as "
        f"'cgroup:inet:filter:my_set'"
    )


def _set_element(text: str) -> list[Any]:
    source, family, table, name = text.split(":")
    return [[_SOURCES[source], _TABLES[family], table, name]]


NFT_SET: Final = array("SET…", _set, "a(iiss)", _set_element, words=True)
FILTER: Final = array("PATH", places.path, "as", lambda text: [text], live=False)


def _program(text: str) -> str:
    kind, _, path = text.partition(":")
    if not re.fullmatch(r"[a-z0-9_]{1,40}", kind):
        raise ValueError("must be TYPE:PATH of a pinned program, as 'egress:/sys/fs/bpf/program'")
    return f"{kind}:{places.path(path)}"


PROGRAM: Final = array("TYPE:PATH", _program, "a(ss)", lambda text: [text.split(":", 1)], live=False)
