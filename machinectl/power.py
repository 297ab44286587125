# SPDX-License-Identifier: LGPL-2.1-or-later
"""`start`, `poweroff`, `reboot`, `terminate`, `kill`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from . import names, signals
from .bus import ASKING_TIMEOUT, MACHINE1, OURS, SYSTEMD1, Bus, Target
from .context import Context
from .errors import BusError, CommandError
from .jobs import JobWaiter
from .names import escape_label
from .output import message

_POWEROFF = signals.number("RTMIN+4")  # what systemd as a container's init powers off at
_REBOOT = 2  # SIGINT: what it reboots at
_LONGEST = 64 - len("-01234567")  # of a machine's name, with room for a suffix

_STOCK_RESULTS = {
    "resources": "a resource it needs is not available, or a system error came up",
    "protocol": "it ended before it said that it was ready",
    "timeout": "it took too long",
    "exit-code": "its process ended with an error",
    "signal": "its process was killed by a signal",
    "core-dump": "its process crashed",
    "watchdog": "its watchdog found it hanging",
    "start-limit-hit": "it was started too often in a short time",
    "oom-kill": "it ran out of memory",
}


def start(context: Context, arguments: list[str]) -> int:
    images = _ephemeral(context, arguments)
    if not images and names.HOST in arguments:
        raise CommandError(
            "Could not start '.host': it is this host, which runs.",
            "'machinectl start --ephemeral .host' starts a machine of its tree that keeps nothing.",
        )
    for name in images or arguments:
        names.check(name)
    bus = context.mutating_bus()
    if context.options.runner == "nspawn":
        try:
            return _our_jobs(context, bus, "StartMachine", "start", list(images) or arguments, images)
        except BusError as error:
            if not error.not_there:
                raise
    if context.options.settings:
        raise CommandError(
            "Only machined starts machines with settings of the command line (--set), and it is not there.",
            "Settings of systemd-nspawn@.service are in files, systemd.nspawn(5).",
        )
    if images:
        raise CommandError(
            "Only machined starts machines that keep nothing (--ephemeral, --as), and it is not there.",
            "'systemd-nspawn --ephemeral' does so without a manager.",
        )
    return _start_stock(context, bus, arguments)


def _ephemeral(context: Context, arguments: list[str]) -> dict[str, str]:
    """The image of each machine that is to keep nothing; empty when those of the images' names are meant."""
    options = context.options
    if options.names:
        if len(arguments) != 1:
            raise CommandError("--as wants one image, of which the machines are made.")
        return dict.fromkeys(options.names, arguments[0])
    if not options.ephemeral:
        return {}
    # As systemd-nspawn does it: so there can be any number of them. (.host is the host's own tree.)
    return {f"{image[:_LONGEST].strip('.-')}-{os.urandom(4).hex()}": image for image in arguments}


def poweroff(context: Context, arguments: list[str]) -> int:
    bus = context.mutating_bus()
    machines = _not_ordered(context, arguments, "PowerOff")
    try:
        return _our_jobs(context, bus, "StopMachine", "power off", machines)
    except BusError as error:
        if not error.not_there:
            raise
    return _kill(context, bus, machines, "leader", _POWEROFF)


def reboot(context: Context, arguments: list[str]) -> int:
    bus = context.mutating_bus()
    machines = _not_ordered(context, arguments, "Reboot")
    if machines and context.options.runner == "vmspawn":
        raise CommandError(
            f"Could not reboot machine '{machines[0]}': it takes no orders, and the host has no init of a "
            "virtual machine to signal.",
            "Without --runner=vmspawn it gets one nevertheless.",
        )
    try:
        return _our_jobs(context, bus, "RebootMachine", "reboot", machines)
    except BusError as error:
        if not error.not_there:
            raise
    return _kill(context, bus, machines, "leader", _REBOOT)


def terminate(context: Context, arguments: list[str]) -> int:
    bus = context.mutating_bus()
    for name in _not_ordered(context, arguments, "Terminate"):
        try:
            bus.call(MACHINE1, "TerminateMachine", "s", name, timeout=ASKING_TIMEOUT)
        except BusError as error:
            raise context.failure(error, f"Could not terminate machine '{name}'") from error
    return 0


def kill(context: Context, arguments: list[str]) -> int:
    options = context.options
    signal = signals.number(options.signal or "SIGTERM")
    return _kill(context, context.mutating_bus(), arguments, options.kill_whom or "all", signal)


def _not_ordered(context: Context, machines: Sequence[str], method: str) -> list[str]:
    """The machines that take no orders themselves; the others have got this one."""
    from .control import order_if_possible

    return [name for name in machines if not order_if_possible(context, name, method)]


def _kill(context: Context, bus: Bus, arguments: Sequence[str], whom: str, signal: int) -> int:
    for name in arguments:
        try:
            bus.call(MACHINE1, "KillMachine", "ssi", name, whom, signal, timeout=ASKING_TIMEOUT)
        except BusError as error:
            raise context.failure(error, f"Could not kill machine '{name}'") from error
    return 0


def _our_jobs(
    context: Context,
    bus: Bus,
    member: str,
    doing: str,
    machines: Sequence[str],
    images: Mapping[str, str] | None = None,
) -> int:
    """Begin a job for every machine, then wait for all; 1 when any failed.

    `images`: what those are made of that keep nothing; the names that we chose for them are printed, each as
    soon as it is up, whatever becomes of others. Raises BusError where the manager is systemd's.
    """
    options = context.options
    tell = bool(images) and not options.names and not options.quiet
    if not machines:
        return 0
    settings: dict[str, tuple[str, object]] = {}
    if 0 < options.timeout < float("inf") and member != "StartMachine":
        settings["timeout-usec"] = ("t", int(options.timeout * 1_000_000))
    if options.settings and member == "StartMachine":
        settings["settings"] = ("as", options.settings)
    waiter = JobWaiter(bus, OURS) if options.block else None
    jobs: dict[str, str] = {}
    status = 0
    for name in dict.fromkeys(machines):
        try:
            given = settings
            if images:
                given = settings | {"image": ("s", images[name]), "ephemeral": ("b", True)}
            job: str = bus.call(OURS, member, "sa{sv}", name, given, reply="o", timeout=ASKING_TIMEOUT)
            jobs[job] = name
            if tell and waiter is None:
                print(name, flush=True)
        except BusError as error:
            if error.not_there:
                raise
            failure = job_refused(context, error, doing, (images or {}).get(name, name))
            message(failure.message)
            if failure.hint:
                message(failure.hint)
            status = 1
    if waiter is None:
        return status
    # The daemon's limits are its own: what we were given as a limit bounds our waiting for a start only.
    limit = options.timeout if member == "StartMachine" else 0.0
    for name, body in waiter.wait(jobs, limit):
        result, text = str(body[4]), str(body[5]) if len(body) > 5 else ""
        if result != "done":
            message(f"Could not {doing} machine '{name}': {text or result}")
            message(f"'machinectl status {name}' shows its state and the end of its journal.")
            status = 1
        elif tell:
            print(name, flush=True)
    return status


def job_refused(context: Context, error: BusError, doing: str, name: str) -> CommandError:
    if error.name.endswith(".NoSuchImage"):
        return CommandError(
            f"Machine image '{name}' does not exist.", "'machinectl list-images' shows the images there are."
        )
    return context.failure(error, f"Could not {doing} machine '{name}'")


def check_images(context: Context, bus: Bus, machines: Sequence[str]) -> None:
    """Raises CommandError for the first machine without an image."""
    for name in machines:
        names.check(name)
        try:
            bus.call(MACHINE1, "GetImage", "s", name, reply="o")
        except BusError as error:
            raise job_refused(context, error, "find the image of", name) from error


def stock_unit(name: str, runner: str = "nspawn") -> str:
    """The unit systemd's own client starts. Valid machine names need no escaping in it."""
    return f"systemd-{runner}@{name}.service"


def _start_stock(context: Context, bus: Bus, machines: Sequence[str]) -> int:
    check_images(context, bus, machines)
    waiter = JobWaiter(bus, SYSTEMD1) if context.options.block else None
    jobs: dict[str, str] = {}
    for name in machines:
        unit = stock_unit(name, context.options.runner)
        try:
            job: str = bus.call(SYSTEMD1, "StartUnit", "ss", unit, "fail", reply="o", timeout=ASKING_TIMEOUT)
        except BusError as error:
            raise context.failure(error, "Failed to start unit") from error
        jobs[job] = name
    status = 0
    if waiter is not None:
        for name, body in waiter.wait(jobs, context.options.timeout):
            if body[3] not in ("done", "skipped"):
                _explain_stock_failure(bus, name, stock_unit(name, context.options.runner), str(body[3]))
                status = 1
    return status


def _explain_stock_failure(bus: Bus, name: str, unit: str, result: str) -> None:
    reason = f"the job ended with '{result}'"
    if result == "failed":
        target = Target(
            SYSTEMD1.destination,
            f"{SYSTEMD1.path}/unit/{escape_label(unit)}",
            "org.freedesktop.DBus.Properties",
        )
        try:
            _, why = bus.call(target, "Get", "ss", "org.freedesktop.systemd1.Service", "Result", reply="v")
            reason = _STOCK_RESULTS.get(str(why), reason)
        except BusError:
            reason = "its service failed"
    message(f"Could not start machine '{name}': {reason}.")
    message(f"See 'systemctl status {unit}' and 'journalctl -xeu {unit}' for details.")
