# SPDX-License-Identifier: LGPL-2.1-or-later
"""Long output goes through a pager when stdout is a terminal, with the variables systemd's tools honour."""

from __future__ import annotations

import os
import sys
from typing import Self

from .table import Options

_BUILT_IN = ("less", "more")


class Pager:
    """A pager that reads what is printed to stdout; `close` waits until it is left."""

    def __init__(self, pid: int, terminal: int) -> None:
        self._pid = pid
        self._terminal = terminal

    @classmethod
    def start(cls) -> Pager | None:
        """Put a pager in front of stdout; None where there is nobody to page for."""
        if not os.isatty(1) or os.environ.get("TERM", "dumb") == "dumb":
            return None
        commands = _commands()
        if not commands:
            return None
        sys.stdout.flush()
        read, write = os.pipe()
        pid = _spawn(commands, read)
        os.close(read)
        if pid is None:
            os.close(write)
            return None
        terminal = os.dup(1)
        os.dup2(write, 1)
        os.close(write)
        return cls(pid, terminal)

    def close(self) -> None:
        """Raises BrokenPipeError when the reader left before the end: nothing that matters is lost."""
        try:
            sys.stdout.flush()
        finally:
            os.dup2(self._terminal, 1)
            os.close(self._terminal)
            os.waitpid(self._pid, 0)


class paging:
    """What the block prints goes through a pager where one is wanted."""

    def __init__(self, options: Options) -> None:
        self._wanted = options.pager and not options.json
        self._pager: Pager | None = None

    def __enter__(self) -> Self:
        self._pager = Pager.start() if self._wanted else None
        return self

    def __exit__(self, *_: object) -> None:
        if self._pager is not None:
            self._pager.close()


def _commands() -> list[list[str]]:
    """The pagers to try. An empty variable or "cat" means none is wanted."""
    for name in ("SYSTEMD_PAGER", "PAGER"):
        value = os.environ.get(name)
        if value is not None:
            words = value.split()
            return [] if words in ([], ["cat"]) else [words]
    return [[program] for program in _BUILT_IN]


def _spawn(commands: list[list[str]], stdin: int) -> int | None:
    environment = dict(os.environ)
    environment["LESS"] = os.environ.get("SYSTEMD_LESS", "FRSXMK")
    environment["LESSCHARSET"] = os.environ.get("SYSTEMD_LESSCHARSET", "utf-8")
    # As another user than the one who logged in, a pager must not offer a shell or an editor.
    secure = os.environ.get("SYSTEMD_PAGERSECURE", "1" if "SUDO_UID" in os.environ else "0")
    if secure not in ("0", "no", "false", "off"):
        environment["LESSSECURE"] = "1"
    for command in commands:
        try:
            actions = [(os.POSIX_SPAWN_DUP2, stdin, 0)]
            return os.posix_spawnp(command[0], command, environment, file_actions=actions)
        except OSError:
            continue
    return None
