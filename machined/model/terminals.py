# SPDX-License-Identifier: LGPL-2.1-or-later
"""Ways into a machine: a terminal, a login prompt on one, a shell (or any program) on one."""

from __future__ import annotations

import errno
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Final

from machined.linux import helper, process, pty
from machined.linux.fds import OwnedFd
from machined.linux.process import PidRef
from machined.model.errors import (
    MachineError,
    Problem,
    ServiceManagerError,
    invalid,
    no_such_process,
    not_supported,
)
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


@dataclass(slots=True)
class Terminal:
    """A terminal of a machine: our end, its path there, and the other end until a program has it.

    Close the master, or hand it over.
    """

    master: OwnedFd
    path: str
    peer: OwnedFd | None = None

    @property
    def number(self) -> str:
        return self.path.removeprefix("/dev/pts/")

    def close_peer(self) -> None:
        """While we hold it nobody sees a hang-up."""
        if self.peer is not None:
            self.peer.close()
            self.peer = None


def is_assignment(text: str) -> bool:
    """Whether this is NAME=VALUE as an environment takes it."""
    return _ASSIGNMENT.fullmatch(text) is not None


@contextmanager
def _entrance(machine: Machine) -> Iterator[PidRef | None]:
    """The leader to enter the machine by, pinned meanwhile; None is the host, and only the host.

    The machine may go away meanwhile, which must never turn its terminal into one of the host. Raises
    MachineError, ProcessLookupError.
    """
    if machine.cls is MachineClass.HOST:
        yield None
        return
    if machine.cls is not MachineClass.CONTAINER:
        raise not_supported("Operation not supported")
    if machine.leader is None:
        raise no_such_process()
    with machine.leader.dup() as leader:
        if not leader.alive():
            raise no_such_process()
        yield leader


async def open_pty(machine: Machine) -> Terminal:
    """A new terminal in the machine. Raises MachineError, OSError, TimeoutError."""
    with _entrance(machine) as leader:
        terminal = await _open_pty(leader)
    terminal.close_peer()
    return terminal


async def _open_pty(leader: PidRef | None) -> Terminal:
    if leader is None:
        master, number = pty.open_pty()
        return Terminal(master, f"/dev/pts/{number}", pty.open_peer(master.fileno()))
    reply = await helper.run("pty", leader, {})
    with reply.fds as fds:
        number = reply.data["number"]
        if not isinstance(number, int):
            raise OSError(errno.EPROTO, "the terminal has no number")
        return Terminal(OwnedFd(fds.steal(0)), f"/dev/pts/{number}", OwnedFd(fds.steal(1)))


async def _guest(machine: Machine, leader: PidRef | None, connector: GuestConnector) -> GuestManager:
    try:
        return await (connector.host() if leader is None else connector.connect(leader))
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise MachineError(
            Problem.FILE_NOT_FOUND, f"There is no system bus in container {machine.name}."
        ) from error


@asynccontextmanager
async def _terminal_and_bus(
    machine: Machine, connector: GuestConnector
) -> AsyncIterator[tuple[Terminal, GuestManager]]:
    """A terminal and the manager of one machine; the terminal's master outlives the block on success."""
    with _entrance(machine) as leader:
        if leader is not None and machine.uid and process.same_namespace(leader.pid, "user"):
            # Whoever may register a process of the host must not become the host's root by it.
            raise MachineError(Problem.ACCESS_DENIED, "Only root may shell into the root user namespace")
        terminal = await _open_pty(leader)
        try:
            guest = await _guest(machine, leader, connector)
            try:
                yield terminal, guest
            finally:
                guest.close()
        except BaseException:
            terminal.master.close()
            raise
        finally:
            terminal.close_peer()


async def open_login(
    machine: Machine, connector: GuestConnector, *, term: str = "", rows: int = 0, columns: int = 0
) -> Terminal:
    """A login prompt on a new terminal.

    with `term`, of that type (the stock getty says vt220 whatever it is on).
    """
    if term and not _TERM.fullmatch(term):
        raise invalid(f"'{term[:64]}' is no type of terminal")
    async with _terminal_and_bus(machine, connector) as (terminal, guest):
        if rows and columns:
            pty.set_size(terminal.master.fileno(), rows, columns)
        await _start_getty(guest, terminal, term)
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
    async with _terminal_and_bus(machine, connector) as (terminal, guest):
        assert terminal.peer is not None
        name = f"container-shell@{terminal.number}.service"
        await guest.start_transient(name, _shell(terminal, request), [terminal.peer.fileno()])
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
