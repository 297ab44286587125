# SPDX-License-Identifier: LGPL-2.1-or-later
"""Runs the tools that fill a tree: as a transient unit of PID 1, since they need what our sandbox forbids.

What such a unit mounts is in a namespace of its own, its processes in another and in its cgroup: whatever
becomes of it, or of us, nothing of it stays.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Final

from machined.linux.fds import OwnedFd
from machined.linux.newtree import SCRATCH, TREE
from machined.linux.outputpipe import OutputPipe
from machined.model.builders import SEARCH_PATH
from machined.model.builders.plan import Builder, Plan
from machined.model.errors import MachineError, Problem, ServiceManagerError, invalid
from machined.model.finishing import finished
from machined.model.jobs import JobTimeoutError
from machined.model.ports import ServiceManager, Unit, UnitProperty

log = logging.getLogger(__name__)

PREFIX: Final = "machined-create-"
PATTERN: Final = f"{PREFIX}*.service"
LIMIT: Final = 4 * 3600
"""Seconds that a tool may take: a slow mirror and a large system fit in."""
TASKS_MAX: Final = 4096
LAST_LINES: Final = 8
# Seconds for the last words to come through the pipe, once the unit is over.
_LAST_WORDS: Final = 5.0
_SIGKILL: Final = 9

# A process namespace: what the tool leaves running ends with it, not only with the unit.
_ALONE: Final = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "--")


def unit_of(name: str) -> str:
    """The unit that builds the tree of a machine."""
    return f"{PREFIX}{name}.service"


def properties(name: str, plan: Plan, place: str) -> list[UnitProperty]:
    """The properties of the unit that carries out a plan in a hidden directory."""
    scratch = os.path.join(place, SCRATCH)
    first, *rest = plan.in_tree(os.path.join(place, TREE))
    steps = [(first, False), *((command, True) for command in rest)]
    rows = [
        UnitProperty("Description", "s", f"Making of machine {name} (machined)"),
        UnitProperty("Type", "s", "oneshot"),
        UnitProperty(
            "ExecStart",
            "a(sasb)",
            [["unshare", [*_ALONE, *command], may_fail] for command, may_fail in steps],
        ),
        UnitProperty(
            "Environment",
            "as",
            [
                f"PATH={SEARCH_PATH}",
                "HOME=/root",
                "LC_ALL=C.UTF-8",
                "DEBIAN_FRONTEND=noninteractive",
                "DEBCONF_NONINTERACTIVE_SEEN=true",
                f"TMPDIR={scratch}",
            ],
        ),
        UnitProperty("WorkingDirectory", "s", scratch),
        UnitProperty("UMask", "u", 0o022),
        UnitProperty("StandardInput", "s", "null"),
        UnitProperty("StandardOutputFileDescriptor", "h", 0),
        UnitProperty("StandardErrorFileDescriptor", "h", 0),
        UnitProperty("PrivateMounts", "b", True),
        UnitProperty("KillMode", "s", "control-group"),
        # What was begun is thrown away, so nobody has to tidy up.
        UnitProperty("KillSignal", "i", _SIGKILL),
        UnitProperty("TimeoutStartUSec", "t", LIMIT * 1_000_000),
        UnitProperty("TasksMax", "t", TASKS_MAX),
        UnitProperty("CollectMode", "s", "inactive-or-failed"),
        # Until we have asked how it ended; PID 1 lets go of it as well when we leave the bus.
        UnitProperty("AddRef", "b", True),
    ]
    if plan.confined:
        rows += [
            UnitProperty("PrivateNetwork", "b", True),
            UnitProperty("ProtectSystem", "s", "strict"),
            UnitProperty("ReadWritePaths", "as", [place]),
            UnitProperty("NoNewPrivileges", "b", True),
        ]
    return rows


class Building:
    """Carries out plans on one host."""

    def __init__(self, systemd: ServiceManager) -> None:
        self._systemd = systemd

    async def run(self, name: str, builder: Builder, plan: Plan, place: str, sink: OwnedFd | None) -> None:
        """Fill the tree in `place`. What is said goes to the pipe `sink` as well.

        Raises MachineError with the tool, how it ended and its last words, JobTimeoutError. When it returns
        or raises, cancelled too, nothing of the unit is left.
        """
        try:
            output = OutputPipe(sink)
        except ValueError as error:
            raise invalid(f"{error}.") from None
        try:
            unit = await self._run(name, plan, place, output)
            await output.ended(_LAST_WORDS)
            if unit.result != "success":
                raise _failure(name, builder, unit, output.last_lines(LAST_LINES))
        finally:
            output.close()

    async def _run(self, name: str, plan: Plan, place: str, output: OutputPipe) -> Unit:
        unit = unit_of(name)
        rows = properties(name, plan, place)
        try:
            job = await self._systemd.start_transient(unit, rows, [output.writer.fileno()])
            output.writer.close()
            done = await self._systemd.job_result(job)
            ended = await self._systemd.unit(unit)
        except BaseException:
            await finished(self._stop(unit))
            raise
        await finished(self._forget(unit))
        if done == "done":
            return Unit(unit, result="success")
        return ended if ended.result not in {"", "success"} else Unit(unit, result=done)

    async def _stop(self, unit: str) -> None:
        """End a unit, now, and wait until it has gone."""
        try:
            await self._systemd.job_result(await self._systemd.stop_unit(unit, "replace"))
        except ServiceManagerError as error:
            if not error.is_missing_unit():
                log.warning("Cannot stop '%s', ignoring: %s", unit, error)
        await self._forget(unit)

    async def _forget(self, unit: str) -> None:
        for letting_go in (self._systemd.unref_unit, self._systemd.reset_failed):
            try:
                await letting_go(unit)
            except ServiceManagerError as error:
                log.debug("Unit '%s' is gone already: %s", unit, error)

    async def stop_orphans(self) -> list[str]:
        """End what a daemon that was killed has begun, before anything new is; the machines of them."""
        try:
            units = await self._systemd.units([PATTERN])
        except ServiceManagerError as error:
            log.warning("PID 1 does not list the units that make machines, ignoring: %s", error)
            return []
        for unit in units:
            log.info("Stopping '%s', begun by a daemon that has ended", unit.name)
            await self._stop(unit.name)
        return [unit.name.removeprefix(PREFIX).removesuffix(".service") for unit in units]


def _failure(name: str, builder: Builder, unit: Unit, lines: Sequence[str]) -> Exception:
    tool = builder.program or builder.name
    if unit.result == "timeout":
        return JobTimeoutError(
            f"Machine '{name}' was not made: {tool} was not done after {LIMIT // 3600} hours."
        )
    ways = {
        "exit-code": f"ended with exit status {unit.exit_status}",
        "signal": f"was killed by signal {unit.exit_status}",
        "core-dump": f"crashed (signal {unit.exit_status})",
        "oom-kill": "was killed since memory ran out",
        "canceled": "was stopped by 'systemctl stop'",
    }
    how = ways.get(unit.result, f"failed ('{unit.result}')")
    text = f"Machine '{name}' was not made: {tool} {how}."
    if lines:
        text += " It said last:\n" + "\n".join(f"  {line}" for line in lines)
    if hint := builder.hint(list(lines)):
        text += f"\n{hint}"
    return MachineError(Problem.FAILED, text)
