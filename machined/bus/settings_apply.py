# SPDX-License-Identifier: LGPL-2.1-or-later
"""ApplyMachines: machines as a document says, and what that has changed, as JSON."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from dbus_fast import Variant

from machined.bus import verbs
from machined.bus.call import Call
from machined.bus.verbs import ACTION, options
from machined.model import autostart, configured
from machined.model.core import Core
from machined.model.errors import MachineError, Problem, ServiceManagerError, no_such_image
from machined.model.images import Image
from machined.model.jobs import Job, Result
from machined.model.settings import document, explanation, files, sources
from machined.model.settings.document import Wanted

log = logging.getLogger(__name__)


async def configure(call: Call, name: str, verb: str) -> None:
    """Whether the sender may change settings. Raises MachineError."""
    await call.authorize(f"{ACTION}configure-machine", {"machine": name, "verb": verb})


def is_running(core: Core, name: str) -> bool:
    return not core.states.get(name).is_down()


def no_machine(name: str) -> MachineError:
    return MachineError(
        no_such_image(name).problem,
        f"No machine '{name}' known: there is neither an image nor a settings file of that name. "
        f"'machinectl list-images' shows the images there are.",
    )


def tree_of(core: Core, name: str) -> Image | None:
    """What a machine is started from, None where there is nothing, or it cannot be looked at."""
    found = core.images.find(name)
    with contextlib.suppress(MachineError):
        return configured.load(name, found, core.version)[0]
    return found


def write(changed: Mapping[Path, bytes]) -> None:
    """Write settings files. Raises MachineError."""
    try:
        files.write(changed)
    except OSError as error:
        names = ", ".join(f"'{path}'" for path in changed)
        raise MachineError(Problem.FAILED, f"Could not write {names}: {error.strerror}.") from error
    for path in changed:
        log.info("Settings file '%s' was changed", path)


@dataclass(slots=True)
class Outcome:
    """What became, or with a dry run would become, of one machine."""

    changed: bool = False
    file: str = ""
    diff: list[str] = field(default_factory=list)
    actions: list[str] = field(default_factory=list)
    """enable, disable, start, stop"""
    restart_needed: bool = False
    """It runs, and not yet with what was written now."""
    warnings: list[str] = field(default_factory=list)
    error: str | None = None


async def apply(call: Call, core: Core, text: str, given: Mapping[str, Variant]) -> str:
    values = options(given, {"dry-run": "b", "force": "b"})
    dry_run = values.get("dry-run", False)
    # Who is in it is known once it is read, which is work, and not for everybody.
    await configure(call, "", "apply")
    secrets = (await call.credentials()).uid == 0
    wanted = await asyncio.to_thread(document.read, text, core.version)
    outcomes = {name: Outcome() for name in wanted}
    new: dict[Path, bytes] = {}
    for name, one in wanted.items():
        if one.settings is not None:
            new |= _plan(core, name, one, outcomes[name], values.get("force", False), secrets)
    _check_trees(core, wanted, outcomes)
    for name, one in wanted.items():
        outcomes[name].actions = _actions(core, name, one)
        outcomes[name].changed = bool(outcomes[name].diff or outcomes[name].actions)
    if not dry_run:
        write(new)
        for name, outcome in outcomes.items():
            await _act(call, core, name, outcome)
    return json.dumps({name: asdict(outcome) for name, outcome in outcomes.items()})


def _plan(
    core: Core, name: str, wanted: Wanted, outcome: Outcome, force: bool, secrets: bool
) -> dict[Path, bytes]:
    """What is to be written for a machine. Raises MachineError (INVALID_SETTINGS, FILE_EXISTS)."""
    assert wanted.settings is not None
    path = sources.machine_file(name)
    before, after = files.read(path), document.file_of(name, wanted.settings)
    if before and not (force or document.is_managed(before) or before == after):
        raise MachineError(
            Problem.FILE_EXISTS,
            f"'{path}' was not written by 'machinectl apply', nothing was done. Move what it says to "
            f"{name}.conf.d/*.conf beside it, or have it written over with --force.",
        )
    effective = sources.load(name, tree_of(core, name), core.version, instead={path: after})
    configured.check(name, effective.errors())
    outcome.file = str(path)
    outcome.warnings = [str(f) for f in explanation.visible(effective.findings, secrets=secrets)]
    if before == after:
        return {}
    outcome.diff = document.diff(str(path), before, after)
    outcome.restart_needed = is_running(core, name)
    return {path: after}


def _check_trees(core: Core, wanted: Mapping[str, Wanted], outcomes: Mapping[str, Outcome]) -> None:
    """What is to run or to be enabled needs a tree, and is told so before anything is done."""
    for name, one in wanted.items():
        says = one.settings or {}
        elsewhere = says.get("Image", {})
        if tree_of(core, name) is not None or "Directory" in elsewhere or "Image" in elsewhere:
            continue
        if one.enabled or one.running:
            core.lifecycle.image_to_start(name)
        elif one.settings is not None:
            outcomes[name].warnings.append(f"There is no image '{name}' yet.")


def _actions(core: Core, name: str, wanted: Wanted) -> list[str]:
    actions = []
    if wanted.enabled is not None and wanted.enabled != autostart.is_enabled(name):
        actions.append("enable" if wanted.enabled else "disable")
    if wanted.running is not None and wanted.running != is_running(core, name):
        actions.append("start" if wanted.running else "stop")
    return actions


async def _act(call: Call, core: Core, name: str, outcome: Outcome) -> None:
    """Do what is to be done beside writing; each asks polkit as its own method does."""
    done: list[str] = []
    for action in outcome.actions:
        try:
            await _do(call, core, name, action)
        except (MachineError, ServiceManagerError) as error:
            outcome.error = f"Could not {action} machine '{name}': {error.text}"
            break
        done.append(action)
        if action in {"start", "stop"}:
            outcome.restart_needed = False
    outcome.actions = done
    outcome.changed = bool(outcome.diff or done)


async def _do(call: Call, core: Core, name: str, action: str) -> None:
    if action == "enable":
        await verbs.enable(call, core, name, {})
    elif action == "disable":
        await verbs.disable(call, core, name, {})
    else:
        await (verbs.start if action == "start" else verbs.stop)(call, core, name, {})
        if (job := core.jobs.of_machine(name)) is not None:
            await _finished(core, job)


async def _finished(core: Core, job: Job) -> None:
    """Wait for the end of a job. Raises MachineError when it was not done."""
    said: list[str] = []

    def ended(one: Job, result: Result, message: str) -> None:
        if one is job and result is not Result.DONE:
            said.append(message or result.value)

    core.jobs.on_removed.append(ended)
    try:
        await job.over.wait()
    finally:
        core.jobs.on_removed.remove(ended)
    if said:
        raise MachineError(Problem.FAILED, said[0])
