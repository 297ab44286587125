# SPDX-License-Identifier: LGPL-2.1-or-later
"""Editing files of the system: an editor works on copies, which take the place of the files as a whole."""

from __future__ import annotations

import os
import secrets
import signal
from collections.abc import Callable

from .errors import CommandError
from .output import message

VARIABLES = ("SYSTEMD_EDITOR", "EDITOR", "VISUAL")
KNOWN = ("editor", "nano", "vim", "vi")
_NOT_FOUND = (FileNotFoundError, PermissionError, NotADirectoryError)


Check = Callable[[list[tuple[str, bytes]]], bool]
"""Called with (file to write, what is to be in it) of all that have changed: whether they may be written.
False: the editor is to be opened again. Raises CommandError when nothing is to be written."""


def edit_files(targets: list[tuple[str, str]], check: Check | None = None) -> None:
    """Edit (file to write, file to begin with or "" for itself), all in one run of the editor.

    A copy that is left empty or as it was changes nothing. All are written, or none. Raises CommandError.
    """
    copies: list[tuple[str, str, bytes]] = []
    try:
        for path, source in targets:
            copies.append(_copy(path, source or path))
        _run([copy for copy, _, _ in copies])
        while check is not None and not check(_changed(copies)):
            _run([copy for copy, _, _ in copies])
        for copy, path, before in copies:
            _install(copy, path, before)
    finally:
        for copy, _, _ in copies:
            if os.path.lexists(copy):
                os.unlink(copy)


def _changed(copies: list[tuple[str, str, bytes]]) -> list[tuple[str, bytes]]:
    found = []
    for copy, path, before in copies:
        try:
            content = _read(copy)
        except OSError as error:
            raise CommandError(f"Failed to read '{copy}': {error.strerror}") from error
        if content.strip() and content != before:
            found.append((path, content))
    return found


def commands() -> list[list[str]]:
    """The editors to try: the one the user names, or those that are known."""
    for variable in VARIABLES:
        if value := os.environ.get(variable):
            import shlex

            try:
                words = shlex.split(value)
            except ValueError as error:
                raise CommandError(f"Failed to parse ${variable} ('{value}'): {error}.") from error
            if words:
                return [words]
    return [[program] for program in KNOWN]


def _copy(path: str, source: str) -> tuple[str, str, bytes]:
    """(a new file beside the one to write, that one, what is in both)."""
    directory, _, name = path.rpartition("/")
    copy = f"{directory}/.#{name}{secrets.token_hex(8)}"
    try:
        content = _read(source)
        os.makedirs(directory or "/", mode=0o755, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(copy, flags, 0o644), "wb") as file:
            file.write(content)
    except OSError as error:
        raise CommandError(f"Failed to make a copy of '{source}' to edit: {error.strerror}") from error
    return copy, path, content


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return b""


def _run(files: list[str]) -> None:
    for command in commands():
        status = _wait(command, files)
        if status is None:
            continue
        if status != 0:
            how = f"exit status {status}" if status > 0 else f"signal {-status}"
            raise CommandError(f"The editor '{command[0]}' ended with {how}, nothing was changed.")
        return
    raise CommandError(
        f"Cannot edit files, none of these editors can be run: {', '.join(c[0] for c in commands())}.",
        f"Set one of {', '.join('$' + variable for variable in VARIABLES)}.",
    )


def _wait(command: list[str], files: list[str]) -> int | None:
    """How an editor ended; None where there is no such program."""
    # ^C is the editor's, and must not end us while it has the files open.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        pid = os.posix_spawnp(
            command[0], [*command, *files], os.environ, setsigdef=(signal.SIGINT, signal.SIGPIPE)
        )
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    except _NOT_FOUND:
        return None
    finally:
        signal.signal(signal.SIGINT, before)


def _install(copy: str, path: str, before: bytes) -> None:
    try:
        content = _read(copy)
        if not content.strip():
            message(f"{path}: empty after editing, not written.")
        elif content != before or not os.path.exists(path):
            os.rename(copy, path)
            message(f"'{path}' is written, and counts from the next start of the machine.")
    except OSError as error:
        raise CommandError(f"Failed to write '{path}': {error.strerror}") from error
