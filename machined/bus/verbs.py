# SPDX-License-Identifier: LGPL-2.1-or-later
"""What org.machined1 does to a machine by name: options checked, polkit asked, the model called."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from typing import Any, Final

from dbus_fast import Variant

from machined.bus import operations
from machined.bus.call import Call
from machined.bus.names import job_path
from machined.model import autostart, preflight
from machined.model.core import Core
from machined.model.errors import invalid, no_such_machine
from machined.model.jobs import Job, Verb
from machined.model.machine import MachineClass
from machined.model.names import is_machine_name
from machined.model.rebooting import REBOOT_TIMEOUT
from machined.model.state import State, unit_of_machine
from machined.model.stopping import StopLimits, StopMode

ACTION: Final = "org.machined1."
# A limit beyond a week is a typing error in a unit of time.
MAX_SECONDS: Final = 7 * 24 * 3600.0
MAX_SETTINGS: Final = 256


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


async def _authorize(call: Call, name: str, verb: str, **more: str) -> None:
    await call.authorize(f"{ACTION}{verb}-machine", {"machine": name, "verb": verb, **more})


# -- what can be done, by name -----------------------------------------------------------------------------


async def start(call: Call, core: Core, name: str, given: Mapping[str, Variant]) -> str:
    values = options(given, {"image": "s", "ephemeral": "b", "settings": "as"})
    origin = values.get("image", "")
    words = values.get("settings", [])
    if len(words) > MAX_SETTINGS:
        raise invalid(f"No more than {MAX_SETTINGS} settings at a time; write them to a file.")
    core.lifecycle.check_known(name, origin, words)  # a bad name is said before a password is asked for
    await _authorize(call, name, "start", **({"image": origin} if origin else {}))
    if words:
        # They may have any directory of the host mounted: much more than to start what is set up already.
        await call.authorize(f"{ACTION}configure-machine", {"machine": name, "verb": "start"})
    job = await core.lifecycle.start(name, origin, ephemeral=values.get("ephemeral", False), words=words)
    return job_path(job.id)


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
    elsewhere = core.lifecycle.check_known(name)
    if not elsewhere:
        _check_bootable(core, name)
    await _authorize(call, name, "enable")
    if elsewhere:  # what is there is not for everybody to know
        _check_bootable(core, name)
    changes = await autostart.enable(name, core.systemd)
    core.states.refresh(name)
    return changes


def _check_bootable(core: Core, name: str) -> None:
    image = core.lifecycle.image_to_start(name)
    if image.is_tree:
        preflight.check_tree(name, image)


async def disable(
    call: Call, core: Core, name: str, given: Mapping[str, Variant]
) -> list[tuple[str, str, str]]:
    options(given, {})
    if not is_machine_name(name):
        raise invalid(f"Invalid machine name '{name[:80]}'.")
    if not autostart.is_enabled(name) and not core.placed.is_known(name):
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
    if state is State.STOPPED and core.registry.get(name) is None and not core.placed.is_known(name):
        raise no_such_machine(name)
    return state.value


async def list_all(call: Call, core: Core, given: Mapping[str, Variant]) -> list[list[Any]]:
    """Every machine known, in one answer.

    registered ones, those in a state worth showing, and what could be started.
    """
    options(given, {})
    enabled = autostart.enabled_names()
    machines = list(core.registry)
    told = await core.guests.for_listing(machines)
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
    images = core.images.list()
    others = set(core.states.known()) | {i.name for i in images if is_machine_name(i.name)}
    others |= set(core.placed.names(images))
    for name in sorted(others - listed):
        state = core.states.get(name)
        unit = "" if state.is_down() else unit_of_machine(name)
        rows.append([name, MachineClass.CONTAINER.value, "", state.value, "", "", [], name in enabled, unit])
    return rows


def list_jobs(call: Call, core: Core) -> list[list[Any]]:
    return [[job.id, job_path(job.id), job.machine, job.verb.value, "running"] for job in core.jobs]


def cancel(call: Call, job: Job) -> Awaitable[None]:
    async def run() -> None:
        # Whoever may begin such a job may cancel it.
        if job.verb is Verb.CREATE:
            await call.authorize(f"{ACTION}create-image", {"machine": job.machine, "verb": "create"})
        else:
            await _authorize(call, job.machine, job.verb.value)
        job.cancel()

    return run()
