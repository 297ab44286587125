# SPDX-License-Identifier: LGPL-2.1-or-later
"""Create/RegisterMachine and their variants: the arguments of a call as a request for the model."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Final

from machined.bus.call import Call
from machined.bus.names import machine_path
from machined.linux.process import PidRef
from machined.model.core import Core
from machined.model.errors import MachineError, Problem, invalid
from machined.model.ports import UnitProperty
from machined.model.request import (
    D_BUS,
    D_BUS_257,
    BadFieldError,
    Checked,
    Field,
    check_owner,
    validate,
)

CREATE: Final = "org.freedesktop.machine1.create-machine"
# Not among polkit's actions, so root's alone.
CREATE_EX: Final = "org.freedesktop.machine1.create-machines"
REGISTER: Final = "org.freedesktop.machine1.register-machine"


async def register(
    call: Call, core: Core, name: str, machine_id: bytes, service: str, cls: str, leader: int, root: str
) -> str:
    return await _run(call, core, name, machine_id, service, cls, leader, root, [], None)


async def register_with_network(
    call: Call,
    core: Core,
    name: str,
    machine_id: bytes,
    service: str,
    cls: str,
    leader: int,
    root: str,
    ifindices: Sequence[int],
) -> str:
    return await _run(call, core, name, machine_id, service, cls, leader, root, ifindices, None)


async def create(
    call: Call,
    core: Core,
    name: str,
    machine_id: bytes,
    service: str,
    cls: str,
    leader: int,
    root: str,
    scope: Sequence[Any],
) -> str:
    return await _run(call, core, name, machine_id, service, cls, leader, root, [], scope)


async def create_with_network(
    call: Call,
    core: Core,
    name: str,
    machine_id: bytes,
    service: str,
    cls: str,
    leader: int,
    root: str,
    ifindices: Sequence[int],
    scope: Sequence[Any],
) -> str:
    return await _run(call, core, name, machine_id, service, cls, leader, root, ifindices, scope)


async def _run(
    call: Call,
    core: Core,
    name: str,
    machine_id: bytes,
    service: str,
    cls: str,
    leader: int,
    root: str,
    ifindices: Sequence[int],
    scope: Sequence[Any] | None,
) -> str:
    given: dict[Field, Any] = {
        Field.NAME: name,
        Field.ID: machine_id,
        Field.INTERFACES: ifindices,
        Field.CLASS: cls,
        Field.LEADER: leader,
        Field.ROOT_DIRECTORY: root,
    }
    # The order of systemd-machined.
    checked = _checked(core, given, _ORDER)
    pinned = await _pin(call, leader)
    with ExitStack() as stack:
        stack.enter_context(pinned)
        await core.registrar.check_free(name, pinned, own_unit=scope is not None)
        stack.pop_all()
    action = REGISTER if scope is None else CREATE
    return await _finish(call, core, checked, pinned, action, cls=cls, service=service, scope=scope)


_ORDER: Final = (
    Field.NAME,
    Field.ID,
    Field.INTERFACES,
    Field.CLASS,
    Field.LEADER,
    Field.ROOT_DIRECTORY,
)


def _checked(core: Core, given: Mapping[Field, Any], order: Iterable[Field]) -> Checked:
    """Raises MachineError (INVALID_ARGS) with the text that callers know."""
    rules = D_BUS if core.version >= 258 else D_BUS_257
    try:
        return validate(rules, given, order)
    except BadFieldError as error:
        raise invalid(_TEXTS[error.field].format(error.value)) from None


_TEXTS: Final = {
    Field.NAME: "Invalid machine name",
    Field.ID: "Invalid machine ID parameter",
    Field.INTERFACES: "Invalid network interface index {}",
    Field.CLASS: "Invalid machine class parameter",
    Field.LEADER: "Invalid leader PID",
    Field.ROOT_DIRECTORY: "Root directory must be empty or an absolute path",
    Field.VSOCK_CID: "JSON field 'vSockCid' is not a regular VSOCK CID.",
}


async def _finish(
    call: Call,
    core: Core,
    checked: Checked,
    leader: PidRef,
    action: str,
    *,
    cls: str,
    service: str,
    scope: Sequence[Any] | None,
) -> str:
    """Ask, and register. The leader is closed in any case."""
    with ExitStack() as stack:
        stack.enter_context(leader)
        if core.version >= 258:
            await call.authorize(action, {"name": checked.name, "class": cls})
            check_owner(leader, (await call.credentials()).uid)
        supervisor = await _supervisor(call, core, leader)
        if supervisor is not None:
            stack.enter_context(supervisor)
        request = checked.registration(
            leader,
            supervisor,
            (await call.credentials()).uid,
            service=service,
            scope=None if scope is None else [UnitProperty(key, v.signature, v.value) for key, v in scope],
            scope_fds=[call.fds.peek(i) for i in range(len(call.fds))] if scope is not None else (),
        )
        stack.pop_all()  # the registration closes them from here on
    return machine_path((await core.registrar.register(request)).name)


async def _pin(call: Call, leader: int) -> PidRef:
    """The leader's process (0: the sender's), pinned before anything else is looked up by its pid."""
    if leader == 0:
        return await call.process()
    try:
        return PidRef.open(leader)
    except ProcessLookupError:
        raise _unpinnable(leader) from None


def _unpinnable(leader: int, addition: str = "") -> MachineError:
    shown = leader - 2**32 if leader >= 2**31 else leader  # a pid_t is signed
    return MachineError(Problem.PROCESS_UNKNOWN, f"Failed to pin process {shown}{addition}: No such process")


async def _supervisor(call: Call, core: Core, leader: PidRef) -> PidRef | None:
    """From 258 on the sender is remembered as the one that runs the payload."""
    if core.version < 258:
        return None
    try:
        sender = await call.process()
    except ProcessLookupError:
        return None
    if sender.pid == leader.pid:
        sender.close()
        return None
    return sender


_EX_KEYS: Final[dict[str, str]] = {
    "Id": "ay",
    "Service": "s",
    "Class": "s",
    "LeaderPIDFD": "h",
    "LeaderPID": "u",
    "LeaderPIDFDID": "t",
    "RootDirectory": "s",
    "NetworkInterfaces": "ai",
    "VSockCID": "u",
    "SSHAddress": "s",
    "SSHPrivateKeyPath": "s",
}


async def register_ex(call: Call, core: Core, name: str, properties: Sequence[Any]) -> str:
    return await _run_ex(call, core, name, properties, None)


async def create_ex(
    call: Call, core: Core, name: str, properties: Sequence[Any], scope: Sequence[Any]
) -> str:
    return await _run_ex(call, core, name, properties, scope)


async def _run_ex(
    call: Call, core: Core, name: str, properties: Sequence[Any], scope: Sequence[Any] | None
) -> str:
    _checked(core, {Field.NAME: name}, [Field.NAME])
    # What systemd-machined has for a machine that comes this way without a CID; its record has none then.
    given: dict[Field, Any] = {Field.NAME: name, Field.VSOCK_CID: 0}
    values: dict[str, Any] = {}
    for key, variant in properties:
        expected = _EX_KEYS.get(key)
        if expected is None:
            raise invalid(f"Unknown property '{key}'")
        if variant.signature != expected:
            # What sd-bus says when a value is read as another type.
            raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))
        values[key] = variant.value
        if (field := _EX_FIELDS.get(key)) is not None:
            given[field] = variant.value
            if field not in _LAST:
                _checked(core, given, [field])
    checked = _checked(core, given, _LAST)
    with ExitStack() as stack:
        leader = None
        if any(values.get(key) for key in ("LeaderPID", "LeaderPIDFDID")) or "LeaderPIDFD" in values:
            await core.registrar.check_free(name, None, own_unit=scope is not None)
            leader = stack.enter_context(_named_leader(call, values))
        else:
            leader = stack.enter_context(await call.process())
            await core.registrar.check_free(name, leader, own_unit=scope is not None)
        if leader.pid == 1:
            raise invalid("Invalid leader PID")
        stack.pop_all()
    return await _finish(
        call,
        core,
        checked,
        leader,
        REGISTER if scope is None else CREATE_EX,
        cls=values.get("Class", ""),
        service=values.get("Service", ""),
        scope=scope,
    )


_EX_FIELDS: Final = {
    "Id": Field.ID,
    "Class": Field.CLASS,
    "RootDirectory": Field.ROOT_DIRECTORY,
    "NetworkInterfaces": Field.INTERFACES,
    "VSockCID": Field.VSOCK_CID,
    "SSHAddress": Field.SSH_ADDRESS,
    "SSHPrivateKeyPath": Field.SSH_KEY,
}
# Looked at when all properties were read.
_LAST: Final = (Field.CLASS, Field.ROOT_DIRECTORY)


def _named_leader(call: Call, values: Mapping[str, Any]) -> PidRef:
    """The process that is named in one of three ways, pinned. Raises MachineError."""
    pid, pidfd_id = values.get("LeaderPID", 0), values.get("LeaderPIDFDID", 0)
    if "LeaderPIDFD" not in values:
        if not pid or not pidfd_id:
            raise invalid(
                "Both LeaderPID and LeaderPIDFDID must be specified"
                " to identify the leader process by PIDFDID"
            )
        by = f" by PIDFDID {pidfd_id}"
        try:
            leader = PidRef.open(pid)
        except ProcessLookupError:
            raise _unpinnable(pid, by) from None
        if leader.id != pidfd_id:
            leader.close()
            raise _unpinnable(pid, by)
        return leader
    try:
        number = call.fds.peek(values["LeaderPIDFD"])
    except IndexError as error:
        raise invalid("Failed to parse PIDFD: Bad file descriptor") from error
    try:
        leader = PidRef.adopt(os.dup(number))
    except OSError as error:
        # To one that is no pidfd, the ioctl that tells of a process is unknown.
        code = errno.ESRCH if error.errno == errno.ESRCH else errno.ENOTTY
        raise OSError(code, f"Failed to parse PIDFD {number}: {os.strerror(code)}") from error
    problem = ""
    if pid and leader.pid != pid:
        problem = "LeaderPID and LeaderPIDFD refer to different processes"
    elif pidfd_id and leader.id is not None and leader.id != pidfd_id:
        problem = "LeaderPIDFDID does not match the inode number of LeaderPIDFD"
    if problem:
        leader.close()
        raise invalid(problem)
    return leader
