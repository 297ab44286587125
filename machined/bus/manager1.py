# SPDX-License-Identifier: LGPL-2.1-or-later
"""org.freedesktop.machine1.Manager: the table, in the wire order of systemd-machined."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from machined.bus import files, idmaps, images, operations, registration
from machined.bus.call import Call
from machined.bus.names import image_path, machine_path
from machined.bus.prepared import Kept, Prepared
from machined.bus.vtable import Access, Interface, method, signal
from machined.linux.process import PidRef
from machined.model.core import Core
from machined.model.errors import MachineError, Problem, invalid, no_such_image
from machined.model.images import Image


def _get_machine(call: Call, core: Core, name: str) -> str:
    return machine_path(core.registry.find(name).name)


def _get_image(call: Call, core: Core, name: str) -> str:
    if core.images.find(name) is None:
        raise no_such_image(name)
    return image_path(name)


async def _get_machine_by_pid(call: Call, core: Core, pid: int) -> str:
    if pid == 2**32 - 1:  # what says "no process" where pids are signed
        raise invalid("Invalid argument")
    try:
        process = await call.process() if pid == 0 else PidRef.open(pid)
    except (ProcessLookupError, OverflowError):
        # The unit of a machine may outlive its leader, which it is known by for as long.
        if (late := core.registry.by_late_leader(pid)) is not None:
            return machine_path(late.name)
        raise _no_machine(pid) from None
    with process:
        machine = core.registry.of_process(process)
        if machine is None:
            raise _no_machine(pid)
    return machine_path(machine.name)


def _no_machine(pid: int) -> MachineError:
    return MachineError(Problem.NO_MACHINE_FOR_PID, f"PID {pid} does not belong to any known machine")


def _machines(core: Core) -> list[list[str]]:
    return [[m.name, m.cls.value, m.service, machine_path(m.name)] for m in core.registry]


def _images(images: list[Image]) -> list[list[Any]]:
    return [
        [i.name, i.type.value, i.read_only, i.created, i.modified, i.usage, image_path(i.name)]
        for i in images
    ]


def named(operation: Callable[..., Any]) -> Callable[..., Awaitable[Any]]:
    """A Manager method from what can be done to a machine: the first argument names the machine."""

    async def handler(call: Call, core: Core, name: str, *args: Any) -> Any:
        result = operation(call, core, core.registry.find(name), *args)
        return await result if isinstance(result, Awaitable) else result

    return handler


PRIVILEGED = Access.PRIVILEGED

_NAME_TO_PTY = "h pty, s pty_path"
_NAME_AND_PATHS = "s name, s source, s destination"
_REGISTER = "s name, ay id, s service, s class, u leader, s root_directory"


def table(version: int) -> Interface:
    """The interface as the host's systemd version has it."""
    # From 258 on polkit decides about these instead of the bus.
    was_privileged = Access.OPEN if version >= 258 else Access.PRIVILEGED
    machines = Kept("a(ssso)", _machines)

    def list_machines(call: Call, core: Core) -> Prepared:
        return machines.get((core, core.registry.generation), core)

    kept_images = Kept("a(ssbttto)", _images)

    def list_images(call: Call, core: Core) -> Prepared:
        listed = core.images.list()
        return kept_images.get((core, core.images.generation), listed)

    rows = (
        *images.pool_properties(),
        method("GetMachine", "s name", "o machine", _get_machine),
        method("GetImage", "s name", "o image", _get_image),
        method("GetMachineByPID", "u pid", "o machine", _get_machine_by_pid),
        method("ListMachines", "", "a(ssso) machines", list_machines),
        method("ListImages", "", "a(ssbttto) images", list_images),
        method(
            "CreateMachine",
            f"{_REGISTER}, a(sv) scope_properties",
            "o path",
            registration.create,
            was_privileged,
        ),
        method(
            "CreateMachineWithNetwork",
            f"{_REGISTER}, ai ifindices, a(sv) scope_properties",
            "o path",
            registration.create_with_network,
            was_privileged,
        ),
        method(
            "CreateMachineEx",
            "s name, a(sv) properties, a(sv) scope_properties",
            "o path",
            registration.create_ex,
            since=259,
        ),
        method("RegisterMachine", _REGISTER, "o path", registration.register, was_privileged),
        method(
            "RegisterMachineWithNetwork",
            f"{_REGISTER}, ai ifindices",
            "o path",
            registration.register_with_network,
            was_privileged,
        ),
        method(
            "RegisterMachineEx", "s name, a(sv) properties", "o path", registration.register_ex, since=259
        ),
        method("UnregisterMachine", "s name", "", named(operations.unregister)),
        method("TerminateMachine", "s id", "", named(operations.terminate)),
        method("KillMachine", "s name, s whom, i signal", "", named(operations.kill)),
        method("GetMachineAddresses", "s name", "a(iay) addresses", named(operations.addresses)),
        method(
            "GetMachineSSHInfo",
            "s name",
            "s ssh_address, s ssh_private_key_path",
            named(operations.ssh_info),
        ),
        method("GetMachineOSRelease", "s name", "a{ss} fields", named(operations.os_release)),
        method("OpenMachinePTY", "s name", _NAME_TO_PTY, named(operations.open_terminal), was_privileged),
        method("OpenMachineLogin", "s name", _NAME_TO_PTY, named(operations.login)),
        method(
            "OpenMachineShell",
            "s name, s user, s path, as args, as environment",
            _NAME_TO_PTY,
            named(operations.shell),
        ),
        method(
            "BindMountMachine",
            "s name, s source, s destination, b read_only, b mkdir",
            "",
            named(files.bind_mount),
        ),
        method("CopyFromMachine", _NAME_AND_PATHS, "", named(files.copy_from)),
        method("CopyToMachine", _NAME_AND_PATHS, "", named(files.copy_to)),
        method(
            "CopyFromMachineWithFlags",
            f"{_NAME_AND_PATHS}, t flags",
            "",
            named(files.copy_from_with_flags),
        ),
        method("CopyToMachineWithFlags", f"{_NAME_AND_PATHS}, t flags", "", named(files.copy_to_with_flags)),
        method("OpenMachineRootDirectory", "s name", "h fd", named(operations.root_directory)),
        method("GetMachineUIDShift", "s name", "u shift", named(operations.uid_shift)),
        *images.manager_methods(),
        method("MapFromMachineUser", "s name, u uid_inner", "u uid_outer", idmaps.from_user),
        method(
            "MapToMachineUser",
            "u uid_outer",
            "s machine_name, o machine_path, u uid_inner",
            idmaps.to_user,
        ),
        method("MapFromMachineGroup", "s name, u gid_inner", "u gid_outer", idmaps.from_group),
        method(
            "MapToMachineGroup",
            "u gid_outer",
            "s machine_name, o machine_path, u gid_inner",
            idmaps.to_group,
        ),
        signal("MachineNew", "s machine, o path"),
        signal("MachineRemoved", "s machine, o path"),
    )
    return Interface("org.freedesktop.machine1.Manager", rows).for_version(version)
