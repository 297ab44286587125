# SPDX-License-Identifier: LGPL-2.1-or-later
"""`create` and `check-image`: new machines, and whether what is there would make one."""

from __future__ import annotations

import fcntl
import os
import select
import sys

from . import names
from .bus import ASKING_TIMEOUT, BUS_DRIVER, OURS, Bus, Signal
from .context import Context
from .errors import BusError, CommandError
from .output import message, print_rows, text_cell
from .quantities import boolean
from .transfer_run import Interruption

JOB = "org.machined1.Job"
Settings = dict[str, tuple[str, object]]
_NO_LIMIT = None
_LAST_OUTPUT = 2.0  # seconds for what a tool said to come through, once its job is over


def create(context: Context, arguments: list[str]) -> int:
    options = context.options
    if options.source == "help":
        return _list_builders(context)
    if not arguments:
        raise CommandError("Too few arguments.", "Usage: machinectl create NAME --from=BUILDER:…")
    name = arguments[0]
    if bool(options.source) == bool(options.template):
        raise CommandError(
            f"Could not create machine '{name}': give one of --from=BUILDER:… and --template=IMAGE.",
            "'machinectl create NAME --from=help' lists the builders.",
        )
    if not context.local:
        raise CommandError("Machines are created on the local host only.")
    names.check(name)
    settings, held = _first_boot(context)
    bus = context.mutating_bus(fds=True)
    try:
        if options.template:
            _from_template(context, bus, name, settings)
        else:
            _from_source(context, bus, name, settings)
    except BusError as error:
        raise _failure(context, error, name) from error
    finally:
        for fd in held:
            os.close(fd)
    if options.start_after:
        from .power import start

        return start(context, [name])
    if not options.quiet:
        message(f"Machine '{name}' is there; 'machinectl start {name}' starts it.")
    return 0


def _failure(context: Context, error: BusError, name: str) -> CommandError:
    if error.not_there:
        return CommandError(
            f"Could not create machine '{name}': systemd-machined cannot do that, it needs machined.",
            "'machinectl import-tar' and 'import-fs' make images with systemd's own means.",
        )
    return context.failure(error, f"Could not create machine '{name}'")


# -- what the machine is told ------------------------------------------------------------------------------


def _first_boot(context: Context) -> tuple[Settings, list[int]]:
    """The settings for the first boot, and the descriptors in them. Raises CommandError."""
    options = context.options
    settings: Settings = {}
    for key, value in (
        ("hostname", options.hostname), ("locale", options.locale), ("timezone", options.timezone),
    ):  # fmt: skip
        if value:
            settings[key] = ("s", value)
    if options.ssh_key:
        settings["ssh-key"] = ("s", _read(options.ssh_key, "SSH key"))
    if not (password := _password(context)):
        return settings, []
    fd = _sealed(password)
    settings["root-password"] = ("h", fd)
    return settings, [fd]


def _password(context: Context) -> str:
    options = context.options
    if options.root_password and options.root_password_file:
        raise CommandError("--root-password and --root-password-file= cannot be combined.")
    if options.root_password_file:
        if options.root_password_file == "-":
            password = sys.stdin.readline()
        else:
            password = _read(options.root_password_file, "password")
        password = password.split("\n", 1)[0]
        if not password:
            raise CommandError("The password is empty.", "Leave the option out for none.")
        return password
    if not options.root_password:
        return ""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise CommandError(
            "There is no terminal to ask for the password on.",
            "--root-password-file=FILE reads it, - from stdin.",
        )
    from getpass import getpass

    password = getpass("New password of root: ")
    if not password or getpass("Once more: ") != password:
        raise CommandError("The password is empty, or was not the same twice.")
    return password


def _read(path: str, what: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read(128 * 1024)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not valid UTF-8"
        raise CommandError(f"Could not read the {what} in '{path}': {reason}") from error


def _sealed(text: str) -> int:
    """A file in memory that the manager alone gets: not in an argument, nor in a message of the bus."""
    fd = os.memfd_create("root-password", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.write(fd, text.encode())
    seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd


# -- from an image -----------------------------------------------------------------------------------------


def _from_template(context: Context, bus: Bus, name: str, settings: Settings) -> None:
    # By one call, which is undone when we leave before its answer.
    template = context.options.template
    bus.call(OURS, "CloneImage", "ssa{sv}", template, name, settings, timeout=_NO_LIMIT)


# -- from a builder ----------------------------------------------------------------------------------------


def _from_source(context: Context, bus: Bus, name: str, settings: Settings) -> None:
    """Begin the job, show what the tool says, and wait for the end. Raises BusError, CommandError."""
    options = context.options
    settings["check"] = ("b", boolean(options.check))
    output = _Output()
    removed = bus.subscribe(OURS, "JobRemoved")
    owner = bus.subscribe(BUS_DRIVER, "NameOwnerChanged", arg0=OURS.destination)
    try:
        if not options.quiet:
            settings["output"] = ("h", output.theirs)
        with Interruption() as interruption:
            job: str = bus.call(
                OURS, "CreateImage", "ssa{sv}", name, options.source, settings,
                reply="o", timeout=ASKING_TIMEOUT,
            )  # fmt: skip
            output.close_theirs()
            told = False
            while True:
                while bus.process(0):
                    pass
                ended = [s for s in removed.queue if bus.believes(s, OURS) and s.body[1] == job]
                if ended:
                    break
                if any(_left(bus, signal) for signal in owner.queue):
                    raise CommandError(
                        f"The machine manager ended while it made machine '{name}', which is given up.",
                        "'systemctl status systemd-machined.service' tells why.",
                    )
                ready, _, _ = select.select([bus.fileno(), interruption.fd, *output.open], [], [])
                if output.ours in ready:
                    output.show()
                if interruption.noted and not told:
                    told = True
                    message("Cancelling …")
                    bus.call(OURS.at(job, JOB), "Cancel", timeout=ASKING_TIMEOUT)
                    os.read(interruption.fd, 64)
        output.show_rest()
    finally:
        output.close()
    result, text = str(ended[0].body[4]), str(ended[0].body[5])
    if result == "canceled":
        raise CommandError(f"Machine '{name}' was not made: {text}", status=130 if told else 1)
    if result != "done":
        raise CommandError(text or f"Machine '{name}' was not made: {result}")
    if text and not options.quiet:
        message(f"What machine '{name}' lacks:\n{text}")


def _left(bus: Bus, signal: Signal) -> bool:
    """Whether it says that the manager we called is gone; the bus may have started it for us just now."""
    known = bus.owners.get(OURS.destination)
    return bus.believes(signal, BUS_DRIVER) and bool(known) and signal.body[1] == known


class _Output:
    """A pipe that the manager passes a tool's output on to; its lines go to stderr."""

    def __init__(self) -> None:
        self.ours, self.theirs = os.pipe2(os.O_CLOEXEC)
        self.open = [self.ours]
        self._begun = b""

    def close_theirs(self) -> None:
        if self.theirs >= 0:
            os.close(self.theirs)
            self.theirs = -1

    def show(self) -> None:
        data = os.read(self.ours, 64 * 1024)
        *lines, self._begun = (self._begun + data).split(b"\n")
        if not data:
            self.open = []
            lines = [self._begun] if self._begun else []
            self._begun = b""
        if lines:
            message(b"\n".join(lines).decode(errors="replace"))

    def show_rest(self) -> None:
        while self.open and select.select(self.open, [], [], _LAST_OUTPUT)[0]:
            self.show()

    def close(self) -> None:
        self.close_theirs()
        os.close(self.ours)


# -- questions ---------------------------------------------------------------------------------------------


def _list_builders(context: Context) -> int:
    try:
        rows: list[tuple[str, str, str]] = context.bus().call(OURS, "ListBuilders", reply="a(sss)")
    except BusError as error:
        raise _failure(context, error, "") from error
    cells = [[text_cell(f"{name}:{syntax}"), text_cell(summary)] for name, syntax, summary in rows]
    print_rows(context.options, ["SOURCE", "WHAT"], cells, "builders")
    return 0


def check_image(context: Context, arguments: list[str]) -> int:
    """1 when an image cannot be booted or logged in to."""
    bus = context.mutating_bus()
    status = 0
    cells = []
    for name in arguments:
        try:
            found: list[tuple[str, str, str]] = bus.call(
                OURS, "CheckImage", "s", name, reply="a(sss)", timeout=ASKING_TIMEOUT
            )
        except BusError as error:
            raise context.failure(error, f"Could not check image '{name}'") from error
        cells += [
            [text_cell(name), text_cell(what), text_cell(level), text_cell(hint)]
            for what, level, hint in found
        ]
        status = 1 if any(level == "missing" for _, level, _ in found) else status
    print_rows(context.options, ["IMAGE", "WHAT", "STATE", "HINT"], cells, "findings")
    return status
