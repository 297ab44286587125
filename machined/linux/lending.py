# SPDX-License-Identifier: LGPL-2.1-or-later
"""Network links of the host that are lent to another network namespace, and fetched back out of it.

The kernel destroys a virtual link with the namespace that it is in; hardware comes back by itself, under the
name that it had there. As in links.py everything blocks, and every failure is an OSError.
"""

from __future__ import annotations

import errno
import hashlib
import os
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

from machined.linux import links

_OURS: Final = "/proc/thread-self/ns/net"


@dataclass(frozen=True, slots=True)
class Lent:
    """One link: what it is called here and there, and what it is known by where names mean nothing."""

    host: str
    inside: str
    index: int = 0
    """Its number, in the other namespace as soon as it was seen there; 0 when it was never seen."""
    kind: str = ""
    """dummy, veth, …; nothing for hardware."""
    permanent: str = ""
    """The address that hardware was made with."""

    @property
    def passing(self) -> str:
        """A name that nothing else has, on the way from one namespace to the other."""
        return "ln-" + hashlib.sha256(f"{self.host}\0{self.inside}".encode()).hexdigest()[:12]


def look(pairs: Iterable[tuple[str, str]]) -> list[Lent]:
    """Links of this namespace that are to be lent, by their names (or alternative names) here and there.

    Those that are not here are left out.
    """
    with links.connected() as kernel:
        rows = kernel.get_links()
    found = []
    for host, inside in pairs:
        row = next((row for row in rows if host in _names(row)), None)
        if row is not None:
            found.append(Lent(row.get("IFLA_IFNAME"), inside, row["index"], _kind(row), _permanent(row)))
    return found


def _names(row: Any) -> set[str]:
    more = row.get("IFLA_PROP_LIST")
    return {row.get("IFLA_IFNAME"), *(more.get_attrs("IFLA_ALT_IFNAME") if more else ())}


def _kind(row: Any) -> str:
    return row.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND") or ""


def _permanent(row: Any) -> str:
    return row.get("IFLA_PERM_ADDRESS") or ""


def seen(namespace: int, lent: Sequence[Lent]) -> list[Lent]:
    """The same with their numbers in the namespace of this descriptor, where nobody has renamed any yet."""
    numbers = {name: index for index, name in _there(namespace)}
    return [replace(link, index=numbers.get(link.inside, link.index)) for link in lent]


def left(namespace: int, lent: Sequence[Lent]) -> list[Lent]:
    """Those that are in the namespace still; cheap."""
    numbers = {index for index, _ in _there(namespace)}
    return [link for link in lent if link.index in numbers]


def _there(namespace: int) -> list[tuple[int, str]]:
    found: list[tuple[int, str]] = []
    links.in_namespace(namespace, lambda: found.extend(socket.if_nameindex()))
    return found


def fetch(namespace: int, link: Lent) -> str:
    """Bring a link from that namespace to this one, down; returns its name now.

    That is the one it had, unless something else here is called so. What has its number there but is of
    another kind was made there, and stays: OSError (ENODEV).
    """
    here = os.open(_OURS, os.O_RDONLY | os.O_CLOEXEC)

    def send() -> None:
        with links.connected() as kernel:
            if not _is(kernel.get_links(link.index)[0], link):
                raise OSError(errno.ENODEV, "it is not there any more")
            kernel.link("set", index=link.index, state="down")
            # Under a name that is free on both sides: else the kernel refuses, or makes one up.
            kernel.link("set", index=link.index, ifname=link.passing)
            kernel.link("set", index=link.index, net_ns_fd=here)

    try:
        links.in_namespace(namespace, send)
    finally:
        os.close(here)
    with links.connected() as kernel:
        return _call(kernel, links.get(kernel, link.passing), link.passing, link)


def _is(row: Any, link: Lent) -> bool:
    """Whether a link with its number is the one that was lent."""
    return _kind(row) == link.kind and _permanent(row) == link.permanent


def recover(link: Lent) -> str:
    """Have a link that is here, or that the kernel has returned, by its name; returns its name now.

    "" when it is not there: it has gone with the other namespace.
    """
    if links.exists(link.host):
        return link.host
    with links.connected() as kernel:
        for row in kernel.get_links():
            name = row.get("IFLA_IFNAME")
            # Without a hardware address of its own there is the number alone, and that may be another's now.
            same = bool(link.permanent) or (row["index"] == link.index and name == link.inside)
            if name == link.passing or (same and _is(row, link)):
                kernel.link("set", index=row["index"], state="down")
                return _call(kernel, row["index"], name, link)
    return ""


def _call(kernel: Any, index: int, name: str, link: Lent) -> str:
    """Give a link the name that it had, or the one it had there, or leave it the one it has."""
    for wanted in dict.fromkeys((link.host, link.inside)):
        if wanted == name or not links.exists(wanted):
            links.tolerate(errno.EEXIST, partial(kernel.link, "set", index=index, ifname=wanted))
            return str(kernel.get_links(index)[0].get("IFLA_IFNAME"))
    return name
