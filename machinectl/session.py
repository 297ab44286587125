# SPDX-License-Identifier: LGPL-2.1-or-later
"""`login` and `shell`: a terminal in a guest."""

from __future__ import annotations

import os
import sys

from . import terminal
from .bus import ASKING_TIMEOUT, MACHINE1, OURS, Bus
from .context import Context
from .errors import BusError, CommandError
from .output import message
from .ptyforward import End, Forwarder

HOST = ".host"
# Passed to a shell where the user set them: what programs there take their colours from.
_COLOURS = ("TERM", "COLORTERM", "NO_COLOR")


def login(context: Context, arguments: list[str]) -> int:
    options = context.options
    if options.setenv or options.uid:
        raise CommandError("--setenv= and --uid= are not supported for 'login'. Use 'shell' instead.")
    if options.host:
        raise CommandError("Login only supported on local machines.")
    name = (arguments[0] if arguments else "") or HOST
    bus = context.mutating_bus(fds=True)
    removed = bus.subscribe(MACHINE1, "MachineRemoved", arg0=name)
    try:
        pty, _ = _open_login(bus, name)
    except BusError as error:
        raise context.failure(error, f"Failed to get login PTY of machine '{name}'") from error
    context.end_agent()
    forwarder: Forwarder

    def on_bus() -> bool:
        """The machine going is what ends a login: its getty alone starts again after every logout."""
        try:
            while bus.process(0):
                pass
        except CommandError:
            return False  # the bus has gone, the session has not
        while removed.queue:
            signal = removed.queue.popleft()
            if bus.believes(signal, MACHINE1) and signal.body and signal.body[0] == name:
                died.append(name)
                forwarder.end_at_hangup()
        return True

    died: list[str] = []
    forwarder = Forwarder(pty, keep=True, watch=bus.fileno(), on_watch=on_bus)
    return _run(context, forwarder, name, died)


def shell(context: Context, arguments: list[str]) -> int:
    options = context.options
    if options.host:
        raise CommandError("Shell only supported on local machines.")
    user, name = _split(arguments[0] if arguments else "", options.uid)
    path = arguments[1] if len(arguments) > 1 else ""
    given = arguments[1:] if len(arguments) > 2 else []
    bus = context.mutating_bus(fds=True)
    removed = bus.subscribe(MACHINE1, "MachineRemoved", arg0=name)
    environment = _environment(options.setenv)
    try:
        pty: int
        pty, _ = bus.call(
            MACHINE1, "OpenMachineShell", "sssasas", name, user, path, given, environment,
            reply="hs", timeout=ASKING_TIMEOUT,
        )  # fmt: skip
    except BusError as error:
        raise context.failure(error, f"Failed to get shell PTY of machine '{name}'") from error
    context.end_agent()
    died: list[str] = []

    def on_bus() -> bool:
        try:
            while bus.process(0):
                pass
        except CommandError:
            return False
        died.extend(name for signal in removed.queue if bus.believes(signal, MACHINE1))
        removed.queue.clear()
        return True

    return _run(context, Forwarder(pty, watch=bus.fileno(), on_watch=on_bus), name, died)


def _open_login(bus: Bus, name: str) -> tuple[int, str]:
    """With the type and size of our terminal, which only our manager can tell the guest's getty."""
    rows, columns = terminal.size()
    options: dict[str, tuple[str, object]] = {"rows": ("u", rows), "columns": ("u", columns)}
    if term := os.environ.get("TERM"):
        options["term"] = ("s", term)
    try:
        opened: tuple[int, str] = bus.call(
            OURS, "OpenLogin", "sa{sv}", name, options, reply="hs", timeout=ASKING_TIMEOUT
        )
    except BusError as error:
        if not error.not_there:
            raise
        opened = bus.call(MACHINE1, "OpenMachineLogin", "s", name, reply="hs", timeout=ASKING_TIMEOUT)
    return opened


def _split(spec: str, uid: str) -> tuple[str, str]:
    """[USER@]NAME as (user, name); "" stands for root and for the local host."""
    user, at, name = spec.rpartition("@")
    if at and not user:
        raise CommandError(f"Failed to parse machine specification '{spec}': no user before '@'.")
    return user or uid, name or HOST


def _environment(given: list[str]) -> list[str]:
    named = {assignment.partition("=")[0] for assignment in given}
    return given + [
        f"{key}={os.environ[key]}" for key in _COLOURS if key not in named and os.environ.get(key)
    ]


def _run(context: Context, forwarder: Forwarder, name: str, died: list[str]) -> int:
    quiet = context.options.quiet
    where = "the local host" if name == HOST else f"machine {name}"
    if not quiet:
        message(f"Connected to {where}. Press ^] three times within 1s to exit session.")
    sys.stdout.flush()
    end = forwarder.run()
    if forwarder.last_byte != 0x0A or end is End.ESCAPE:
        print(flush=True)
    if not quiet:
        message(f"Machine {name} terminated." if died else f"Connection to {where} terminated.")
    return 128 + forwarder.signal if end is End.SIGNAL else 0
