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
        prop("Version", "s", lambda call, core: __version__, Emits.CONST),
        method("ListAll", "a{sv} options", "a(ssssssasbs) machines", list_all),
        method("GetMachineState", "s name", "s state", get_state),
        method("StartMachine", "s name, a{sv} options", "o job", start),
        method("StopMachine", "s name, a{sv} options", "o job", stop),
        method("RebootMachine", "s name, a{sv} options", "o job", reboot),
        method("EnableMachine", "s name, a{sv} options", "a(sss) changes", enable),
        method("DisableMachine", "s name, a{sv} options", "a(sss) changes", disable),
        method("WaitMachine", "s name, s condition, t timeout_usec", "s state", wait),
        method("OpenLogin", "s name, a{sv} options", "h pty, s pty_path", open_login),
        method("ListJobs", "", "a(uosss) jobs", list_jobs),
        signal("JobNew", "u id, o job, s machine, s verb"),
        signal("JobRemoved", "u id, o job, s machine, s verb, s result, s message"),
        signal("MachineStateChanged", "s machine, o path, s state, s previous"),
    ),
)

JOB: Final = Interface(
    "org.machined1.Job",
    (
        prop("Id", "u", lambda call, job: job.id, Emits.CONST),
        prop("Machine", "s", lambda call, job: job.machine, Emits.CONST),
        prop("Verb", "s", lambda call, job: job.verb.value, Emits.CONST),
        prop("State", "s", lambda call, job: "running", Emits.CONST),
        method("Cancel", "", "", _cancel),
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
        prop("State", "s", lambda call, subject: core.states.get(subject.name).value, Emits.TRUE),
        prop(
            "StateTimestamp", "t", lambda call, subject: core.states.record(subject.name).since, Emits.TRUE
        ),
        prop("Job", "o", job, Emits.TRUE),
        prop("Result", "s", lambda call, subject: core.states.record(subject.name).result, Emits.TRUE),
        prop("Enabled", "b", lambda call, subject: autostart.is_enabled(subject.name), Emits.FALSE),
        prop("Unit", "s", unit, Emits.FALSE),
        prop("Image", "s", image, Emits.FALSE),
        method("Start", "a{sv} options", "o job", on(start)),
        method("Stop", "a{sv} options", "o job", on(stop)),
        method("Reboot", "a{sv} options", "o job", on(reboot)),
        method("Enable", "a{sv} options", "a(sss) changes", on(enable)),
        method("Disable", "a{sv} options", "a(sss) changes", on(disable)),
        method("Wait", "s condition, t timeout_usec", "s state", on(wait)),
    )
    return Interface("org.machined1.Machine", rows)


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
