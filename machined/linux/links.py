# SPDX-License-Identifier: LGPL-2.1-or-later
"""Network links, their addresses and routes, changed over netlink by pyroute2.

Importing that takes 200 ms and 10 MB, so it is imported by the first call that needs it: who manages no
network pays nothing. All functions block, and must not be called where an event loop runs: call them in a
thread. Every failure is an OSError.
"""

from __future__ import annotations

import errno
import importlib
import logging
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Interface, IPv6Interface, ip_interface
from types import ModuleType
from typing import Any, Final

from machined.linux import syscalls, sysctl

Interface = IPv4Interface | IPv6Interface

# <linux/if_addr.h>: nobody else can have it, so there is nothing to wait for.
_IFA_F_NODAD: Final = 0x02
_CLONE_NEWNET: Final = 0x40000000
# <linux/rtnetlink.h>
_RT_TABLE_MAIN: Final = 254
_LOADING: Final = threading.Lock()


@dataclass(frozen=True, slots=True)
class Used:
    """A network that is in use, as an address of a link or a destination of a route."""

    network: Interface
    link: str


def _load() -> None:
    """Import pyroute2, without OpenSSL: one of its modules names that, and uses it for web probes alone."""
    if "pyroute2" in sys.modules:
        return
    absent = "ssl" in sys.modules and sys.modules["ssl"] is None
    if absent:
        sys.modules["ssl"] = ModuleType("ssl")
    try:
        importlib.import_module("pyroute2")
        # It tells of every message and every attribute: nobody who debugs us wants that.
        logging.getLogger("pyroute2").setLevel(logging.WARNING)
    finally:
        if absent:
            sys.modules["ssl"] = None  # type: ignore[assignment]  # as the daemon wants it


@contextmanager
def connected() -> Iterator[Any]:
    """A connection to the kernel's links of this thread's network namespace."""
    with _LOADING:
        _load()
    from pyroute2 import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        with IPRoute() as kernel:
            yield kernel
    except NetlinkError as error:
        raise OSError(error.code, os.strerror(error.code)) from error


def _find(kernel: Any, name: str) -> int | None:
    found = kernel.link_lookup(ifname=name)
    return int(found[0]) if found else None


def get(kernel: Any, name: str) -> int:
    index = _find(kernel, name)
    if index is None:
        raise OSError(errno.ENODEV, f"there is no interface '{name}'")
    return index


def exists(name: str) -> bool:
    """Whether there is a link of this name; cheap."""
    try:
        socket.if_nametoindex(name)
    except OSError:
        return False
    return True


def make_bridge(name: str, mac: str, addresses: Iterable[Interface]) -> None:
    """A bridge that is up and has these addresses; one that is there already gets what it lacks."""
    with connected() as kernel:
        index = _find(kernel, name)
        if index is None:
            kernel.link("add", ifname=name, kind="bridge", address=mac)
            index = get(kernel, name)
        kind = kernel.get_links(index)[0].get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND")
        if kind != "bridge":
            raise FileExistsError(errno.EEXIST, f"there is an interface '{name}' that is no bridge")
        _add_addresses(kernel, index, addresses)
        kernel.link("set", index=index, state="up")


def remove(name: str) -> None:
    """Take a link away; no error when it is gone."""
    with connected() as kernel:
        index = _find(kernel, name)
        if index is not None:
            kernel.link("del", index=index)


def used_networks() -> list[Used]:
    """What the host's addresses and routes lead to, default routes left out."""
    with connected() as kernel:
        names = {link["index"]: link.get("IFLA_IFNAME") for link in kernel.get_links()}
        found = [
            Used(ip_interface(f"{row.get('IFA_ADDRESS')}/{row['prefixlen']}"), names.get(row["index"], ""))
            for row in kernel.get_addr()
        ]
        for route in kernel.get_routes(table=_RT_TABLE_MAIN):
            destination = route.get("RTA_DST")
            if destination and route["dst_len"]:
                link = names.get(route.get("RTA_OIF"), "")
                found.append(Used(ip_interface(f"{destination}/{route['dst_len']}"), link))
    return found


def attach(name: str, bridge: str, vlan: int = 0) -> None:
    """Make a link a port of a bridge, in one VLAN of it (untagged) if `vlan` is not 0, and bring it up."""
    with connected() as kernel:
        index = get(kernel, name)
        kernel.link("set", index=index, master=get(kernel, bridge))
        if vlan:
            kernel.vlan_filter("del", index=index, vlan_info={"vid": 1})
            flags = ["pvid", "untagged"]
            kernel.vlan_filter("add", index=index, vlan_info={"vid": vlan, "flags": _vlan_flags(flags)})
        kernel.link("set", index=index, state="up")


def _vlan_flags(names: Sequence[str]) -> int:
    # <linux/if_bridge.h>
    bits = {"pvid": 0x02, "untagged": 0x04}
    return sum(bits[name] for name in names)


def give(
    namespace: int, link: str, addresses: Iterable[Interface], gateways: Iterable[str], mac: str = ""
) -> None:
    """Set up a link in the network namespace of this descriptor: what it lacks of addresses and routes."""

    def work() -> None:
        with connected() as kernel:
            index = get(kernel, link)
            if mac:
                kernel.link("set", index=index, state="down")
                kernel.link("set", index=index, address=mac)
            _add_addresses(kernel, index, addresses)
            kernel.link("set", index=index, state="up")
            for gateway in gateways:
                _add_default_route(kernel, index, gateway)

    in_namespace(namespace, work)


def in_namespace(namespace: int, work: Callable[[], None]) -> None:
    """Do work in the network namespace of this descriptor, in a thread that goes there and ends there."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            syscalls.setns(namespace, _CLONE_NEWNET)
            work()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run, name="network namespace")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


def _add_addresses(kernel: Any, index: int, addresses: Iterable[Interface]) -> None:
    for address in addresses:
        if address.version == 6 and not sysctl.has_ipv6():
            continue
        more: dict[str, Any] = {"flags": _IFA_F_NODAD} if address.version == 6 else {}
        if address.version == 4 and address.network.prefixlen < 31:
            more["broadcast"] = str(address.network.broadcast_address)
        more |= {"index": index, "address": str(address.ip), "prefixlen": address.network.prefixlen}
        tolerate(errno.EEXIST, partial(kernel.addr, "add", **more))


def _add_default_route(kernel: Any, index: int, gateway: str) -> None:
    family = socket.AF_INET6 if ":" in gateway else socket.AF_INET
    if family == socket.AF_INET6 and not sysctl.has_ipv6():
        return
    tolerate(
        errno.EEXIST,
        lambda: kernel.route("add", family=family, dst="default", gateway=gateway, oif=index),
    )


def tolerate(number: int, work: Callable[[], object]) -> None:
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        work()
    except NetlinkError as error:
        if error.code != number:
            raise
