# SPDX-License-Identifier: LGPL-2.1-or-later
"""What can be done to one machine, for Manager methods that name it and for the machine's own object alike.

Each asks polkit and then looks again whether the machine is still the same: a person may take minutes to
answer.
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from machined.bus.call import Call
from machined.linux.netlink import Address
from machined.model.core import Core
from machined.model.errors import MachineError, Problem, invalid
from machined.model.machine import Machine
from machined.model.terminals import ShellRequest, Terminal, is_assignment, open_login, open_pty, open_shell

ACTION: Final = "org.freedesktop.machine1."
WHOM: Final = frozenset({"", "all", "leader"})
MAX_ARGUMENTS: Final = 4096
# What no user name may have in it, however lenient one is (systemd.io, "User/Group Name Syntax").
NOT_IN_USERS: Final = frozenset(":/") | {chr(code) for code in (*range(32), 127)}


async def _authorize(
    call: Call, core: Core, machine: Machine, action: str, details: dict[str, str], *, owner_may: bool = True
) -> None:
    """Polkit, or (258 and later) the user who registered the machine.

    then the machine must still be there.
    """
    if core.version >= 258 and owner_may and not machine.is_host():
        credentials = await call.credentials()
        if credentials.uid == machine.uid:
            return
    await call.authorize(ACTION + action, {"machine": machine.name, **details})
    core.registry.still(machine)


async def unregister(call: Call, core: Core, machine: Machine) -> None:
    await _authorize(call, core, machine, "manage-machines", {"verb": "unregister"})
    core.registrar.unregister(machine)


async def terminate(call: Call, core: Core, machine: Machine) -> None:
    await _authorize(call, core, machine, "manage-machines", {"verb": "terminate"})
    await core.registrar.terminate(machine)


async def kill(call: Call, core: Core, machine: Machine, whom: str, signo: int) -> None:
    allowed = WHOM | {"supervisor"} if core.version >= 258 else WHOM
    if whom not in allowed:
        raise invalid(f"Invalid kill parameter '{whom}'")
    if not 1 <= signo <= signal.SIGRTMAX:
        raise invalid(f"Invalid signal {signo}")
    await _authorize(call, core, machine, "manage-machines", {"verb": "kill"})
    await core.registrar.kill(machine, whom, signo)


@contextmanager
def _of_the_living(core: Core, failed: str) -> Iterator[None]:
    """A machine outlives its leader while its unit is there. Before 258 it is files that are missing."""
    try:
        yield
    except ProcessLookupError as error:
        code = errno.ESRCH if core.version >= 258 else errno.ENOENT
        raise OSError(code, f"{failed}{os.strerror(code)}") from error


async def addresses(call: Call, core: Core, machine: Machine) -> list[list[Any]]:
    with _of_the_living(core, "Failed to get addresses: "):
        return [_wire_address(address) for address in await core.guests.addresses(machine)]


def _wire_address(address: Address) -> list[Any]:
    return [int(address.family), address.address]


async def os_release(call: Call, core: Core, machine: Machine) -> dict[str, str]:
    if core.version >= 262:
        await _authorize(
            call, core, machine, "inspect-machines", {"verb": "get_os_release"}, owner_may=False
        )
    with _of_the_living(core, "Failed to get OS release: "):
        return dict(await core.guests.os_release(machine))


def uid_shift(call: Call, core: Core, machine: Machine) -> int:
    return core.guests.uid_shift(machine)


def ssh_info(call: Call, core: Core, machine: Machine) -> tuple[str, str]:
    if not machine.ssh_address or not machine.ssh_private_key_path:
        raise MachineError(Problem.FILE_NOT_FOUND, "No such file or directory")
    return machine.ssh_address, machine.ssh_private_key_path


async def root_directory(call: Call, core: Core, machine: Machine) -> int:
    details = {"verb": "open_root_directory"}
    await _authorize(call, core, machine, "manage-machines", details, owner_may=False)
    failed = f"Failed to open root directory of machine '{machine.name}': " if core.version >= 258 else ""
    with _of_the_living(core, failed):
        return call.attach(await core.guests.root_directory(machine))


def _hand_over(call: Call, terminal: Terminal) -> tuple[int, str]:
    return call.attach(terminal.master), terminal.path


def _for_host(machine: Machine, action: str) -> str:
    return f"host-{action}" if machine.is_host() else action


async def open_terminal(call: Call, core: Core, machine: Machine) -> tuple[int, str]:
    await _authorize(call, core, machine, _for_host(machine, "open-pty"), {})
    return _hand_over(call, await open_pty(machine))


async def login(
    call: Call, core: Core, machine: Machine, *, term: str = "", rows: int = 0, columns: int = 0
) -> tuple[int, str]:
    await _authorize(call, core, machine, _for_host(machine, "login"), {"verb": "login"})
    terminal = await open_login(machine, core.connector, term=term, rows=rows, columns=columns)
    return _hand_over(call, terminal)


async def shell(
    call: Call,
    core: Core,
    machine: Machine,
    user: str,
    path: str,
    args: Sequence[str],
    environment: Sequence[str],
) -> tuple[int, str]:
    if path and not path.startswith("/"):
        raise invalid(f"Specified path '{path}' is not absolute")
    if len(args) > MAX_ARGUMENTS or len(environment) > MAX_ARGUMENTS:
        raise MachineError(Problem.LIMITS_EXCEEDED, "Too many arguments")
    names = {entry.partition("=")[0] for entry in environment}
    if len(names) != len(environment) or not all(map(is_assignment, environment)):
        raise invalid("Invalid environment assignments")
    if core.version >= 258 and not NOT_IN_USERS.isdisjoint(user):
        raise invalid(f"Invalid user name '{user}'")
    request = ShellRequest(user, path, tuple(args), tuple(environment))
    program, argv = request.command()
    details = {"user": user or "root", "program": program, "command_line": " ".join(argv)}
    await _authorize(call, core, machine, _for_host(machine, "shell"), details)
    return _hand_over(call, await open_shell(machine, core.connector, request))
