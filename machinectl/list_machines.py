# SPDX-License-Identifier: LGPL-2.1-or-later
"""`list`: one call to our manager, or a few in flight to systemd's."""

from __future__ import annotations

import socket

from .bus import MACHINE1, OURS, Bus, Call
from .context import Context
from .errors import BusError
from .output import print_rows, text_cell

_COLUMNS = ("MACHINE", "CLASS", "SERVICE", "OS", "VERSION", "ADDRESSES")
_GONE = frozenset(("stopped", "failed"))

Row = tuple[str, str, str, str, str, list[str]]
"""name, class, service, ID and VERSION_ID of the guest's os-release, addresses as text"""


def list_machines(context: Context, arguments: list[str]) -> int:
    options = context.options
    bus = context.bus()
    try:
        rows = _ours(bus)
    except BusError as error:
        if not error.not_there:
            raise context.failure(error, "Could not get machines") from error
        rows = _stock(context, bus)
    shown = sorted(row for row in rows if options.all or not row[0].startswith("."))
    pager = None
    if options.pager and not options.json:
        from .pager import Pager

        pager = Pager.start()
    try:
        _print(context, shown)
    finally:
        if pager is not None:
            pager.close()
    return 0


def _print(context: Context, rows: list[Row]) -> None:
    most = context.options.max_addresses
    cells = [[*(text_cell(field) for field in row[:5]), text_cell("\n".join(row[5]))] for row in rows]
    # As in the stock client: no addresses means no column for them.
    shown = 5 if most == 0 and not context.options.json else len(_COLUMNS)
    cells = [row[:shown] for row in cells]
    print_rows(context.options, _COLUMNS[:shown], cells, "machines", height=max(1, most))


def _ours(bus: Bus) -> list[Row]:
    """Raises BusError."""
    machines: list[tuple[str, str, str, str, str, str, list[str], bool, str]] = bus.call(
        OURS, "ListAll", "a{sv}", {}, reply="a(ssssssasbs)"
    )
    return [
        (name, kind, service, os_id, os_version, addresses)
        for name, kind, service, state, os_id, os_version, addresses, _, _ in machines
        if is_registered(kind, service, state)
    ]


def is_registered(kind: str, service: str, state: str) -> bool:
    """Our manager also tells of images at rest and of machines on their way; `list` is about those that
    exist.

    A machine that starts is there as soon as it has registered itself, and that fills in its service.
    """
    if kind == "host":
        return True
    return state not in _GONE and not (state == "starting" and not service)


def _stock(context: Context, bus: Bus) -> list[Row]:
    try:
        machines: list[tuple[str, str, str, str]] = bus.call(MACHINE1, "ListMachines", reply="a(ssso)")
    except BusError as error:
        raise context.failure(error, "Could not get machines") from error
    if not context.options.all:
        machines = [machine for machine in machines if not machine[0].startswith(".")]
    calls = []
    for machine in machines:
        calls.append(Call(MACHINE1, "GetMachineOSRelease", "s", machine[0], reply="a{ss}"))
        calls.append(Call(MACHINE1, "GetMachineAddresses", "s", machine[0], reply="a(iay)"))
    results = bus.call_all(calls)
    rows: list[Row] = []
    for number, (name, kind, service, _) in enumerate(machines):
        # Not every machine has either: a virtual machine, one that shares our network, one that is going.
        release: dict[str, str] | BusError = results[2 * number]
        addresses: list[tuple[int, bytes]] | BusError = results[2 * number + 1]
        fields = {} if isinstance(release, BusError) else release
        found = [] if isinstance(addresses, BusError) else address_texts(addresses)
        rows.append((name, kind, service, fields.get("ID", ""), fields.get("VERSION_ID", ""), found))
    return rows


def address_texts(addresses: list[tuple[int, bytes]], interface: int = 0) -> list[str]:
    """Addresses as text; `interface`, when not 0, is appended to IPv6 ones that need it."""
    texts = []
    for family, raw in addresses:
        if (family, len(raw)) not in ((socket.AF_INET, 4), (socket.AF_INET6, 16)):
            continue
        scope = f"%{interface}" if interface and family == socket.AF_INET6 and raw[:2] == b"\xfe\x80" else ""
        texts.append(socket.inet_ntop(family, raw) + scope)
    return texts
