# SPDX-License-Identifier: LGPL-2.1-or-later
"""org.freedesktop.machine1.Machine: the table of the objects below machine/."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from machined.bus import files, operations
from machined.bus.call import Call
from machined.bus.vtable import Emits, Interface, Property, method, prop
from machined.linux.escape import bus_label_escape
from machined.model.core import Core
from machined.model.machine import Machine

SELF: Final = "self"
_PATHS: Final = "s source, s destination"


def finder(core: Core) -> Callable[[Call, str], Any]:
    """Looks a machine up by its label; `self` is the machine of the caller."""

    async def of_caller(call: Call) -> Machine | None:
        try:
            process = await call.process()
        except ProcessLookupError:
            return None
        with process:
            return core.registry.of_process(process)

    def find(call: Call, label: str) -> Any:
        return of_caller(call) if label == SELF else core.registry.get(label)

    return find


def enumerator(core: Core) -> Callable[[], list[str]]:
    return lambda: [bus_label_escape(machine.name) for machine in core.registry]


def _const(name: str, kind: str, value: Callable[[Machine], Any], **more: Any) -> Property:
    return prop(name, kind, lambda call, machine: value(machine), Emits.CONST, **more)


def machine_table(core: Core) -> Interface:
    """The interface as the host's systemd version has it."""

    def on(operation: Callable[..., Any]) -> Callable[..., Any]:
        def handler(call: Call, machine: Machine, *args: Any) -> Any:
            return operation(call, core, machine, *args)

        return handler

    rows = (
        _const("Name", "s", lambda m: m.name),
        _const("Id", "ay", lambda m: m.id),
        _const("Timestamp", "t", lambda m: m.realtime),
        _const("TimestampMonotonic", "t", lambda m: m.monotonic),
        _const("Service", "s", lambda m: m.service),
        _const("Unit", "s", lambda m: m.unit),
        _const("Scope", "s", lambda m: m.unit, hidden=True),
        _const("Subgroup", "s", lambda m: m.subgroup, since=258),
        _const("Leader", "u", lambda m: m.leader_pid),
        _const("LeaderPIDFDId", "t", lambda m: m.leader_id or 0, since=258),
        _const("Supervisor", "u", lambda m: m.supervisor_pid, since=258),
        _const("SupervisorPIDFDId", "t", lambda m: m.supervisor_id or 0, since=258),
        _const("Class", "s", lambda m: m.cls.value),
        _const("RootDirectory", "s", lambda m: m.root_directory),
        _const("NetworkInterfaces", "ai", lambda m: list(m.ifindices)),
        _const("VSockCID", "u", lambda m: m.vsock_cid),
        _const("SSHAddress", "s", lambda m: m.ssh_address),
        _const("SSHPrivateKeyPath", "s", lambda m: m.ssh_private_key_path),
        prop("State", "s", lambda call, machine: machine.phase.value, Emits.FALSE),
        _const("UID", "u", lambda m: m.uid, since=258),
        method("Terminate", "", "", on(operations.terminate)),
        method("Kill", "s whom, i signal", "", on(operations.kill)),
        method("GetAddresses", "", "a(iay) addresses", on(operations.addresses)),
        method("GetSSHInfo", "", "s ssh_address, s ssh_private_key_path", on(operations.ssh_info)),
        method("GetOSRelease", "", "a{ss} fields", on(operations.os_release)),
        method("GetUIDShift", "", "u shift", on(operations.uid_shift)),
        method("OpenPTY", "", "h pty, s pty_path", on(operations.open_terminal)),
        method("OpenLogin", "", "h pty, s pty_path", on(operations.login)),
        method(
            "OpenShell", "s user, s path, as args, as environment", "h pty, s pty_path", on(operations.shell)
        ),
        method("BindMount", "s source, s destination, b read_only, b mkdir", "", on(files.bind_mount)),
        method("CopyFrom", _PATHS, "", on(files.copy_from)),
        method("CopyTo", _PATHS, "", on(files.copy_to)),
        method("CopyFromWithFlags", f"{_PATHS}, t flags", "", on(files.copy_from_with_flags)),
        method("CopyToWithFlags", f"{_PATHS}, t flags", "", on(files.copy_to_with_flags)),
        method("OpenRootDirectory", "", "h fd", on(operations.root_directory)),
    )
    return Interface("org.freedesktop.machine1.Machine", rows).for_version(core.version)
