# SPDX-License-Identifier: LGPL-2.1-or-later
"""org.machined1.Manager, .Machine and .Job: what machine1 cannot do, on the same objects.

Names are chosen for good; additions go to the end of a table or into an options dictionary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from machined import __version__
from machined.bus import (
    create_verbs,
    image_verbs,
    network_verbs,
    pool_verbs,
    property_verbs,
    settings_verbs,
    verbs,
)
from machined.bus.call import Call
from machined.bus.names import job_path
from machined.bus.vtable import Emits, Interface, method, prop, signal
from machined.model import autostart
from machined.model.core import Core
from machined.model.jobs import Job
from machined.model.machine import Machine
from machined.model.names import is_machine_name
from machined.model.state import unit_of_machine


@dataclass(frozen=True, slots=True)
class Subject:
    """A machine by name, registered or not: the target of org.machined1.Machine."""

    name: str


MANAGER: Final = Interface(
    "org.machined1.Manager",
    (
        prop("Version", "s", lambda call, core: __version__, Emits.CONST, doc="Version of machined."),
        method(
            "ListAll",
            "a{sv} options",
            "a(ssssssasbs) machines",
            verbs.list_all,
            doc=(
                "Every machine known in one answer (a guest is asked once, with a time limit): name, "
                "class, service, state, OS id, OS version, addresses (IPv4 first), enabled, "
                "unit. Stopped images and failed starts are in it too. No options."
            ),
        ),
        method(
            "GetMachineState",
            "s name",
            "s state",
            verbs.get_state,
            doc="starting, running, degraded, stopping, failed or stopped.",
        ),
        method(
            "StartMachine",
            "s name, a{sv} options",
            "o job",
            verbs.start,
            doc=(
                "Boot the image of this name; the job ends when its unit is up. Starting a machine "
                "that runs is no error. Options: `ephemeral` b (what it writes goes with it), `image` s "
                "(boot that one instead, which implies ephemeral), `settings` as ([Section.]Key=value, "
                "which hold until its end)."
            ),
        ),
        method(
            "StopMachine",
            "s name, a{sv} options",
            "o job",
            verbs.stop,
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
            verbs.reboot,
            doc=(
                "Reboot a machine by its own init; the job ends when it has registered anew. Option: "
                "`timeout-usec` t (120 s), after which its unit is restarted."
            ),
        ),
        method(
            "EnableMachine",
            "s name, a{sv} options",
            "a(sss) changes",
            verbs.enable,
            doc=(
                "Have the machine started with the host. Returns what was changed: type (symlink or "
                "unlink), file, source. No options."
            ),
        ),
        method(
            "DisableMachine",
            "s name, a{sv} options",
            "a(sss) changes",
            verbs.disable,
            doc="Take back what EnableMachine did. No options.",
        ),
        method(
            "WaitMachine",
            "s name, s condition, t timeout_usec",
            "s state",
            verbs.wait,
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
            verbs.open_login,
            doc=(
                "As OpenMachineLogin, on a terminal that is known. Options: `term` s (as $TERM), "
                "`rows` u, `columns` u."
            ),
        ),
        method(
            "ListJobs",
            "",
            "a(uosss) jobs",
            verbs.list_jobs,
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
        *image_verbs.ROWS,
        *pool_verbs.ROWS,
        *create_verbs.ROWS,
        *settings_verbs.ROWS,
        *property_verbs.ROWS,
        *network_verbs.ROWS,
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
        prop(
            "Verb", "s", lambda call, job: job.verb.value, Emits.CONST, doc="start, stop, reboot or create."
        ),
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
            verbs.cancel,
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
        method(
            "Start",
            "a{sv} options",
            "o job",
            on(verbs.start),
            doc="See org.machined1.Manager.StartMachine.",
        ),
        method(
            "Stop", "a{sv} options", "o job", on(verbs.stop), doc="See org.machined1.Manager.StopMachine."
        ),
        method(
            "Reboot",
            "a{sv} options",
            "o job",
            on(verbs.reboot),
            doc="See org.machined1.Manager.RebootMachine.",
        ),
        method(
            "Enable",
            "a{sv} options",
            "a(sss) changes",
            on(verbs.enable),
            doc="See org.machined1.Manager.EnableMachine.",
        ),
        method(
            "Disable",
            "a{sv} options",
            "a(sss) changes",
            on(verbs.disable),
            doc="See org.machined1.Manager.DisableMachine.",
        ),
        method(
            "Wait",
            "s condition, t timeout_usec",
            "s state",
            on(verbs.wait),
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
        return Subject(label) if is_machine_name(label) and core.placed.is_known(label) else None

    return find


def job_finder(core: Core) -> Callable[[Call, str], Job | None]:
    def find(call: Call, label: str) -> Job | None:
        return core.jobs.get(int(label)) if label.isascii() and label.isdigit() and len(label) < 10 else None

    return find
