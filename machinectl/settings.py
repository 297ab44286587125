# SPDX-License-Identifier: LGPL-2.1-or-later
"""`cat` and `edit`: the settings files of containers, systemd.nspawn(5), and our own, NAME.conf."""

from __future__ import annotations

import os
import sys

from . import names
from .context import Context
from .errors import CommandError
from .output import message
from .pager import paging

SUFFIX = ".nspawn"
ADMIN = "/etc/systemd/nspawn"
IMAGES = "/var/lib/machines"
OWN = "/etc/machined/machines"
PROFILES = "/etc/machined/profiles"
_OWN_SUFFIX = ".conf"
DIRECTORIES = (ADMIN, "/run/systemd/nspawn", IMAGES)
_PATH_MAX = 4096
_NAME_MAX = 255


def cat(context: Context, arguments: list[str]) -> int:
    """Files that are not there do not stop it; a name no file can have does."""
    _check(context, "Cat")
    status = 0
    with paging(context.options):
        for name in arguments:
            path = _explicit(name) or _own(context, name) or find(file_name(name))
            if not path:
                message(f"No settings file found for machine '{name}'.")
                status = 1
                continue
            _print(path)
    return status


def edit(context: Context, arguments: list[str]) -> int:
    """The editor gets copies; they take the place of the files when it ended well."""
    if not (os.isatty(1) and os.isatty(2)):
        raise CommandError("Cannot edit machine settings if not on a tty.")
    _check(context, "Edit")
    targets = list(dict.fromkeys(_target(context, name) for name in arguments))
    from .editor import edit_files
    from .proofread import Proofreader

    edit_files(targets, Proofreader(context, kind_of).check)
    return 0


def kind_of(path: str) -> tuple[str, str]:
    """What the manager calls such a file, and the name it has there; "" for what it does not know."""
    directory, _, file = path.rpartition("/")
    stem = file.removesuffix(_OWN_SUFFIX)
    if file.endswith(SUFFIX):
        return "nspawn", file.removesuffix(SUFFIX)
    if not file.endswith(_OWN_SUFFIX) or not stem:
        return "", ""
    if directory in (OWN, PROFILES):
        return ("machine" if directory == OWN else "profile"), stem
    parent, _, machine = directory.rpartition("/")
    if parent == OWN and machine.endswith(f"{_OWN_SUFFIX}.d"):
        return "drop-in", f"{machine.removesuffix(f'{_OWN_SUFFIX}.d')}/{file}"
    return "", ""


def file_name(name: str) -> str:
    """The name of the settings file of a machine. Raises CommandError."""
    file = name if name.endswith(SUFFIX) else name + SUFFIX
    if "/" in file or "\0" in file or len(os.fsencode(file)) > _NAME_MAX:
        raise CommandError(
            f"Invalid settings file name '{file}'.", "Give a machine's name, or an absolute path."
        )
    return file


def find(file: str) -> str:
    """The path of the file that counts; "" when there is none."""
    candidates = (f"{directory}/{file}" for directory in DIRECTORIES)
    return next((path for path in candidates if os.path.exists(path)), "")


def _check(context: Context, what: str) -> None:
    if context.options.host or context.options.machine:
        raise CommandError(f"{what} is only supported on the host machine.")
    if context.options.runner != "nspawn":
        raise CommandError(f"{what} is only supported for --runner=nspawn")


def _explicit(name: str) -> str:
    """The argument where it is a path from the root, else "". Raises CommandError for an unsafe one."""
    if not name.startswith("/"):
        return ""
    if ".." in name.split("/") or len(os.fsencode(name)) >= _PATH_MAX:
        raise CommandError(f"Invalid settings file path '{name}'.", "It must not have '..' in it.")
    return name


def _own(context: Context, name: str) -> str:
    """Our own file of a machine where that is meant, else "". Raises CommandError."""
    if context.options.own:
        names.check(name)
        return f"{OWN}/{name}{_OWN_SUFFIX}"
    stem = name.removesuffix(_OWN_SUFFIX)
    # A machine may be called so as well.
    if stem == name or not names.is_valid(stem) or find(file_name(name)):
        return ""
    return f"{OWN}/{name}"


def _target(context: Context, name: str) -> tuple[str, str]:
    """(the file to write, the file to begin with or ""). Raises CommandError."""
    if path := _explicit(name) or _own(context, name):
        return path, ""
    file = file_name(name)
    path = find(file)
    # Beside an image lies what came with it; an administrator's word belongs to /etc, where it counts more.
    if path and not path.startswith(IMAGES + "/"):
        return path, ""
    return f"{ADMIN}/{file}", path


def _print(path: str) -> None:
    try:
        with open(path, "rb") as file:
            content = file.read()
    except OSError as error:
        raise CommandError(f"Failed to open '{path}': {error.strerror}") from error
    print(f"# {path}", flush=True)
    # As it is: who redirects it wants the file and nothing else.
    sys.stdout.buffer.write(content)
    if content and not content.endswith(b"\n"):
        sys.stdout.buffer.write(b"\n")
    sys.stdout.flush()
