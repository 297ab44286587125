# SPDX-License-Identifier: LGPL-2.1-or-later
"""Devices that machines may use: nodes of their own, owned by their users, as long as they run.

A node of the host belongs to users of the host, who are nobody inside. So each machine has nodes of its own,
below /dev of the host (/run allows no devices), which are bound to where they are wanted. PID 1 lets them be
opened. Source: systemd.resource-control(5), DeviceAllow=.
"""

from __future__ import annotations

import grp
import json
import logging
import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from machined.linux import devnodes, rootfiles, wholefile, xauth
from machined.linux.devnodes import Node
from machined.linux.overlay import RANGE
from machined.model.errors import MachineError, Problem
from machined.model.finishing import to_the_end
from machined.model.names import is_machine_name
from machined.model.ports import UnitProperty
from machined.model.settings import devices
from machined.model.settings.merge import Effective, Value
from machined.model.settings.words import escape_colons
from machined.model.unit import DEVICES

log = logging.getLogger(__name__)

DIRECTORY: Final = Path("/dev/machined")
COOKIES: Final = Path("/run/machined/xauthority")
"""Of X servers, a file for each machine."""
COOKIES_INSIDE: Final = "/run/host/xauthority"
ALLOWED: Final = Path("/run/machined/devices")
"""What PID 1 was told that a machine may open, a file for each."""
NODES_MAX: Final = 1024
_GROUPS_SIZE: Final = 256 * 1024


@dataclass(frozen=True, slots=True)
class Wanted:
    """One value: what it is, and the nodes that there are for it."""

    device: devices.Device
    nodes: tuple[Node, ...]
    is_directory: bool


def wanted(settings: Effective) -> list[Wanted]:
    """What the settings ask for. Raises MachineError (INVALID_SETTINGS) when the host has no such device."""
    found = []
    for value in settings.all("Machine", "Device"):
        if (device := devices.parse(value.text)) is not None:
            try:
                nodes = tuple(devnodes.find(device.path, NODES_MAX))
            except OSError as error:
                text = f"{value.origin}: [Machine] Device={value.text}: the host has no such device"
                raise MachineError(Problem.INVALID_SETTINGS, f"{text} ({error.strerror}).") from error
            found.append(Wanted(device, nodes, os.path.isdir(device.path)))
    return found


@dataclass(frozen=True, slots=True)
class Prepared:
    """More for systemd-nspawn, where the nodes go, and for PID 1, what may be opened."""

    options: tuple[str, ...] = ()
    properties: tuple[UnitProperty, ...] = ()


def plan(name: str, settings: Effective) -> Prepared:
    """What a machine would be started with. Raises MachineError."""
    return _prepared(name, wanted(settings), cookies=settings.is_set("Machine", "XAuthority"))


def _prepared(name: str, devices: list[Wanted], *, cookies: bool) -> Prepared:
    options = tuple(
        f"--bind={escape_colons(str(DIRECTORY / name / str(number)))}:{escape_colons(one.device.target)}"
        for number, one in enumerate(devices)
    )
    if cookies:
        options += (f"--bind-ro={COOKIES / name}:{COOKIES_INSIDE}", f"--setenv=XAUTHORITY={COOKIES_INSIDE}")
    rows = _allowed(devices)
    return Prepared(options, (UnitProperty("DeviceAllow", "a(ss)", rows),) if rows else ())


def _allowed(devices: list[Wanted]) -> list[list[str]]:
    """What PID 1 is told, for which the last word on a path counts: no less than every machine may do."""
    always = dict(DEVICES)
    found: dict[str, set[str]] = {}
    for one in devices:
        for node in one.nodes:
            found.setdefault(node.path, set(always.get(node.path, ""))).update(one.device.access)
    rows = [[path, "".join(letter for letter in "rwm" if letter in said)] for path, said in found.items()]
    return [row for row in rows if row[1] != always.get(row[0])]


class Devices:
    """The nodes of all machines."""

    def __init__(self) -> None:
        # Which run of a machine has them: one that is over takes nothing from the next one.
        self._runs: dict[str, int] = {}
        self._count = 0

    async def prepare(self, name: str, settings: Effective, tree: str, base: int | None) -> Prepared:
        """Make what a machine asks for whose users begin with `base` of the host; None: nobody knows yet.

        `tree` is where its groups are looked up, "" for nowhere. Raises MachineError; nothing is left then.
        """
        if not (settings.all("Machine", "Device") or settings.all("Machine", "XAuthority")):
            return Prepared()
        self._count += 1
        self._runs[name] = self._count
        try:
            return await to_the_end(_make_all, name, settings, tree, base)
        except OSError as error:
            raise MachineError(
                Problem.FAILED,
                f"Machine '{name}' cannot be started: its device nodes below {DIRECTORY} cannot be made "
                f"({error.strerror}).",
            ) from error

    def allowed(self, name: str) -> list[list[str]]:
        """What PID 1 was told for a machine that runs, whatever its settings say now."""
        return _read_allowed(name) if name in self._runs else []

    def run(self, name: str) -> int:
        """Which run of a machine has nodes; 0 when none has."""
        return self._runs.get(name, 0)

    def release(self, name: str) -> None:
        """Take the nodes of a machine away. Idempotent."""
        if self._runs.pop(name, None) is not None:
            try:
                _remove(name)
            except OSError as error:
                log.warning("Cannot remove the device nodes of machine '%s', ignoring: %s", name, error)

    def adopt(self, is_up: Callable[[str], bool]) -> None:
        """After a start of ours: know of what runs, take away what is of others."""
        for name in sorted({*_names(DIRECTORY), *_names(COOKIES), *_names(ALLOWED)}):
            self._count += 1
            self._runs[name] = self._count
            if not is_up(name):
                self.release(name)


def _names(directory: Path) -> list[str]:
    try:
        return [name for name in os.listdir(directory) if is_machine_name(name)]
    except OSError:
        return []


def _remove(name: str) -> None:
    devnodes.remove(DIRECTORY / name)
    (COOKIES / name).unlink(missing_ok=True)
    (ALLOWED / name).unlink(missing_ok=True)


def _make_all(name: str, settings: Effective, tree: str, base: int | None) -> Prepared:
    """Blocks. OSError, MachineError."""
    top = DIRECTORY / name
    _remove(name)  # what a run before has left
    devices = wanted(settings)
    try:
        if devices:
            DIRECTORY.mkdir(mode=0o700, exist_ok=True)
        if cookies := settings.all("Machine", "XAuthority"):
            _write_cookies(name, cookies[-1])
        groups = _groups(tree) if base is not None else {}
        for number, one in enumerate(devices):
            for node in one.nodes:
                if node.is_block and base is None:
                    raise MachineError(
                        Problem.INVALID_SETTINGS,
                        f"Machine '{name}' cannot have '{node.path}': which users are its own is known only "
                        f"when its disk image is mounted, and a disk is not for all of them. Say which, as "
                        f"PrivateUsers=1310720:65536, or 'no'.",
                    )
                below = os.path.relpath(node.path, one.device.path) if one.is_directory else ""
                _make(node, top / str(number) / below, groups, base)
        prepared = _prepared(name, devices, cookies=bool(cookies))
        _write_allowed(name, [row for one in prepared.properties for row in one.value])
    except BaseException:
        _remove(name)
        raise
    return prepared


def _write_allowed(name: str, rows: list[list[str]]) -> None:
    ALLOWED.mkdir(mode=0o755, parents=True, exist_ok=True)
    wholefile.write(ALLOWED / name, json.dumps(rows).encode(), 0o644)


def _read_allowed(name: str) -> list[list[str]]:
    try:
        rows = json.loads((ALLOWED / name).read_bytes())
        return [[str(path), str(access)] for path, access in rows]
    except (OSError, ValueError, TypeError) as error:
        log.warning("It is not known which devices machine '%s' may open, ignoring: %s", name, error)
        return []


def _write_cookies(name: str, said: Value) -> None:
    """What programs of any user inside show to the X server. OSError, MachineError."""
    try:
        data = xauth.read(said.text)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        text = f"{said.origin}: [Machine] XAuthority={said.text}: it cannot be used, {why}."
        raise MachineError(Problem.INVALID_SETTINGS, text) from error
    COOKIES.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = COOKIES / name
    path.write_bytes(data)
    path.chmod(0o444)  # the directory is root's alone


def _make(node: Node, path: Path, groups: Mapping[str, int], base: int | None) -> None:
    permissions = stat.S_IMODE(node.mode)
    if base is None:
        # No other user of the host comes here: what is above belongs to root alone.
        devnodes.make(node, path, 0, 0, permissions | 0o666)
    else:
        devnodes.make(node, path, base, base + groups.get(_group_name(node.group), 0), permissions)


def _group_name(number: int) -> str:
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return ""


def _groups(tree: str) -> dict[str, int]:
    """The groups of a tree, which is not trusted."""
    if not tree:
        return {}
    [data] = rootfiles.read(tree, [("etc/group",)], _GROUPS_SIZE)
    found = {}
    for line in (data or b"").decode(errors="replace").splitlines():
        name, _, number, *_ = [*line.split(":"), "", "", ""]
        if number.isdecimal() and len(number) < 6 and int(number) < RANGE:
            found[name] = int(number)
    return found
