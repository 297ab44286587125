# SPDX-License-Identifier: LGPL-2.1-or-later
"""Limits of a machine changed while it runs, and for good: in its settings and in PID 1 alike."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from machined.model.errors import MachineError, Problem, ServiceManagerError, invalid, no_such_machine
from machined.model.images import Image
from machined.model.jobs import Jobs, Verb
from machined.model.names import HOST, check_machine_name
from machined.model.ports import ServiceManager, UnitProperty
from machined.model.registry import Registry
from machined.model.settings import editing, files, layers, unit_dropins, unit_properties
from machined.model.settings.editing import Edited
from machined.model.settings.layers import Finding
from machined.model.settings.merge import Effective, merge
from machined.model.settings.setting import Form, Setting
from machined.model.state import States, unit_of_machine
from machined.model.unit import DEVICES

log = logging.getLogger(__name__)

TRANSIENT: Final = Path("/run/systemd/transient")
"""Where PID 1 keeps what is changed of transient units."""
_SLICE: Final = "Exec.Slice"


@dataclass(slots=True)
class Changed:
    """What became of a change."""

    files: list[Path] = field(default_factory=list)
    applied: list[Setting] = field(default_factory=list)
    """What holds for the machine that runs."""
    pending: list[Setting] = field(default_factory=list)
    """What holds from its next start on."""
    findings: list[Finding] = field(default_factory=list)


class SetProperty:
    """Changes limits.

    `find_image` also finds trees that only the settings name; it raises MachineError. `allowed`: what PID 1
    was told that a machine may open because of its devices, paths and letters.
    """

    def __init__(
        self,
        registry: Registry,
        states: States,
        jobs: Jobs,
        systemd: ServiceManager,
        find_image: Callable[[str], Image],
        allowed: Callable[[str], list[list[str]]],
    ) -> None:
        self._registry = registry
        self._states = states
        self._jobs = jobs
        self._systemd = systemd
        self._find_image = find_image
        self._allowed = allowed
        self._turn = asyncio.Lock()

    def check(self, name: str, words: Sequence[str]) -> list[Setting]:
        """The settings that these words are about. Raises MachineError with all that is wrong with them."""
        if name == HOST:
            raise invalid(
                "'.host' is this host, whose limits are those of its slices (systemctl set-property)."
            )
        check_machine_name(name)
        changed = list(
            dict.fromkeys(change.setting for change in editing.parse(words, self._systemd.version))
        )
        others = [setting for setting in changed if not _is_of_unit(setting)]
        if others:
            shown = "\n".join(
                f"  {setting} is no limit of the unit; 'machinectl set {name} {setting.key}=…' changes it."
                for setting in others
            )
            raise invalid(f"Nothing was done:\n{shown}")
        if self._running_unit(name) is None and not self._is_known(name):
            raise no_such_machine(name)
        return changed

    async def change(self, name: str, words: Sequence[str], *, runtime: bool) -> Changed:
        """Change them for the machine that runs and for the starts to come; `runtime`: of this boot.

        Where the machine that runs cannot be changed nothing is. Raises MachineError.
        """
        changed = self.check(name, words)
        while (job := self._jobs.of_machine(name)) is not None and job.verb is Verb.START:
            # It tells PID 1 what was said before.
            await job.over.wait()
        async with self._turn:
            return await self._change(name, changed, words, runtime=runtime)

    async def _change(
        self, name: str, changed: list[Setting], words: Sequence[str], *, runtime: bool
    ) -> Changed:
        unit = self._unit_to_change(name)
        if not self._is_known(name):
            if unit is None:
                raise no_such_machine(name)
            return await self._change_running(name, unit, changed, words, runtime=runtime)
        edited = editing.set_settings(name, self._image(name), self._systemd.version, words, runtime=runtime)
        before = {path: files.read(path) for path in edited.files}
        findings = [*edited.effective.findings, *unit_dropins.overriding(name, changed)]
        result = Changed(list(edited.files), findings=findings)
        _write(edited.files)
        for path in edited.files:
            log.info("Settings file '%s' was changed", path)
        if unit is None:
            return result
        try:
            result.applied, result.pending = await self._apply(name, unit, changed, edited.effective)
        except BaseException as error:
            _take_back(edited, before)
            if isinstance(error, ServiceManagerError):
                raise _refused(name, unit, error) from error
            raise
        return result

    async def _change_running(
        self, name: str, unit: str, changed: list[Setting], words: Sequence[str], *, runtime: bool
    ) -> Changed:
        """Of one that nothing is known of but that it runs, so that there is nothing to write down."""
        if not runtime:
            raise MachineError(
                Problem.NO_SUCH_IMAGE,
                f"There is no image '{name}', the machine goes with its end. With --runtime its limits are "
                f"changed until then.",
            )
        if any(word.partition("=")[0].endswith("+") for word in words):
            raise invalid(f"What machine '{name}' has now is not known, so nothing can be added to it.")
        effective = merge([layers.from_command_line(words, self._systemd.version)])
        try:
            applied, pending = await self._apply(name, unit, changed, effective)
        except ServiceManagerError as error:
            raise _refused(name, unit, error) from error
        if pending and not applied:
            names = ", ".join(str(setting) for setting in pending)
            raise MachineError(Problem.NOT_SUPPORTED, f"{names} of a machine that runs cannot be changed.")
        return Changed(applied=applied, pending=pending)

    # -- what there is -------------------------------------------------------------------------------------

    def _image(self, name: str) -> Image | None:
        try:
            return self._find_image(name)
        except MachineError:
            return None  # of settings that come before their image

    def _is_known(self, name: str) -> bool:
        return name in files.named() or self._image(name) is not None

    def _running_unit(self, name: str) -> str | None:
        machine = self._registry.get(name)
        if machine is not None:
            return machine.unit
        tracked = self._states.tracked(unit_of_machine(name))
        return tracked.name if tracked is not None and tracked.is_up else None

    def _unit_to_change(self, name: str) -> str | None:
        """The unit that it runs in, None when it does not run. Raises MachineError (NOT_SUPPORTED)."""
        unit = self._running_unit(name)
        if unit in {None, unit_of_machine(name), unit_dropins.unit_name(name), f"machine-{name}.scope"}:
            return unit
        raise MachineError(
            Problem.NOT_SUPPORTED,
            f"Machine '{name}' runs in {unit}, which may not be its own alone: nothing was done. "
            f"'systemctl set-property --runtime {unit} …' changes that unit.",
        )

    # -- PID 1 ---------------------------------------------------------------------------------------------

    async def _apply(
        self, name: str, unit: str, changed: Sequence[Setting], effective: Effective
    ) -> tuple[list[Setting], list[Setting]]:
        """Tell PID 1; what it took, and what it takes for a new unit only. Raises ServiceManagerError."""
        live = [setting for setting in changed if _is_live(setting)]
        always = {"DeviceAllow": [*([*row] for row in DEVICES), *self._allowed(name)]}
        rows = unit_properties.changes(effective, live, always)
        if rows:
            await self._systemd.set_unit_properties(unit, rows, runtime=True)
            if _forget_shares(unit, rows):
                # Once more, so that PID 1 knows what is there of its files.
                await self._systemd.set_unit_properties(unit, rows, runtime=True)
        return live, [setting for setting in changed if setting not in live]


def _is_of_unit(setting: Setting) -> bool:
    return setting.form is Form.UNIT or setting.name == _SLICE


def _is_live(setting: Setting) -> bool:
    return setting.form is Form.UNIT and unit_properties.unit_kind(setting).live


def _forget_shares(unit: str, rows: Sequence[UnitProperty]) -> bool:
    """Have an amount count after the share of the host's that it is instead of; whether there was one.

    PID 1 writes 50-MemoryMax.conf and 50-MemoryMaxScale.conf, and when it reads its units again the later
    one counts, whichever was said last.
    """
    found = False
    for row in rows:
        path = TRANSIENT / f"{unit}.d" / f"50-{row.name}{unit_properties.SHARE}.conf"
        try:
            path.unlink()
        except FileNotFoundError:
            continue
        except OSError as error:
            log.warning("Cannot remove '%s', ignoring: %s", path, error.strerror)
            continue
        found = True
    return found


def _write(changed: dict[Path, bytes]) -> None:
    try:
        files.write(changed)
    except OSError as error:
        names = ", ".join(f"'{path}'" for path in changed)
        raise MachineError(
            Problem.FAILED, f"Could not write {names}, nothing was changed: {error.strerror}."
        ) from error


def _take_back(edited: Edited, before: dict[Path, bytes]) -> None:
    """Write what was there before, where nobody else has written since."""
    try:
        files.write({path: before[path] for path, data in edited.files.items() if files.read(path) == data})
    except OSError as error:
        log.error("Cannot write the settings back that do not hold: %s", error)


def _refused(name: str, unit: str, error: ServiceManagerError) -> MachineError:
    if error.is_no_answer():
        text = f"PID 1 does not say whether it has changed machine '{name}' ({unit}): {error.text}"
        return MachineError(Problem.TIMEOUT, f"{text} Its settings are as before.")
    return MachineError(
        Problem.FAILED, f"Nothing was changed: PID 1 refuses it for machine '{name}' ({unit}): {error.text}"
    )
