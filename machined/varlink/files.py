# SPDX-License-Identifier: LGPL-2.1-or-later
"""io.systemd.Machine's BindMount, CopyFrom, CopyTo and OpenRootDirectory (262): their rows and handlers."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import Any, Final

from machined.linux import paths
from machined.model.core import Core
from machined.model.errors import MachineError, Problem, not_supported
from machined.model.filetransfer import Bind, Copy
from machined.model.machine import Machine, MachineClass
from machined.varlink.handlers import ACTION, Authorize, Handlers
from machined.varlink.server import Call
from machined.varlink.table import BOOL, INT, STRING, Field, Method, Scalar, VarlinkError, may, need

SINCE: Final = 262

# What a copy says for "you may not" and "that cannot be done here".
_PRIVILEGE: Final = frozenset({errno.EPERM, errno.EACCES})
_UNSUPPORTED: Final = frozenset(
    {
        errno.EOPNOTSUPP,
        errno.ENOTTY,
        errno.ENOSYS,
        errno.EAFNOSUPPORT,
        errno.EPFNOSUPPORT,
        errno.EPROTONOSUPPORT,
        errno.ESOCKTNOSUPPORT,
        errno.ENOPROTOOPT,
    }
)


def _path(value: Any) -> str:
    text = str(STRING.convert(value))
    if not paths.is_normalized(text):
        raise ValueError("not a normalized path")
    return text


PATH: Final = Scalar("string", _path)


def rows(core: Core, authorize: Authorize, lookup: tuple[Field, ...]) -> tuple[Method, ...]:
    """The methods, in the order of the interface; `lookup` are the fields that name a machine."""
    handlers = FileHandlers(core, authorize)
    ends = need("source", PATH), may("destination", PATH)
    bind = (*lookup, *ends, may("readOnly", BOOL), may("mkdir", BOOL))
    copy = (*lookup, *ends, may("replace", BOOL))
    return (
        Method("BindMount", bind, (), handlers.bind_mount, SINCE),
        Method("CopyFrom", copy, (), handlers.copy_from, SINCE),
        Method("CopyTo", copy, (), handlers.copy_to, SINCE),
        Method(
            "OpenRootDirectory",
            lookup,
            (need("fileDescriptor", INT),),
            handlers.open_root_directory,
            SINCE,
        ),
    )


class FileHandlers(Handlers):
    """The methods, over a Core."""

    async def bind_mount(self, call: Call, given: Mapping[str, Any]) -> None:
        machine = self._lookup(call, given)
        self._core.files.may_bind(machine)
        source, destination = given["source"], given.get("destination", given["source"])
        await self._may_reach(call, machine, given, verb="bind", src=source, dest=destination)
        what = Bind(source, destination, given.get("readOnly", False), given.get("mkdir", False))
        await self._core.files.bind(machine, what)

    async def copy_from(self, call: Call, given: Mapping[str, Any]) -> None:
        await self._copy(call, given, to_guest=False)

    async def copy_to(self, call: Call, given: Mapping[str, Any]) -> None:
        await self._copy(call, given, to_guest=True)

    async def _copy(self, call: Call, given: Mapping[str, Any], *, to_guest: bool) -> None:
        machine = self._lookup(call, given)
        self._may_copy(machine)
        source, destination = given["source"], given.get("destination", given["source"])
        await self._may_reach(call, machine, given, verb="copy", src=source, dest=destination)
        self._may_copy(machine)
        host, guest = (source, destination) if to_guest else (destination, source)
        try:
            await self._core.files.copy(machine, Copy(host, guest, to_guest, given.get("replace", False)))
        except OSError as error:
            if error.errno in _PRIVILEGE:
                raise MachineError(Problem.ACCESS_DENIED, str(error)) from error
            if error.errno in _UNSUPPORTED:
                raise not_supported(str(error)) from error
            raise

    def _may_copy(self, machine: Machine) -> None:
        if self._core.files.operations.full:
            raise VarlinkError("io.systemd.Machine.TooManyOperations")
        self._core.files.may_copy(machine)

    async def open_root_directory(self, call: Call, given: Mapping[str, Any]) -> dict[str, Any]:
        machine = self._lookup(call, given)
        await self._may_reach(call, machine, given, verb="open_root_directory")
        if machine.cls is MachineClass.VM:
            raise not_supported("Opening the root directory is only supported on container machines.")
        return {"fileDescriptor": call.attach(await self._core.guests.root_directory(machine))}

    async def _may_reach(self, call: Call, machine: Machine, given: Mapping[str, Any], **more: str) -> None:
        """Ask polkit, also of who registered the machine; then it must still be there."""
        details = {"name": machine.name, **more}
        interactive = given.get("allowInteractiveAuthentication", False)
        await self._authorize(call, ACTION + "manage-machines", details, interactive)
        self._core.registry.still(machine)
