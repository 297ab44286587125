# SPDX-License-Identifier: LGPL-2.1-or-later
"""What new machines can be made from: one row for each builder drives help, errors and commands.

A new one is a module with a row, and its place in the table here.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Mapping
from typing import Final

from machined.model.builders import arch, debian, fedora, trees
from machined.model.builders.plan import Builder, Plan, Wishes
from machined.model.errors import MachineError, Problem, invalid

BUILDERS: Final[Mapping[str, Builder]] = {
    builder.name: builder
    for builder in (
        debian.DEBOOTSTRAP,
        debian.MMDEBSTRAP,
        arch.PACSTRAP,
        fedora.DNF,
        trees.TAR,
        trees.DIRECTORY,
    )
}

SEARCH_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def resolve(source: str, wishes: Wishes) -> tuple[Builder, Plan]:
    """The builder and plan of a source, "BUILDER:…". Looks at nothing of the host.

    Raises MachineError (INVALID_ARGS).
    """
    name, colon, text = source.partition(":")
    builder = BUILDERS.get(name)
    if builder is None or not colon:
        shown = "".join(c if c.isprintable() else "?" for c in name[:80])
        known = ", ".join(f"{builder.name}:{builder.syntax}" for builder in BUILDERS.values())
        raise invalid(f"No builder '{shown}', known are {known}.")
    return builder, builder.plan(text, wishes)


def check_host(builder: Builder, plan: Plan) -> None:
    """Raises MachineError (NOT_SUPPORTED, FILE_NOT_FOUND, INVALID_ARGS) for what the host lacks."""
    if builder.program and shutil.which(builder.program, path=SEARCH_PATH) is None:
        raise MachineError(
            Problem.NOT_SUPPORTED,
            f"Builder '{builder.name}' needs the program '{builder.program}', which this host does not "
            f"have: install the package '{builder.package}'.",
        )
    if plan.reads:
        _check_there(plan.reads, stat.S_ISREG, "file", follow=True)
    if plan.copies:
        _check_there(plan.copies, stat.S_ISDIR, "directory", follow=False)


def _check_there(path: str, fits: Callable[[int], bool], what: str, *, follow: bool) -> None:
    try:
        mode = os.stat(path, follow_symlinks=follow).st_mode
    except OSError as error:
        raise MachineError(Problem.FILE_NOT_FOUND, f"Cannot read '{path}': {error.strerror}.") from None
    if not fits(mode):
        raise invalid(f"'{path}' is not a {what}{'' if follow else ' (links are not followed)'}.")
