# SPDX-License-Identifier: LGPL-2.1-or-later
"""Rows of org.machined1.Manager about the managed network: published ports, and what stands in the way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from dbus_fast import Variant

from machined.bus.call import Call
from machined.bus.verbs import ACTION, options
from machined.bus.vtable import Row, method
from machined.model.core import Core
from machined.model.network import host
from machined.model.network.ports import Port


async def _authorize(call: Call, name: str, verb: str, port: str) -> None:
    await call.authorize(f"{ACTION}publish-port", {"machine": name, "verb": verb, "port": port})


async def publish(call: Call, core: Core, name: str, port: str, given: Mapping[str, Variant]) -> str:
    options(given, {})
    core.networks.record(name)
    wanted = str(Port.parse(port))
    await _authorize(call, name, "publish", wanted)
    return str(await core.networks.publish(name, wanted))


async def unpublish(call: Call, core: Core, name: str, port: str, given: Mapping[str, Variant]) -> None:
    options(given, {})
    core.networks.record(name)
    await _authorize(call, name, "unpublish", str(Port.parse(port)))
    await core.networks.unpublish(name, port)


def ports(call: Call, core: Core, name: str) -> list[list[object]]:
    records = [core.networks.record(name)] if name else core.networks.all()
    return [
        [record.machine, port.protocol, port.host, port.machine, record.address, record.address6, port.live]
        for record in records
        for port in record.ports
    ]


def network(call: Call, core: Core) -> dict[str, Variant]:
    plan = host.plan_in_force()
    told = {"advice": Variant("as", core.networks.advice)}
    if plan is not None:
        told |= {
            "bridge": Variant("s", plan.bridge),
            "subnet": Variant("s", str(plan.subnet)),
            "prefix": Variant("s", str(plan.prefix)),
            "server": Variant("s", host.server()),
            "machines": Variant("a(sss)", [[r.machine, r.address, r.address6] for r in core.networks.all()]),
        }
    return told


ROWS: Final[tuple[Row, ...]] = (
    method(
        "PublishPort",
        "s name, s port, a{sv} options",
        "s published",
        publish,
        doc=(
            "Have a port of this host lead to one of a machine with a managed network, until that is "
            "over: `port` is [tcp:|udp:]HOST[:MACHINE]. A port that another machine or a program of the "
            "host has is refused. Returns it in full. No options."
        ),
    ),
    method(
        "UnpublishPort",
        "s name, s port, a{sv} options",
        "",
        unpublish,
        doc="Take a published port back, until the next start also one of the settings. No options.",
    ),
    method(
        "ListPorts",
        "s name",
        "a(ssqqssb) ports",
        ports,
        doc=(
            "The published ports of a machine, or of all (empty name): machine, protocol, port of the host, "
            "port of the machine, its IPv4 and IPv6 address, whether it was published by PublishPort."
        ),
    ),
    method(
        "GetNetwork",
        "",
        "a{sv} network",
        network,
        doc=(
            "The managed network: `advice` as, sentences about firewalls that stand in its way, each with "
            "the command that helps; while a machine has it also `bridge`, `subnet`, `prefix`, `server` "
            "(who gives addresses: dnsmasq or networkd), `machines` a(sss) with their addresses."
        ),
    ),
)
