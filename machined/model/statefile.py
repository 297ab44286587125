# SPDX-License-Identifier: LGPL-2.1-or-later
"""The files in /run/systemd/machines, which libsystemd and many tools read behind our back.

Format and keys: the `sd-login` readers (sd_machine_get_class(3), sd_login_monitor_new(3)) and the files of a
running systemd-machined of the host's version. Written by rename, since the monitor waits for IN_MOVED_TO.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import logging
import os
from pathlib import Path
from typing import Final

from machined.linux import envfile
from machined.linux.escape import c_escape, c_unescape
from machined.linux.process import PidRef
from machined.model.machine import NO_VSOCK_CID, Machine, MachineClass
from machined.model.names import is_machine_name

log = logging.getLogger(__name__)

DIRECTORY: Final = Path("/run/systemd/machines")
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
# Our own files have a dozen short keys; a larger one was not written by any machined.
MAX_SIZE: Final = 64 * 1024
# The values that systemd before 258 escapes.
_ESCAPED: Final = frozenset({"SCOPE", "SERVICE", "ROOT"})


class StateDirectory:
    """Saves, removes and loads the records of machines, in the keys of the host's systemd version."""

    def __init__(self, path: Path, version: int) -> None:
        self._path = path
        self._version = version
        self._numbers = itertools.count(1)  # what a killed writer left is swept before the first of ours
        path.mkdir(mode=0o755, parents=True, exist_ok=True)

    def save(self, machine: Machine) -> None:
        """Write the record of a machine and the link from its unit. Raises OSError."""
        # On the way of every registration, hence plain system calls.
        data = render(machine, self._version).encode()
        directory = os.fspath(self._path)
        temporary = f"{directory}/.#{machine.name}.{next(self._numbers)}"
        handle = os.open(temporary, _NEW, 0o644)
        try:
            try:
                os.fchmod(handle, 0o644)
                if os.write(handle, data) != len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), temporary)
            finally:
                os.close(handle)
            os.rename(temporary, f"{directory}/{machine.name}")
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        # A machine in a part of its unit must not claim the whole unit.
        if machine.unit and (not machine.subgroup or machine.owns_unit()):
            link = f"{directory}/unit:{machine.unit}"
            try:
                os.symlink(machine.name, link)
            except FileExistsError:
                log.debug("Link '%s' exists already, ignoring", link)

    def remove(self, machine: Machine) -> None:
        """Remove the record and the link. Raises OSError."""
        if machine.unit:
            link = f"{self._path}/unit:{machine.unit}"
            # The unit may belong to another machine's record by now.
            if _link_target(link) == machine.name:
                _unlink(link)
        _unlink(f"{self._path}/{machine.name}")

    def load(self) -> list[Machine]:
        """Every readable record, as machines that are not announced yet.

        broken ones are named in the log.
        """
        machines = []
        for entry in sorted(os.scandir(self._path), key=lambda e: e.name):
            if entry.name.startswith("unit:") or not is_machine_name(entry.name):
                continue
            if (
                not entry.is_file(follow_symlinks=False)
                or entry.stat(follow_symlinks=False).st_size > MAX_SIZE
            ):
                log.warning("'%s' in %s is no record of a machine, ignoring", entry.name, self._path)
                continue
            try:
                machines.append(parse(entry.name, Path(entry.path).read_bytes()))
            except (OSError, ValueError) as error:
                log.warning("Cannot load the record of machine '%s', ignoring: %s", entry.name, error)
        return machines

    def sweep(self) -> None:
        """Remove what a killed writer left: temporary files, and links to records that are gone."""
        for entry in list(os.scandir(self._path)):
            stale_link = (
                entry.name.startswith("unit:") and entry.is_symlink() and not Path(entry.path).exists()
            )
            if entry.name.startswith(".#") or stale_link:
                Path(entry.path).unlink(missing_ok=True)


def _link_target(path: str) -> str | None:
    """None when there is no such link."""
    try:
        return os.readlink(path)
    except OSError:
        return None


def _unlink(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def render(machine: Machine, version: int) -> str:
    """The text of a record, with the keys that the host's systemd version writes."""
    modern = version >= 258
    lines = ["# This is private data. Do not parse.", f"NAME={machine.name}"]

    def add(key: str, value: str) -> None:
        if value:
            lines.append(f"{key}={value}")

    if modern:
        add("UID", str(machine.uid))
    if machine.unit:
        add("SCOPE", _written(machine.unit, modern))
        add("SCOPE_JOB", machine.scope_job)
    if modern:
        # With it systemd-machined would leave the link of a unit behind.
        add("SUBGROUP", _written("" if machine.owns_unit() else machine.subgroup, modern))
    add("SERVICE", _written(machine.service, modern))
    add("ROOT", _written(machine.root_directory, modern))
    add("ID", machine.id.hex())
    if machine.leader_pid:
        add("LEADER", str(machine.leader_pid))
        if modern and machine.leader_id:
            add("LEADER_PIDFDID", str(machine.leader_id))
    if modern and machine.supervisor_pid:
        add("SUPERVISOR", str(machine.supervisor_pid))
        if machine.supervisor_id:
            add("SUPERVISOR_PIDFDID", str(machine.supervisor_id))
    add("CLASS", machine.cls.value)
    lines += [f"REALTIME={machine.realtime}", f"MONOTONIC={machine.monotonic}"]
    if machine.ifindices:
        joined = " ".join(map(str, machine.ifindices))
        lines.append(f'NETIF=" {joined}"' if modern else f"NETIF={joined}")
    if modern:
        add("VSOCK_CID", str(machine.vsock_cid or ""))
        add("SSH_ADDRESS", envfile.quote(machine.ssh_address) if machine.ssh_address else "")
        add(
            "SSH_PRIVATE_KEY_PATH",
            envfile.quote(machine.ssh_private_key_path) if machine.ssh_private_key_path else "",
        )
    if version >= 261 and machine.control_address:
        add("CONTROL_ADDRESS", envfile.quote(machine.control_address))
    return "\n".join(lines) + "\n"


def _written(value: str, modern: bool) -> str:
    """As the host's version writes it: quoted from 258 on, C-escaped before."""
    return envfile.quote(value) if modern else c_escape(value)


def _read(data: bytes) -> dict[str, str]:
    """The values of a record, whichever of the two ways they were written in.

    Readers before 258 know quotes alone: a name that is not plain ASCII comes back to them maimed.
    """
    values = envfile.parse(data)
    if b'="' in data:
        # A quoted value may have line breaks in it: its lines are not the record's.
        return values
    for line in data.decode(errors="replace").split("\n"):
        key, _, raw = line.partition("=")
        if key in _ESCAPED and key in values:
            with contextlib.suppress(ValueError):
                values[key] = c_unescape(raw)
    return values


def parse(name: str, data: bytes) -> Machine:
    """A machine from the record called `name`, of any machined's version. Raises ValueError.

    The leader is pinned when it is still the same process; `leader_pid` is set in any case. Without a
    `leader_id` nothing but the number says that it is the same.
    """
    values = _read(data)
    if values.get("NAME", name) != name:
        raise ValueError(f"it says that it is of '{values['NAME']}'")
    machine = Machine(name=name, cls=MachineClass(values.get("CLASS", MachineClass.CONTAINER)))
    if machine.cls is MachineClass.HOST:
        raise ValueError("only the host itself is of class 'host'")
    machine.unit = values.get("SCOPE", "")
    machine.scope_job = values.get("SCOPE_JOB", "")
    machine.subgroup = values.get("SUBGROUP", "")
    machine.service = values.get("SERVICE", "")
    machine.root_directory = values.get("ROOT", "")
    machine.id = bytes.fromhex(values.get("ID", ""))
    if len(machine.id) not in {0, 16}:
        raise ValueError("its ID is not 128 bits long")
    machine.realtime = _number(values.get("REALTIME", "0"), 64)
    machine.monotonic = _number(values.get("MONOTONIC", "0"), 64)
    machine.ifindices = tuple(_number(i, 31) for i in values.get("NETIF", "").split())
    machine.uid = _number(values.get("UID", "0"), 32)
    machine.vsock_cid = _number(values.get("VSOCK_CID", str(NO_VSOCK_CID)), 32) or NO_VSOCK_CID
    machine.ssh_address = values.get("SSH_ADDRESS", "")
    machine.ssh_private_key_path = values.get("SSH_PRIVATE_KEY_PATH", "")
    machine.control_address = values.get("CONTROL_ADDRESS", "")
    machine.leader_pid, machine.leader_id, machine.leader = _pin(values, "LEADER")
    machine.supervisor_pid, machine.supervisor_id, machine.supervisor = _pin(values, "SUPERVISOR")
    return machine


def _number(text: str, bits: int) -> int:
    """What fits in so many bits: it goes out on the bus, in a field of that size. Raises ValueError."""
    if not (text.isascii() and text.isdecimal()):
        raise ValueError(f"'{text[:40]}' is no number")
    number = int(text)
    if number >= 1 << bits:
        raise ValueError(f"'{text[:40]}' is out of range")
    return number


def _pin(values: dict[str, str], key: str) -> tuple[int, int | None, PidRef | None]:
    """The pid and pidfs inode that a record names, and the process if it is still that one."""
    pid = _number(values.get(key, "0"), 31)
    wanted = _number(values.get(f"{key}_PIDFDID", "0"), 64) or None
    if pid <= 1:
        return 0, None, None
    try:
        ref = PidRef.open(pid)
    except ProcessLookupError:
        return pid, wanted, None
    if wanted is not None and ref.id is not None and ref.id != wanted:
        ref.close()
        return pid, wanted, None
    return pid, wanted, ref
