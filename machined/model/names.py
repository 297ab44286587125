# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which names machines and images may have, and what to suggest instead of a bad one."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

from machined.model.errors import MachineError, Problem

# HOST_NAME_MAX, hostname(7).
MAX_MACHINE_NAME: Final = 64
# NAME_MAX, limits.h.
MAX_FILE_NAME: Final = 255

HOST: Final = ".host"

# Of what is in a directory of images: systemd-machined(8), systemd.mstack(7), systemd.v(7).
_KINDS: Final = (".raw", ".mstack", ".v")

# What a user may be called anywhere, systemd.io/USER_NAMES: any text that no file or tool stumbles over.
_USER: Final = re.compile(r"(?!-?[0-9]+\Z)(?!\.{1,2}\Z)(?!\s)[^\x00-\x1f\x7f-\x9f:/]+(?<!\s)")

_LABEL: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?")


def is_machine_name(name: str) -> bool:
    """Whether a machine may be called so.

    a hostname, so labels of letters, digits and inner dashes; `.host` is not one.
    """
    return 0 < len(name) <= MAX_MACHINE_NAME and all(_LABEL.fullmatch(label) for label in name.split("."))


def is_image_name(name: str) -> bool:
    """Whether an image may be called so: wider than machine names, a plain visible file name in UTF-8."""
    if not name or name in {".", ".."} or "/" in name or name.startswith(".#"):
        return False
    try:
        encoded = name.encode()
    except UnicodeEncodeError:
        return False
    return len(encoded) <= MAX_FILE_NAME and not any(unicodedata.category(c) == "Cc" for c in name)


def kind_ending(name: str) -> str:
    """The end of a name that says of what kind a file is, empty for all other names.

    A tree that is called so is found as something else, or not at all.
    """
    return next((ending for ending in _KINDS if name.endswith(ending)), "")


def check_new_name(name: str) -> None:
    """Raises MachineError (INVALID_ARGS) for a name that no new image is to get."""
    if ending := kind_ending(name):
        raise MachineError(
            Problem.INVALID_ARGS,
            f"No new image can be called '{name}': what ends in '{ending}' is something of another "
            f"kind. '{name.removesuffix(ending) or 'web'}' is a name.",
        )


def is_user_name(name: str) -> bool:
    """Whether a user or group of some system may be called so."""
    return _USER.fullmatch(name) is not None


def suggestion(name: str) -> str:
    """The valid machine name nearest to a bad one, empty when nothing of it is left."""
    labels = (re.sub(r"[^A-Za-z0-9-]+", "-", label).strip("-") for label in name.split("."))
    return ".".join(filter(None, labels))[:MAX_MACHINE_NAME].rstrip(".-")


def check_machine_name(name: str) -> None:
    """Raises MachineError (INVALID_ARGS) with what is allowed and a name that would do."""
    if is_machine_name(name):
        return
    shown = "".join(c if c.isprintable() else "?" for c in name[:80])
    better = suggestion(name)
    hint = f" (try '{better}')" if better and better != name else ""
    raise MachineError(
        Problem.INVALID_ARGS,
        f"Machine name '{shown}' is not valid: only letters, digits, and inside a name '-' and '.', "
        f"at most {MAX_MACHINE_NAME} characters, are allowed{hint}.",
    )
