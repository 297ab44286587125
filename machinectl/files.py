# SPDX-License-Identifier: LGPL-2.1-or-later
"""`copy-to`, `copy-from` and `bind`: files of the host in a container, and the other way."""

from __future__ import annotations

import os

from .bus import ASKING_TIMEOUT, MACHINE1
from .context import Context
from .errors import BusError, CommandError

_REPLACE = 1  # the flag of the methods WithFlags


def copy_to(context: Context, arguments: list[str]) -> int:
    name, source = arguments[:2]
    destination = arguments[2] if len(arguments) > 2 else source
    return _copy(context, "CopyToMachine", name, absolute(source), destination)


def copy_from(context: Context, arguments: list[str]) -> int:
    name, source = arguments[:2]
    destination = arguments[2] if len(arguments) > 2 else source
    return _copy(context, "CopyFromMachine", name, source, absolute(destination))


def bind(context: Context, arguments: list[str]) -> int:
    name, source = arguments[:2]
    destination = arguments[2] if len(arguments) > 2 else ""
    options = context.options
    try:
        context.mutating_bus().call(
            MACHINE1, "BindMountMachine", "sssbb", name, source, destination, options.read_only,
            options.mkdir, timeout=ASKING_TIMEOUT,
        )  # fmt: skip
    except BusError as error:
        raise context.failure(error, f"Failed to bind mount '{source}' into machine '{name}'") from error
    return 0


def absolute(path: str) -> str:
    """A path of the host as the manager wants it: from the root, without empty and '.' parts.

    '..' stays, and is refused over there: what it means depends on symbolic links. Raises CommandError.
    """
    try:
        whole = path if path.startswith("/") else f"{os.getcwd()}/{path}"
    except OSError as error:
        raise CommandError(f"Failed to make path '{path}' absolute: {error.strerror}") from error
    return "/" + "/".join(part for part in whole.split("/") if part not in ("", "."))


def _copy(context: Context, member: str, name: str, source: str, destination: str) -> int:
    signature, flags = ("sss", ()) if not context.options.force else ("ssst", (_REPLACE,))
    try:
        context.mutating_bus().call(
            MACHINE1, member + ("WithFlags" if flags else ""), signature, name, source, destination, *flags,
            timeout=None,
        )  # fmt: skip
    except BusError as error:
        way = "into" if member == "CopyToMachine" else "from"
        failure = context.failure(error, f"Failed to copy '{source}' {way} machine '{name}'")
        if "File exists" in error.text and not failure.hint:
            failure.hint = f"'{destination}' is there already: --force replaces it."
        raise failure from error
    return 0
