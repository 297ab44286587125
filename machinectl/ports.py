# SPDX-License-Identifier: LGPL-2.1-or-later
"""`publish`, `unpublish`, `ports`, `network`: the managed network of machines."""

from __future__ import annotations

from .bus import ASKING_TIMEOUT, OURS
from .context import Context
from .errors import BusError, CommandError
from .names import clean
from .output import message, print_columns, to_json

Row = tuple[str, str, int, int, str, str, bool]
_COLUMNS = ("MACHINE", "PROTOCOL", "HOST", "PORT", "ADDRESS", "ORIGIN")


def publish(context: Context, arguments: list[str]) -> int:
    """Each port; the first that fails is the last."""
    name, *ports = arguments
    bus = context.mutating_bus()
    for port in ports:
        try:
            published: str = bus.call(
                OURS, "PublishPort", "ssa{sv}", name, port, {}, reply="s", timeout=ASKING_TIMEOUT
            )
        except BusError as error:
            raise _failure(context, error, f"Could not publish port '{port}' of machine '{name}'") from error
        if not context.options.quiet:
            protocol, host, inside = published.split(":")
            message(f"{protocol} port {host} of this host leads to port {inside} of machine '{name}'.")
    return 0


def unpublish(context: Context, arguments: list[str]) -> int:
    name, *ports = arguments
    bus = context.mutating_bus()
    for port in ports:
        try:
            bus.call(OURS, "UnpublishPort", "ssa{sv}", name, port, {}, timeout=ASKING_TIMEOUT)
        except BusError as error:
            raise _failure(
                context, error, f"Could not take back port '{port}' of machine '{name}'"
            ) from error
    return 0


def ports(context: Context, arguments: list[str]) -> int:
    """Of the machines named, or of all."""
    bus, rows = context.bus(), []
    for name in arguments or [""]:
        try:
            rows += bus.call(OURS, "ListPorts", "s", name, reply="a(ssqqssb)")
        except BusError as error:
            raise _failure(context, error, "Could not list ports") from error
    options = context.options
    if options.json:
        print(to_json([*map(_record, rows)], pretty=options.output == "json-pretty"))
        return 0
    columns = [
        [clean(row[0]) for row in rows],
        [clean(row[1]) for row in rows],
        [str(row[2]) for row in rows],
        [str(row[3]) for row in rows],
        [clean(row[4]) for row in rows],
        ["live" if row[6] else "settings" for row in rows],
    ]
    print_columns(options, _COLUMNS, columns, "ports", right=frozenset(("HOST", "PORT")))
    return 0


def _record(row: Row) -> dict[str, object]:
    machine, protocol, host, port, address, address6, live = row
    return {
        "machine": machine, "protocol": protocol, "host": host, "port": port, "address": address,
        "address6": address6, "live": live,
    }  # fmt: skip


def network(context: Context, arguments: list[str]) -> int:
    """What the managed network is, who is in it, and what is in its way. Exit status 1 when something is."""
    try:
        told: dict[str, tuple[str, object]] = context.bus().call(OURS, "GetNetwork", reply="a{sv}")
    except BusError as error:
        raise _failure(context, error, "Could not look at the network") from error
    values = {name: value for name, (_, value) in told.items()}
    machines, advice = _list(values.pop("machines", [])), _list(values.pop("advice", []))
    options = context.options
    if options.json:
        rows = [{"machine": m, "address": a, "address6": b} for m, a, b in machines]
        told_all = {**values, "machines": rows, "advice": advice}
        print(to_json(told_all, pretty=options.output == "json-pretty"))
        return 1 if advice else 0
    if not values:
        message("No machine with a managed network runs.")
    labels = {"bridge": "Bridge", "subnet": "IPv4", "prefix": "IPv6", "server": "Addresses by"}
    for key, label in labels.items():
        if key in values:
            print(f"{label:>12}: {clean(str(values[key]))}")
    for machine, address, address6 in machines:
        print(f"{'Machine':>12}: {clean(machine)} {clean(address)} {clean(address6)}")
    for text in advice:
        message(clean(text))
    return 1 if advice else 0


def _list(value: object) -> list:  # type: ignore[type-arg]
    return value if isinstance(value, list) else []


def _failure(context: Context, error: BusError, what: str) -> CommandError:
    if error.not_there:
        return CommandError(
            f"'{context.verb.name}' needs machined's own manager, but systemd's is running.",
            "'systemctl status systemd-machined.service' shows which one it is.",
        )
    return context.failure(error, what)
