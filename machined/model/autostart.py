# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which machines start with the host: instances of our template unit, wanted by machines.target."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Final

from machined.model.errors import MachineError, Problem
from machined.model.ports import ServiceManager, UnitChange

log = logging.getLogger(__name__)

TARGET: Final = "machines.target"
STOCK: Final = "systemd-nspawn@{name}.service"
WANTS: Final = (
    Path("/etc/systemd/system/machines.target.wants"),
    Path("/run/systemd/system/machines.target.wants"),
)
# Written when it was us who enabled machines.target, so that the last `disable` takes that back too.
MARK: Final = Path("/var/lib/machined/enabled-machines-target")

_PREFIX: Final = "machined@"
_SUFFIX: Final = ".service"


def unit_of(name: str) -> str:
    """The unit that starts a machine at boot."""
    return f"{_PREFIX}{name}{_SUFFIX}"


def enabled_names() -> set[str]:
    """Every machine that starts with the host, by our template."""
    names = set()
    for directory in WANTS:
        try:
            entries = os.listdir(directory)
        except OSError:
            continue
        names |= {
            e[len(_PREFIX) : -len(_SUFFIX)] for e in entries if e.startswith(_PREFIX) and e.endswith(_SUFFIX)
        }
    return names


def is_enabled(name: str) -> bool:
    return _is_wanted(unit_of(name))


def _is_wanted(unit: str) -> bool:
    return any(os.path.lexists(directory / unit) for directory in WANTS)


async def enable(name: str, systemd: ServiceManager) -> list[UnitChange]:
    """Start a machine with the host from now on. Raises MachineError, ServiceManagerError."""
    stock = STOCK.format(name=name)
    if _is_wanted(stock):
        raise MachineError(
            Problem.FILE_EXISTS,
            f"Machine '{name}' starts with the host already, as {stock}; "
            f"run 'systemctl disable {stock}' first to have it started by machined.",
        )
    changes = await systemd.enable_units([TARGET, unit_of(name)])
    if any(kind == "symlink" and Path(file).name == TARGET for kind, file, _ in changes):
        MARK.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        MARK.touch()
    if changes:
        await systemd.reload()
    return changes


async def disable(name: str, systemd: ServiceManager) -> list[UnitChange]:
    """Take back exactly what enable() did. Raises ServiceManagerError."""
    units = [unit_of(name)]
    if MARK.exists() and not enabled_names() - {name} and not _others_want_target():
        units.append(TARGET)
    changes = await systemd.disable_units(units)
    if TARGET in units:
        MARK.unlink(missing_ok=True)
    if changes:
        await systemd.reload()
    return changes


def _others_want_target() -> bool:
    """Whether somebody else's units are wanted by the target."""
    for directory in WANTS:
        try:
            if any(not entry.startswith(_PREFIX) for entry in os.listdir(directory)):
                return True
        except OSError:
            continue
    return False
