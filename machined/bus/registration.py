# SPDX-License-Identifier: LGPL-2.1-or-later
"""Create/RegisterMachine and their variants.

arguments of a call as a Registration, checked in the stock order.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Final

from dbus_fast import Variant

from machined.bus.call import Call
from machined.bus.names import machine_path
from machined.linux import process
from machined.linux.process import PidRef
from machined.model.core import Core
from machined.model.errors import MachineError, Problem, invalid
from machined.model.machine import MachineClass
from machined.model.names import is_machine_name
from machined.model.ports import UnitProperty
from machined.model.registrar import Registration

CREATE: Final = "org.freedesktop.machine1.create-machine"
REGISTER: Final = "org.freedesktop.machine1.register-machine"


def _class(text: str) -> MachineClass | None:
    if not text:
        return None
    if text not in {MachineClass.CONTAINER, MachineClass.VM}:
        raise invalid("Invalid machine class parameter")
    return MachineClass(text)


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
    if not is_machine_name(name):
        raise invalid("Invalid machine name")
    if len(machine_id) not in {0, 16}:
        raise invalid("Invalid machine ID parameter")
    for index in ifindices:
        if index <= 0:
            raise invalid(f"Invalid network interface index {index}")
    machine_class = _class(cls)
    if leader == 1:
        raise invalid("Invalid leader PID")
    if root and not root.startswith("/"):
        raise invalid("Root directory must be empty or an absolute path")
    details = {"name": name, "class": cls}
    if core.version >= 258:
        await call.authorize(REGISTER if scope is None else CREATE, details)
    pinned = await _pin(call, leader)
    try:
        await _check_owner(call, core, pinned)
        supervisor = await _supervisor(call, core, pinned)
    except BaseException:
        pinned.close()
        raise
    request = Registration(
        name=name,
        cls=machine_class,
        leader=pinned,
        id=bytes(machine_id),
        service=service,
        root_directory=root,
        ifindices=tuple(ifindices),
        supervisor=supervisor,
        uid=(await call.credentials()).uid,
        scope=None if scope is None else [UnitProperty(key, v.signature, v.value) for key, v in scope],
        scope_fds=[call.fds.peek(i) for i in range(len(call.fds))] if scope is not None else (),
    )
    machine = await core.registrar.register(request)
    return machine_path(machine.name)


async def _pin(call: Call, leader: int) -> PidRef:
    """The leader's process (0: the sender's), pinned before anything else is looked up by its pid."""
    if leader == 0:
        return await call.process()
    try:
        return PidRef.open(leader)
    except ProcessLookupError:
        raise MachineError(
            Problem.PROCESS_UNKNOWN, f"Failed to pin process {leader}: No such process"
        ) from None


async def _check_owner(call: Call, core: Core, leader: PidRef) -> None:
    """Who is not root registers processes of their own alone (258 and later let them register at all)."""
    credentials = await call.credentials()
    if core.version >= 258 and credentials.uid != 0 and process.real_uid(leader.pid) != credentials.uid:
        raise MachineError(Problem.ACCESS_DENIED, "Only root may register machines for other users")


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
    if not is_machine_name(name):
        raise invalid("Invalid machine name")
    values = _ex_values(properties)
    action = REGISTER if scope is None else "org.freedesktop.machine1.create-machines"
    await call.authorize(action, {"name": name, "class": values.get("Class", "")})
    leader = await _ex_leader(call, values)
    try:
        machine_id = bytes(values.get("Id", b""))
        if len(machine_id) not in {0, 16}:
            raise invalid("Invalid machine ID parameter")
        root = values.get("RootDirectory", "")
        if root and not root.startswith("/"):
            raise invalid("Root directory must be empty or an absolute path")
        await _check_owner(call, core, leader)
        request = Registration(
            name=name,
            cls=_class(values.get("Class", "")),
            leader=leader,
            id=machine_id,
            service=values.get("Service", ""),
            root_directory=root,
            ifindices=tuple(values.get("NetworkInterfaces", ())),
            supervisor=await _supervisor(call, core, leader),
            uid=(await call.credentials()).uid,
            vsock_cid=values.get("VSockCID"),
            ssh_address=values.get("SSHAddress", ""),
            ssh_private_key_path=values.get("SSHPrivateKeyPath", ""),
            scope=None if scope is None else [UnitProperty(key, v.signature, v.value) for key, v in scope],
            scope_fds=[call.fds.peek(i) for i in range(len(call.fds))] if scope is not None else (),
        )
    except BaseException:
        leader.close()
        raise
    return machine_path((await core.registrar.register(request)).name)


def _ex_values(properties: Sequence[tuple[str, Variant]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, variant in properties:
        expected = _EX_KEYS.get(key)
        if expected is None:
            raise invalid(f"Unknown property '{key}'")
        if variant.signature != expected:
            raise invalid(f"Property '{key}' has type '{variant.signature}', expected '{expected}'")
        values[key] = variant.value
    return values


async def _ex_leader(call: Call, values: dict[str, Any]) -> PidRef:
    if "LeaderPIDFD" in values:
        try:
            return PidRef.adopt(os.dup(call.fds.peek(values["LeaderPIDFD"])))
        except (IndexError, OSError) as error:
            raise invalid("Invalid leader PID file descriptor") from error
    if ("LeaderPID" in values) != ("LeaderPIDFDID" in values):
        raise invalid("LeaderPID and LeaderPIDFDID must be given together")
    if "LeaderPID" not in values:
        return await call.process()
    leader = await _pin(call, values["LeaderPID"])
    if leader.id is not None and leader.id != values["LeaderPIDFDID"]:
        leader.close()
        raise MachineError(Problem.PROCESS_UNKNOWN, "The leader process is not the one that was meant")
    return leader
