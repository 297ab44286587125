# SPDX-License-Identifier: LGPL-2.1-or-later
"""Ways into a machine: a terminal, a login prompt on one, a shell (or any program) on one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from machined.linux import helper, pty
from machined.linux.fds import OwnedFd
from machined.model.errors import MachineError, Problem, ServiceManagerError, invalid, not_supported
from machined.model.machine import Machine, MachineClass
from machined.model.ports import GuestConnector, GuestManager, UnitProperty

_ASSIGNMENT: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=[^\0]*", re.DOTALL)
# A terminal type is a file name below terminfo (term(7)).
_TERM: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9+._-]{0,63}")

# What runs when no program is named: the user's own login shell, found by the guest's own name service.
# The first
# argument is the user; sh is the last resort.
LOGIN_SHELL: Final = (
    'shell=$(getent passwd "$0" 2>/dev/null) && shell=${shell##*:} || shell=\n'
    '[ -x "$shell" ] || shell=/bin/sh\n'
    'exec "$shell" -l'
)


@dataclass(frozen=True, slots=True)
class Terminal:
    """A terminal of a machine: our end, and its path there. Close the master, or hand it over."""

    master: OwnedFd
    path: str

    @property
    def number(self) -> str:
        return self.path.removeprefix("/dev/pts/")


def is_assignment(text: str) -> bool:
    """Whether this is NAME=VALUE as an environment takes it."""
    return _ASSIGNMENT.fullmatch(text) is not None


async def open_pty(machine: Machine) -> Terminal:
    """A new terminal in the machine. Raises MachineError, OSError, TimeoutError."""
    if machine.cls is MachineClass.HOST:
        master, number = pty.open_pty()
        return Terminal(master, f"/dev/pts/{number}")
    if machine.cls is not MachineClass.CONTAINER:
        raise not_supported("Opening a terminal is only supported on container machines.")
    if machine.leader is None:
        raise ProcessLookupError(3, f"The leader of machine {machine.name} has gone")
    reply = await helper.run("pty", machine.leader, {})
    with reply.fds as fds:
        return Terminal(OwnedFd(fds.steal(0)), f"/dev/pts/{reply.data['number']}")


async def _guest(machine: Machine, connector: GuestConnector) -> GuestManager:
    try:
        return await connector.connect(None if machine.cls is MachineClass.HOST else machine.leader)
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise MachineError(
            Problem.FILE_NOT_FOUND, f"There is no system bus in container {machine.name}."
        ) from error


async def open_login(
    machine: Machine, connector: GuestConnector, *, term: str = "", rows: int = 0, columns: int = 0
) -> Terminal:
    """A login prompt on a new terminal.

    with `term`, of that type (the stock getty says vt220 whatever it is on).
    """
    if term and not _TERM.fullmatch(term):
        raise invalid(f"'{term[:64]}' is no type of terminal")
    terminal = await open_pty(machine)
    try:
        if rows and columns:
            pty.set_size(terminal.master.fileno(), rows, columns)
        guest = await _guest(machine, connector)
        try:
            await _start_getty(guest, terminal, term)
        finally:
            guest.close()
    except BaseException:
        terminal.master.close()
        raise
    return terminal


async def _start_getty(guest: GuestManager, terminal: Terminal, term: str) -> None:
    if term:
        try:
            await guest.start_transient(
                f"machined-login@{terminal.number}.service", _getty(terminal, term), []
            )
            return
        except ServiceManagerError as error:
            # An old or foreign manager may not know a property: its own template will do.
            if error.name not in {
                "org.freedesktop.DBus.Error.PropertyReadOnly",
                "org.freedesktop.DBus.Error.UnknownProperty",
                "org.freedesktop.DBus.Error.InvalidArgs",
            }:
                raise
    await guest.start_unit(f"container-getty@{terminal.number}.service")


def _getty(terminal: Terminal, term: str) -> list[UnitProperty]:
    """What container-getty@.service says, with the caller's type of terminal in place of vt220."""
    line = f"pts/{terminal.number}"
    argv = ["/sbin/agetty", "--noreset", "--noclear", "--keep-baud", line, "115200,38400,9600", term]
    return [
        UnitProperty("Description", "s", f"Login on {terminal.path}"),
        UnitProperty("After", "as", ["systemd-user-sessions.service"]),
        UnitProperty("CollectMode", "s", "inactive-or-failed"),
        UnitProperty("Environment", "as", [f"TERM={term}"]),
        UnitProperty("ExecStart", "a(sasb)", [[argv[0], argv, True]]),
        # After a logout comes a new prompt, as long as somebody holds the terminal open.
        UnitProperty("Conditions", "a(sbbs)", [["ConditionPathExists", False, False, terminal.path]]),
        UnitProperty("Restart", "s", "always"),
        UnitProperty("RestartUSec", "t", 0),
        UnitProperty("UtmpIdentifier", "s", line),
        UnitProperty("TTYPath", "s", terminal.path),
        UnitProperty("TTYReset", "b", True),
        UnitProperty("TTYVHangup", "b", True),
        UnitProperty("KillMode", "s", "process"),
        UnitProperty("IgnoreSIGPIPE", "b", False),
        UnitProperty("SendSIGHUP", "b", True),
    ]


@dataclass(frozen=True, slots=True)
class ShellRequest:
    """Who runs what in a machine. An empty user is root, an empty path the user's login shell."""

    user: str = ""
    path: str = ""
    args: Sequence[str] = ()
    environment: Sequence[str] = ()

    def command(self) -> tuple[str, list[str]]:
        """The program and its argument vector."""
        if not self.path:
            return "/bin/sh", ["sh", "-c", LOGIN_SHELL, self.user or "root"]
        return self.path, list(self.args) or [self.path]


async def open_shell(machine: Machine, connector: GuestConnector, request: ShellRequest) -> Terminal:
    """Run a program on a new terminal; it is hung up when the last end of ours is closed."""
    terminal = await open_pty(machine)
    try:
        guest = await _guest(machine, connector)
        try:
            with pty.open_peer(terminal.master.fileno()) as peer:
                await guest.start_transient(
                    f"container-shell@{terminal.number}.service", _shell(terminal, request), [peer.fileno()]
                )
        finally:
            guest.close()
    except BaseException:
        terminal.master.close()
        raise
    return terminal


def _shell(terminal: Terminal, request: ShellRequest) -> list[UnitProperty]:
    path, argv = request.command()
    user = request.user or "root"
    rows = [
        UnitProperty("Description", "s", f"Shell for User {user}"),
        # The same descriptor three times: index 0 of those sent along.
        UnitProperty("StandardInputFileDescriptor", "h", 0),
        UnitProperty("StandardOutputFileDescriptor", "h", 0),
        UnitProperty("StandardErrorFileDescriptor", "h", 0),
        UnitProperty("SendSIGHUP", "b", True),
        UnitProperty("IgnoreSIGPIPE", "b", False),
        UnitProperty("KillMode", "s", "mixed"),
        UnitProperty("TTYPath", "s", terminal.path),
        UnitProperty("TTYReset", "b", True),
        UnitProperty("UtmpIdentifier", "s", f"pts/{terminal.number}"),
        UnitProperty("UtmpMode", "s", "user"),
        UnitProperty("PAMName", "s", "login"),
        UnitProperty("WorkingDirectory", "s", "-~"),
        UnitProperty("User", "s", user),
    ]
    if request.environment:
        rows.append(UnitProperty("Environment", "as", list(request.environment)))
    rows.append(UnitProperty("ExecStart", "a(sasb)", [[path, argv, True]]))
    return rows
