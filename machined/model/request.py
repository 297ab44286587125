# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a machine may be registered with: the checks of a request, the same for every wire.

A wire brings its words for the fields, looks at them in the order in which its callers expect to hear what
is wrong, and has a text of its own for each.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from machined.linux import process
from machined.linux.process import PidRef
from machined.model.errors import MachineError, Problem, no_such_process
from machined.model.machine import NO_VSOCK_CID, MachineClass
from machined.model.names import is_machine_name
from machined.model.ports import UnitProperty
from machined.model.registrar import Registration

# PATH_MAX, limits.h, with the zero at the end.
MAX_PATH: Final = 4096
# The CIDs up to 2 are the hypervisor's, the loopback's and the host's, vsock(7).
LAST_SPECIAL_CID: Final = 2


class Field(StrEnum):
    """The fields of a request that can be wrong."""

    NAME = "name"
    ID = "id"
    CLASS = "class"
    LEADER = "leader"
    ROOT_DIRECTORY = "rootDirectory"
    INTERFACES = "ifIndices"
    VSOCK_CID = "vSockCid"
    SSH_ADDRESS = "sshAddress"
    SSH_KEY = "sshPrivateKeyPath"
    CONTROL_ADDRESS = "controlAddress"


class BadFieldError(Exception):
    """A field that will not do; `value` is the offending part of it."""

    def __init__(self, field: Field, value: object) -> None:
        super().__init__(f"{field.value}: {value!r}")
        self.field = field
        self.value = value


def is_path(text: str) -> bool:
    """Whether a text can be an absolute path at all (path_resolution(7))."""
    data = os.fsencode(text)
    return data.startswith(b"/") and len(data) < MAX_PATH and b"\0" not in data


def is_plain_path(text: str) -> bool:
    """Whether it is an absolute path without detours: no "//", "." or "..", and no slash at the end."""
    return (
        is_path(text) and os.path.normpath(text) == text and ".." not in text.split("/") and text[:2] != "//"
    )


def is_printable(text: str) -> bool:
    """Whether no control character is in it."""
    return _CONTROL.search(text) is None


_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def _bad_interface(indices: Iterable[int]) -> int | None:
    return next((index for index in indices if not 0 < index < 2**31), None)


def _known_class(text: str) -> bool:
    return text in {"", MachineClass.CONTAINER, MachineClass.VM}


@dataclass(frozen=True, slots=True)
class Rules:
    """How strict a wire is with paths: each says whether a text will do."""

    root: Callable[[str], bool]
    key: Callable[[str], bool] = lambda text: True
    address: Callable[[str], bool] = lambda text: True


# Before 258 nobody looked further than the first character.
D_BUS_257: Final = Rules(lambda text: not text or text.startswith("/"))
D_BUS: Final = Rules(lambda text: not text or is_path(text))
VARLINK: Final = Rules(is_plain_path, is_path, is_printable)


def check(rules: Rules, field: Field, value: Any) -> None:
    """One field. Raises BadFieldError."""
    bad: object | None = None
    match field:
        case Field.NAME if not is_machine_name(value):
            bad = value
        case Field.ID if len(value) not in {0, 16}:
            bad = value
        case Field.CLASS if not _known_class(value):
            bad = value
        case Field.LEADER if value == 1:
            bad = value
        case Field.ROOT_DIRECTORY if not rules.root(value):
            bad = value
        case Field.INTERFACES:
            bad = _bad_interface(value)
        case Field.VSOCK_CID if not LAST_SPECIAL_CID < value < NO_VSOCK_CID:
            bad = value
        case Field.SSH_ADDRESS if not rules.address(value):
            bad = value
        case Field.SSH_KEY if not rules.key(value):
            bad = value
        case Field.CONTROL_ADDRESS if not is_plain_path(value):
            bad = value
    if bad is not None:
        raise BadFieldError(field, bad)


def validate(rules: Rules, given: Mapping[Field, Any], order: Iterable[Field]) -> Checked:
    """A request whose fields will do.

    Raises BadFieldError for the first that will not; fields that are not in `order` were looked at already.
    """
    for field in order:
        if field in given:
            check(rules, field, given[field])
    cls = given.get(Field.CLASS, "")
    return Checked(
        name=given[Field.NAME],
        cls=MachineClass(cls) if cls else None,
        id=bytes(given.get(Field.ID, b"")),
        root_directory=given.get(Field.ROOT_DIRECTORY, ""),
        ifindices=tuple(given.get(Field.INTERFACES, ())),
        vsock_cid=given.get(Field.VSOCK_CID),
        ssh_address=given.get(Field.SSH_ADDRESS, ""),
        ssh_private_key_path=given.get(Field.SSH_KEY, ""),
        control_address=given.get(Field.CONTROL_ADDRESS, ""),
    )


@dataclass(frozen=True, slots=True)
class Checked:
    """A request that can be registered as soon as somebody may lead the machine."""

    name: str
    cls: MachineClass | None
    id: bytes
    root_directory: str
    ifindices: tuple[int, ...]
    vsock_cid: int | None
    ssh_address: str
    ssh_private_key_path: str
    control_address: str

    def registration(
        self,
        leader: PidRef,
        supervisor: PidRef | None,
        uid: int,
        *,
        service: str = "",
        scope: Sequence[UnitProperty] | None = None,
        scope_fds: Sequence[int] = (),
    ) -> Registration:
        """With its processes, which are the registration's from now on."""
        return Registration(
            name=self.name,
            cls=self.cls,
            leader=leader,
            id=self.id,
            service=service,
            root_directory=self.root_directory,
            ifindices=self.ifindices,
            supervisor=supervisor,
            uid=uid,
            vsock_cid=self.vsock_cid,
            ssh_address=self.ssh_address,
            ssh_private_key_path=self.ssh_private_key_path,
            control_address=self.control_address,
            scope=scope,
            scope_fds=scope_fds,
        )


def check_owner(leader: PidRef, uid: int) -> None:
    """Who is not root registers processes of their own alone.

    Their own are those in user namespaces that they made as well: so rootless containers come. Raises
    MachineError (ACCESS_DENIED), ProcessLookupError.
    """
    if uid == 0:
        return
    owned = process.is_owned_by(leader.pid, uid)
    if not leader.alive():
        raise no_such_process()
    if not owned:
        raise MachineError(
            Problem.ACCESS_DENIED, "Only privileged users may register machines for other users"
        )
