# SPDX-License-Identifier: LGPL-2.1-or-later
"""org.machined1.Manager: making new machines, and what they are told before their first boot."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from dbus_fast import Variant

from machined.bus.call import Call
from machined.bus.names import job_path
from machined.bus.verbs import ACTION, options
from machined.bus.vtable import Row, method
from machined.linux.fds import OwnedFd
from machined.model.builders import BUILDERS
from machined.model.core import Core
from machined.model.errors import MachineError, Problem, invalid
from machined.model.firstboot import MAX_PASSWORD, FirstBoot, check_password, first_boot

CREATE_ACTION: Final = f"{ACTION}create-image"

FIRST_BOOT: Final = {"hostname": "s", "locale": "s", "timezone": "s", "ssh-key": "s", "root-password": "h"}
# <linux/fcntl.h>: nothing that is read from such a file can make us wait, and nobody changes it meanwhile.
_SEALS: Final = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW


def _descriptor(call: Call, index: int) -> OwnedFd:
    try:
        return OwnedFd(call.fds.steal(index))
    except IndexError:
        raise invalid("A file descriptor was announced and not sent.") from None


def _password(call: Call, index: int) -> str:
    """What is in the sealed memfd with a password. Raises MachineError (INVALID_ARGS)."""
    with _descriptor(call, index) as fd:
        try:
            seals = fcntl.fcntl(fd.fileno(), fcntl.F_GET_SEALS)
        except OSError:
            seals = 0
        if seals & _SEALS != _SEALS:
            raise invalid(
                "Option 'root-password' must be a memfd, sealed against writing and changing its size."
            )
        data = os.pread(fd.fileno(), MAX_PASSWORD + 1, 0)
    try:
        password = data.decode().removesuffix("\n")
    except UnicodeDecodeError:
        raise invalid("The password is not valid UTF-8.") from None
    check_password(password)
    return password


def _plain(values: Mapping[str, Any]) -> FirstBoot:
    return first_boot(
        hostname=values.get("hostname", ""),
        locale=values.get("locale", ""),
        timezone=values.get("timezone", ""),
        ssh_key=values.get("ssh-key", ""),
    )


def first_boot_of(call: Call, values: Mapping[str, Any]) -> tuple[FirstBoot, str]:
    """What options say of a first boot, and the password apart from it. Raises MachineError."""
    settings = _plain(values)
    return settings, _password(call, values["root-password"]) if "root-password" in values else ""


async def with_password(core: Core, settings: FirstBoot, password: str) -> FirstBoot:
    """The settings with the hash of a password. Raises MachineError."""
    if not password:
        return settings
    try:
        return replace(settings, password=await core.creation.hashed(password))
    except OSError as error:
        raise MachineError(
            Problem.FAILED, f"The password cannot be hashed: {error.strerror or error}."
        ) from None


async def authorize_create(call: Call, name: str, verb: str) -> None:
    """Polkit: whoever may do this amounts to root."""
    await call.authorize(CREATE_ACTION, {"machine": name, "verb": verb})


async def create(call: Call, core: Core, name: str, source: str, given: Mapping[str, Variant]) -> str:
    values = options(given, {**FIRST_BOOT, "output": "h", "check": "b"})
    settings, password = first_boot_of(call, values)
    sink = _descriptor(call, values["output"]) if "output" in values else None
    core.creation.plan(name, source, settings)  # bad ones are said before a password is asked for
    await authorize_create(call, name, "create")
    settings = await with_password(core, settings, password)
    job = core.creation.create(name, source, settings, sink=sink, check=values.get("check", True))
    return job_path(job.id)


async def set_first_boot(call: Call, core: Core, name: str, given: Mapping[str, Variant]) -> None:
    values = options(given, FIRST_BOOT)
    settings, password = first_boot_of(call, values)
    core.creation.image(name)
    await authorize_create(call, name, "set-first-boot")
    settings = await with_password(core, settings, password)
    try:
        await core.creation.set_first_boot(name, settings)
    except OSError as error:
        if error.errno == errno.EBUSY:
            layered = "layers over it" in (error.strerror or "")
            raise MachineError(
                Problem.IMAGE_BUSY,
                f"{error.strerror}: set those up instead, or make them plain trees by 'machinectl flatten'."
                if layered
                else f"Image '{name}' is in use; power the machine off first.",
            ) from None
        if error.errno == errno.EROFS:
            raise MachineError(
                Problem.FAILED,
                f"Image '{name}' cannot be set up: it belongs to the host's system, or its file system is "
                f"read-only. 'machinectl clone' makes one that can be.",
            ) from None
        raise


async def check(call: Call, core: Core, name: str) -> list[tuple[str, str, str]]:
    core.creation.image(name)
    await authorize_create(call, name, "check")
    return [(found.what, found.level.value, found.hint) for found in await core.creation.check(name)]


def list_builders(call: Call, core: Core) -> list[tuple[str, str, str]]:
    return [(builder.name, builder.syntax, builder.summary) for builder in BUILDERS.values()]


_FIRST_BOOT_DOC: Final = (
    "`hostname` s, `locale` s, `timezone` s, `ssh-key` s (public keys of root, a line each), "
    "`root-password` h (a sealed memfd with the password in it)"
)

ROWS: Final[tuple[Row, ...]] = (
    method(
        "CreateImage",
        "s name, s source, a{sv} options",
        "o job",
        create,
        doc=(
            "Make a new machine from a source, BUILDER:ARGUMENTS as ListBuilders has them. The job ends "
            "when the image is there, and nothing is there before, or when the job fails or is canceled. "
            "Its message names the tool that failed and its last words; when done it holds what the "
            "machine lacks. "
            "Options: `output` h (the writing end of a pipe, for what the tool says), `check` b (whether it "
            f"has to be bootable, true if not given), and for its first boot {_FIRST_BOOT_DOC}."
        ),
    ),
    method(
        "SetFirstBoot",
        "s name, a{sv} options",
        "",
        set_first_boot,
        doc=(
            "Set up an image that is not in use: in its tree if it has one that can be written to, and by "
            f"systemd's credentials at each start. Options: {_FIRST_BOOT_DOC}."
        ),
    ),
    method(
        "CheckImage",
        "s name",
        "a(sss) findings",
        check,
        doc=(
            "Whether the tree of an image can be booted and logged in to: what was looked at, ok, warn or "
            "missing, and what to do about it."
        ),
    ),
    method(
        "ListBuilders",
        "",
        "a(sss) builders",
        list_builders,
        doc="What new machines can be made from: builder, its arguments, a summary.",
    ),
)
