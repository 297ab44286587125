# SPDX-License-Identifier: LGPL-2.1-or-later
"""Edited settings read by the manager before they are written, and what is to be done about what it says."""

from __future__ import annotations

import sys
from collections.abc import Callable

from .bus import ASKING_TIMEOUT, OURS
from .context import Context
from .errors import BusError, CommandError
from .findings import sentence
from .output import message

_NSPAWN = "nspawn"


class Proofreader:
    """Asks the manager, and where it has something to say the person at the terminal."""

    def __init__(self, context: Context, kind_of: Callable[[str], tuple[str, str]]) -> None:
        """`kind_of`: what the manager calls a file, and its name; "" for one that it does not know."""
        self._context = context
        self._kind_of = kind_of
        self._able = True

    def check(self, changed: list[tuple[str, bytes]]) -> bool:
        """Whether these may be written; False: edit again. Raises CommandError where that is not wished for.

        What systemd-nspawn would pass over is asked about; what the machine would not start with is not
        written.
        """
        wrong = doubtful = False
        for path, content in changed:
            kind, name = self._kind_of(path)
            if not kind:
                continue
            for severity, text in self._findings(kind, name, path, content):
                message(text)
                wrong = wrong or (severity == "error" and kind != _NSPAWN)
                doubtful = doubtful or kind == _NSPAWN
        if not (wrong or doubtful):
            return True
        if wrong:
            answer = _ask("Not saved, as machines do not start like this. Edit again? [Y/n] ", "y")
            if answer != "n":
                return False
        else:
            answer = _ask("Save anyway? [y/N, e: edit again] ", "n")
            if answer == "y":
                return True
            if answer == "e":
                return False
        raise CommandError("The changes were dropped, all files are as they were.")

    def _findings(self, kind: str, name: str, path: str, content: bytes) -> list[tuple[str, str]]:
        """Severity and sentence."""
        found = []
        try:
            text = content.decode()
        except UnicodeDecodeError as error:
            text = content.decode(errors="replace")
            line = content.count(b"\n", 0, error.start) + 1
            found.append(("error", f"{path}:{line}: error: not valid UTF-8."))
        # To who reads it an end of a line as well, and nothing that a message of the bus can have.
        text = text.replace("\0", "\n")
        if not self._able:
            return found
        try:
            rows: list[tuple[str, str, str]] = self._context.bus().call(
                OURS, "CheckSettingsText", "sss", kind, name, text, reply="a(sss)", timeout=ASKING_TIMEOUT
            )
        except (BusError, CommandError) as error:
            self._able = False
            if not (isinstance(error, BusError) and error.not_there):
                why = error.text if isinstance(error, BusError) else error.message
                message(f"The settings were not checked: {why}")
            return found
        return found + [(row[0], sentence(row)) for row in rows]


def _ask(question: str, default: str) -> str:
    """The first letter of the answer; "n" at the end of the input."""
    print(question, end="", file=sys.stderr, flush=True)
    answer = sys.stdin.readline()
    if not answer:
        print(file=sys.stderr)
        return "n"
    return answer.strip().lower()[:1] or default
