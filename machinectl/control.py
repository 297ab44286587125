# SPDX-License-Identifier: LGPL-2.1-or-later
"""Machines that take orders themselves, on a varlink socket of their own: virtual machines of systemd 262.

`pause` and `resume` are only such orders; poweroff, reboot and terminate prefer them.
"""

from __future__ import annotations

import os

from .context import Context
from .errors import CommandError

# varlink.py and its JSON are imported where a manager listens: poweroff does not pay for it elsewhere.

RUNTIME = "/run"
_SOCKET = "systemd/machine/io.systemd.Machine"
INSTANCE = "io.systemd.MachineInstance"


def pause(context: Context, arguments: list[str]) -> int:
    return _order(context, arguments, "Pause")


def resume(context: Context, arguments: list[str]) -> int:
    return _order(context, arguments, "Resume")


def runtime_directory(*, user: bool) -> str:
    """Where services listen. Raises CommandError where the user's is not known."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "") if user else RUNTIME
    if not runtime:
        raise CommandError("Failed to find the user's services: $XDG_RUNTIME_DIR is not set.")
    return runtime


def address_of(context: Context, name: str) -> str:
    """Where a machine takes orders. Raises CommandError where it does not."""
    if not context.local:
        raise CommandError(f"'{context.verb.name}' works on machines of this host alone, not with -H or -M.")
    from .varlink import Connection, VarlinkError

    path = f"{runtime_directory(user=context.options.user)}/{_SOCKET}"
    try:
        with Connection(path) as manager:
            found = manager.call("io.systemd.Machine.List", {"name": name}).get("controlAddress")
    except VarlinkError as error:
        kind = error.name.rpartition(".")[2]
        if kind == "NoSuchMachine":
            raise CommandError(
                f"Failed to look up machine '{name}': No machine '{name}' known",
                "'machinectl list' shows the machines that run.",
            ) from error
        raise CommandError(f"Failed to look up machine '{name}': {error.name}") from error
    except OSError as error:
        raise CommandError(
            f"Failed to ask the machine manager at '{path}' about machine '{name}': {reason(error)}",
            "'systemctl status systemd-machined.service' tells whether it runs.",
        ) from error
    if not isinstance(found, str) or not found:
        raise CommandError(
            f"Machine '{name}' does not expose a varlink control socket.",
            "Only virtual machines of systemd-vmspawn 262 and later do; containers cannot be told this way.",
        )
    return found


def order_if_possible(context: Context, name: str, method: str) -> bool:
    """Give an order to a machine that takes some; False for all the others.

    That includes machines nobody knows, and hosts whose manager does not speak varlink: the manager on the
    bus has the last word about those. Raises CommandError when the order fails.
    """
    if not context.local:
        return False
    if not os.path.exists(f"{runtime_directory(user=context.options.user)}/{_SOCKET}"):
        return False
    try:
        address = address_of(context, name)
    except CommandError:
        return False
    _give(address, name, method)
    return True


def reason(error: OSError) -> str:
    return "no answer in time" if isinstance(error, TimeoutError) else error.strerror or str(error)


def _order(context: Context, machines: list[str], method: str) -> int:
    for name in machines:
        _give(address_of(context, name), name, method)
    return 0


def _give(address: str, name: str, method: str) -> None:
    from .varlink import Connection, VarlinkError

    try:
        with Connection(address) as machine:
            machine.call(f"{INSTANCE}.{method}", {})
    except VarlinkError as error:
        raise CommandError(f"Machine '{name}' refuses '{method}': {error.name}") from error
    except OSError as error:
        raise CommandError(
            f"Failed to reach machine '{name}' at '{address}' for '{method}': {reason(error)}"
        ) from error
