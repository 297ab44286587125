# SPDX-License-Identifier: LGPL-2.1-or-later
"""Bind mounts and copies, for Manager methods that name a machine and for the machine's own object alike.

Arguments are checked in the order of systemd-machined and with its words. Then polkit is asked, always: who
registered a machine has no say in what the host's files are.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Final

from machined.bus.call import Call
from machined.linux import paths
from machined.model.core import Core
from machined.model.errors import invalid
from machined.model.filetransfer import Bind, Copy, StepError
from machined.model.machine import Machine

ACTION: Final = "org.freedesktop.machine1.manage-machines"
# The flag of the …WithFlags methods: replace files that are there.
REPLACE: Final = 1


async def bind_mount(
    call: Call, core: Core, machine: Machine, source: str, destination: str, read_only: bool, mkdir: bool
) -> None:
    core.files.may_bind(machine)
    destination = _checked(source, destination, paths.is_normalized, "absolute and normalized")
    await _authorize(call, core, machine, "bind", source, destination)
    try:
        await core.files.bind(machine, Bind(source, destination, read_only, mkdir))
    except StepError:
        raise
    except OSError as error:
        number = error.errno if error.errno is not None else errno.ETIMEDOUT
        what = f"Failed to mount {source} on {destination} in machine's namespace"
        raise OSError(number, f"{what}: {os.strerror(number)}") from error


async def copy_from(call: Call, core: Core, machine: Machine, source: str, destination: str) -> None:
    await _copy(call, core, machine, source, destination, 0, to_guest=False)


async def copy_to(call: Call, core: Core, machine: Machine, source: str, destination: str) -> None:
    await _copy(call, core, machine, source, destination, 0, to_guest=True)


async def copy_from_with_flags(
    call: Call, core: Core, machine: Machine, source: str, destination: str, flags: int
) -> None:
    await _copy(call, core, machine, source, destination, flags, to_guest=False)


async def copy_to_with_flags(
    call: Call, core: Core, machine: Machine, source: str, destination: str, flags: int
) -> None:
    await _copy(call, core, machine, source, destination, flags, to_guest=True)


async def _copy(
    call: Call, core: Core, machine: Machine, source: str, destination: str, flags: int, *, to_guest: bool
) -> None:
    core.files.may_copy(machine)
    if flags & ~REPLACE:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    if core.version >= 258:
        destination = _checked(source, destination, paths.is_normalized, "absolute and normalized")
    else:
        destination = _checked(source, destination, os.path.isabs, "absolute")
    await _authorize(call, core, machine, "copy", source, destination)
    host, guest = (source, destination) if to_guest else (destination, source)
    try:
        await core.files.copy(machine, Copy(host, guest, to_guest, bool(flags & REPLACE)))
    except StepError as error:
        raise _step_error(core, machine, error) from error


def _checked(source: str, destination: str, accepts: Callable[[str], bool], what: str) -> str:
    """The destination, which is the source when empty. Raises MachineError."""
    if not accepts(source):
        raise invalid(f"Source path must be {what}.")
    if destination and not accepts(destination):
        raise invalid(f"Destination path must be {what}.")
    return destination or source


async def _authorize(
    call: Call, core: Core, machine: Machine, verb: str, source: str, destination: str
) -> None:
    details = {"machine": machine.name, "verb": verb, "src": source, "dest": destination}
    await call.authorize(ACTION, details)
    core.registry.still(machine)


def _step_error(core: Core, machine: Machine, error: StepError) -> OSError:
    number = error.errno or errno.EIO
    if core.version >= 258:
        return OSError(number, f"Failed to copy from/to machine '{machine.name}': {error.strerror}")
    if number == errno.ENXIO:  # of the user id mapping: passed on without a word
        return OSError(number, os.strerror(number))
    return OSError(number, f"{error.why}: {error.strerror}")
