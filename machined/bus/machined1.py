# SPDX-License-Identifier: LGPL-2.1-or-later
"""org.machined1.Manager, .Machine and .Job: what machine1 cannot do, on the same objects.

Names are chosen for good; additions go to the end of a table or into an options dictionary.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from dbus_fast import Variant

from machined import __version__
from machined.bus import operations
from machined.bus.call import Call
from machined.bus.names import job_path
from machined.bus.vtable import Emits, Interface, method, prop, signal
from machined.model import autostart, preflight
from machined.model.core import Core
from machined.model.errors import invalid, no_such_machine
from machined.model.jobs import Job
from machined.model.machine import Machine, MachineClass
from machined.model.names import is_machine_name
from machined.model.rebooting import REBOOT_TIMEOUT
from machined.model.state import State, unit_of_machine
from machined.model.stopping import StopLimits, StopMode

ACTION: Final = "org.machined1."
# A limit beyond a week is a typing error in a unit of time.
MAX_SECONDS: Final = 7 * 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Subject:
    """A machine by name, registered or not: the target of org.machined1.Machine."""

    name: str


def options(given: Mapping[str, Variant], known: Mapping[str, str]) -> dict[str, Any]:
    """The values of an options dictionary. Raises MachineError for an unknown name or a wrong type."""
    values = {}
    for key, variant in given.items():
        if key not in known:
            raise invalid(f"Unknown option '{key}', known are: {', '.join(sorted(known)) or 'none'}.")
        if variant.signature != known[key]:
            raise invalid(f"Option '{key}' has type '{variant.signature}', expected '{known[key]}'.")
        values[key] = variant.value
    return values


def _seconds(values: Mapping[str, Any], key: str, default: float) -> float:
    seconds = values.get(key, default * 1e6) / 1e6
    if not 0 < seconds <= MAX_SECONDS:
        raise invalid(f"Option '{key}' must be between 1 µs and a week.")
    return float(seconds)


async def _authorize(call: Call, name: str, verb: str) -> None:
    await call.authorize(f"{ACTION}{verb}-machine", {"machine": name, "verb": verb})


# -- what can be done, by name -----------------------------------------------------------------------------


async def start(call: Call, core: Core, name: str, given: Mapping[str, Variant]) -> str:
    options(given, {})
    core.lifecycle.image_to_start(name)  # a bad name is said before a password is asked for
    await _authorize(call, name, "start")
    return job_path((await core.lifecycle.start(name)).id)


async def stop(call: Call, core: Core, name: str, given: Mapping[str, Variant]) -> str:
    values = options(given, {"mode": "s", "timeout-usec": "t", "terminate-timeout-usec": "t"})
    if values.get("mode", "poweroff") not in set(StopMode):
        raise invalid(f"Unknown mode '{values['mode']}', expected one of {', '.join(StopMode)}.")
    usual = StopLimits()
    limits = StopLimits(
        poweroff=_seconds(values, "timeout-usec", usual.poweroff),
        terminate=_seconds(values, "terminate-timeout-usec", usual.terminate),
    )
    await _authorize(call, name, "stop")
    return job_path((await core.lifecycle.stop(name, StopMode(values.get("mode", "poweroff")), limits)).id)


async def reboot(call: Call, core: Core, name: str, given: Mapping[str, Variant]) -> str:
    limit = _seconds(options(given, {"timeout-usec": "t"}), "timeout-usec", REBOOT_TIMEOUT)
    await _authorize(call, name, "reboot")
    return job_path((await core.lifecycle.reboot(name, limit)).id)


async def enable(
    call: Call, core: Core, name: str, given: Mapping[str, Variant]
) -> list[tuple[str, str, str]]:
    options(given, {})
    image = core.lifecycle.image_to_start(name)
    if image.is_tree:
        preflight.check_tree(name, image)
    await _authorize(call, name, "enable")
    changes = await autostart.enable(name, core.systemd)
    core.states.refresh(name)
    return changes


async def disable(
    call: Call, core: Core, name: str, given: Mapping[str, Variant]
) -> list[tuple[str, str, str]]:
    options(given, {})
    if not is_machine_name(name):
        raise invalid(f"Invalid machine name '{name[:80]}'.")
    if not autostart.is_enabled(name) and core.images.find(name) is None:
        raise no_such_machine(name)
    await _authorize(call, name, "disable")
    return await autostart.disable(name, core.systemd)


async def wait(call: Call, core: Core, name: str, condition: str, timeout_usec: int) -> str:
    await _authorize(call, name, "wait")
    limit = timeout_usec / 1e6 if timeout_usec else None
    call.only_waits = True
    return (await core.lifecycle.wait(name, condition, limit)).value


async def open_login(call: Call, core: Core, name: str, given: Mapping[str, Variant]) -> tuple[int, str]:
    values = options(given, {"term": "s", "rows": "u", "columns": "u"})
    rows, columns = values.get("rows", 0), values.get("columns", 0)
    if max(rows, columns) > 0xFFFF:
        raise invalid("A terminal has at most 65535 rows and columns.")
    machine = core.registry.find(name)
    return await operations.login(
        call, core, machine, term=values.get("term", ""), rows=rows, columns=columns
    )


def get_state(call: Call, core: Core, name: str) -> str:
    state = core.states.get(name)
    if state is State.STOPPED and core.registry.get(name) is None and core.images.find(name) is None:
        raise no_such_machine(name)
    return state.value


async def list_all(call: Call, core: Core, given: Mapping[str, Variant]) -> list[list[Any]]:
    """Every machine known, in one answer.

    registered ones, those in a state worth showing, and stopped images.
    """
    options(given, {})
    enabled = autostart.enabled_names()
    machines = list(core.registry)
    told = await asyncio.gather(*(core.guests.for_listing(machine) for machine in machines))
    rows = [
        [
            machine.name,
            machine.cls.value,
            machine.service,
            core.states.get(machine.name).value,
            fields.get("ID", ""),
            fields.get("VERSION_ID", ""),
            addresses,
            machine.name in enabled,
            machine.unit,
        ]
        for machine, (fields, addresses) in zip(machines, told, strict=True)
    ]
    listed = {machine.name for machine in machines}
    others = set(core.states.known()) | {i.name for i in core.images.list() if is_machine_name(i.name)}
    for name in sorted(others - listed):
        state = core.states.get(name)
        unit = "" if state.is_down() else unit_of_machine(name)
        rows.append([name, MachineClass.CONTAINER.value, "", state.value, "", "", [], name in enabled, unit])
    return rows


def list_jobs(call: Call, core: Core) -> list[list[Any]]:
    return [[job.id, job_path(job.id), job.machine, job.verb.value, "running"] for job in core.jobs]


def _cancel(call: Call, job: Job) -> Awaitable[None]:
    async def run() -> None:
        # Whoever may begin such a job may cancel it.
        await _authorize(call, job.machine, job.verb.value)
        job.cancel()

    return run()


# -- the tables --------------------------------------------------------------------------------------------

MANAGER: Final = Interface(
    "org.machined1.Manager",
    (
        prop("Version", "s", lambda call, core: __version__, Emits.CONST, doc="Version of machined."),
        method(
            "ListAll",
            "a{sv} options",
            "a(ssssssasbs) machines",
            list_all,
            doc=(
                "Every machine known in one answer, without asking any guest: name, class, service, "
                "state, OS id, OS version, addresses (IPv4 first), whether it starts with the host, "
                "unit. Stopped images and failed starts are in it too. No options."
            ),
        ),
        method(
            "GetMachineState",
            "s name",
            "s state",
            get_state,
            doc="starting, running, degraded, stopping, failed or stopped.",
        ),
        method(
            "StartMachine",
            "s name, a{sv} options",
            "o job",
            start,
            doc=(
                "Boot the image of this name; the job ends when its unit is up. Starting a machine "
                "that runs is no error. No options."
            ),
        ),
        method(
            "StopMachine",
            "s name, a{sv} options",
            "o job",
            stop,
            doc=(
                "Bring a machine down; the job ends when nothing of it runs any more. Options: `mode` "
                "s (poweroff, terminate or kill: the stage to begin with; poweroff if not given), "
                "`timeout-usec` t (limit of the power-off, 90 s), `terminate-timeout-usec` t (limit "
                "of the termination, 30 s). Each stage that takes too long is followed by the next "
                "one."
            ),
        ),
        method(
            "RebootMachine",
            "s name, a{sv} options",
            "o job",
            reboot,
            doc=(
                "Reboot a machine by its own init; the job ends when it has registered anew. Option: "
                "`timeout-usec` t (120 s), after which its unit is restarted."
            ),
        ),
        method(
            "EnableMachine",
            "s name, a{sv} options",
            "a(sss) changes",
            enable,
            doc=(
                "Have the machine started with the host. Returns what was changed: type (symlink or "
                "unlink), file, source. No options."
            ),
        ),
        method(
            "DisableMachine",
            "s name, a{sv} options",
            "a(sss) changes",
            disable,
            doc="Take back what EnableMachine did. No options.",
        ),
        method(
            "WaitMachine",
            "s name, s condition, t timeout_usec",
            "s state",
            wait,
            doc=(
                "Return when the machine is in a state: running (or degraded), stopped (or failed), "
                "or another one by its name. A limit of 0 is none; when it is over the error is "
                "org.freedesktop.DBus.Error.Timeout."
            ),
        ),
        method(
            "OpenLogin",
            "s name, a{sv} options",
            "h pty, s pty_path",
            open_login,
            doc=(
                "As OpenMachineLogin, on a terminal that is known. Options: `term` s (as $TERM), "
                "`rows` u, `columns` u."
            ),
        ),
        method(
            "ListJobs",
            "",
            "a(uosss) jobs",
            list_jobs,
            doc="What is under way: number, object, machine, verb, state.",
        ),
        signal("JobNew", "u id, o job, s machine, s verb", doc="A job has begun."),
        signal(
            "JobRemoved",
            "u id, o job, s machine, s verb, s result, s message",
            doc=(
                "A job is over: done, failed, canceled or timeout, with a sentence for people (often "
                "empty when done). Subscribe before the call that returns the job."
            ),
        ),
        signal(
            "MachineStateChanged",
            "s machine, o path, s state, s previous",
            doc="The state of a machine has changed, registered or not.",
        ),
    ),
    extra=True,
)

JOB: Final = Interface(
    "org.machined1.Job",
    (
        prop(
            "Id",
            "u",
            lambda call, job: job.id,
            Emits.CONST,
            doc="Number of the job, never used again while the daemon runs.",
        ),
        prop("Machine", "s", lambda call, job: job.machine, Emits.CONST, doc="Name of the machine."),
        prop("Verb", "s", lambda call, job: job.verb.value, Emits.CONST, doc="start, stop or reboot."),
        prop(
            "State",
            "s",
            lambda call, job: "running",
            Emits.CONST,
            doc="Always running: a job that is over has no object.",
        ),
        method(
            "Cancel",
            "",
            "",
            _cancel,
            doc=(
                "Give the job up; what PID 1 was asked to do goes on. Whoever may begin such a job "
                "may cancel it."
            ),
        ),
    ),
)


def machine_table(core: Core) -> Interface:
    """org.machined1.Machine over Subjects: also for machines that do not run."""

    def on(operation: Callable[..., Any]) -> Callable[..., Any]:
        def handler(call: Call, subject: Subject, *args: Any) -> Any:
            return operation(call, core, subject.name, *args)

        return handler

    def image(call: Call | None, subject: Subject) -> str:
        found = core.images.find(subject.name)
        return found.path if found is not None else ""

    def unit(call: Call | None, subject: Subject) -> str:
        machine = core.registry.get(subject.name)
        return machine.unit if machine is not None else unit_of_machine(subject.name)

    def job(call: Call | None, subject: Subject) -> str:
        found = core.jobs.of_machine(subject.name)
        return job_path(found.id) if found is not None else "/"

    rows = (
        prop(
            "State",
            "s",
            lambda call, subject: core.states.get(subject.name).value,
            Emits.TRUE,
            doc="starting, running, degraded, stopping, failed or stopped.",
        ),
        prop(
            "StateTimestamp",
            "t",
            lambda call, subject: core.states.record(subject.name).since,
            Emits.TRUE,
            doc="When the state changed last, in µs since 1970; 0 when it never did.",
        ),
        prop("Job", "o", job, Emits.TRUE, doc="What is under way for the machine; / when nothing is."),
        prop(
            "Result",
            "s",
            lambda call, subject: core.states.record(subject.name).result,
            Emits.TRUE,
            doc=(
                "How the last run of its unit failed (exit-code, signal, timeout, …), empty when it did not."
            ),
        ),
        prop(
            "Enabled",
            "b",
            lambda call, subject: autostart.is_enabled(subject.name),
            Emits.FALSE,
            doc="Whether it starts with the host.",
        ),
        prop("Unit", "s", unit, Emits.FALSE, doc="The unit it runs in, or would be started as."),
        prop("Image", "s", image, Emits.FALSE, doc="Path of its image, empty when there is none."),
        method("Start", "a{sv} options", "o job", on(start), doc="See org.machined1.Manager.StartMachine."),
        method("Stop", "a{sv} options", "o job", on(stop), doc="See org.machined1.Manager.StopMachine."),
        method(
            "Reboot", "a{sv} options", "o job", on(reboot), doc="See org.machined1.Manager.RebootMachine."
        ),
        method(
            "Enable",
            "a{sv} options",
            "a(sss) changes",
            on(enable),
            doc="See org.machined1.Manager.EnableMachine.",
        ),
        method(
            "Disable",
            "a{sv} options",
            "a(sss) changes",
            on(disable),
            doc="See org.machined1.Manager.DisableMachine.",
        ),
        method(
            "Wait",
            "s condition, t timeout_usec",
            "s state",
            on(wait),
            doc="See org.machined1.Manager.WaitMachine.",
        ),
    )
    return Interface("org.machined1.Machine", rows, extra=True)


def machine_finder(core: Core, registered: Callable[[Call, str], Any]) -> Callable[[Call, str], Any]:
    """A Subject for every machine that is registered, in a state worth telling, or could be started."""

    async def caller(call: Call, label: str) -> Subject | None:
        machine: Machine | None = await registered(call, label)
        return Subject(machine.name) if machine is not None else None

    def find(call: Call, label: str) -> Any:
        if label == "self":
            return caller(call, label)
        known = core.registry.get(label) is not None or not core.states.get(label).is_down()
        if known or core.states.record(label).result:
            return Subject(label)
        return Subject(label) if is_machine_name(label) and core.images.find(label) is not None else None

    return find


def job_finder(core: Core) -> Callable[[Call, str], Job | None]:
    def find(call: Call, label: str) -> Job | None:
        return core.jobs.get(int(label)) if label.isascii() and label.isdigit() and len(label) < 10 else None

    return find
