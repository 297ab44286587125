# SPDX-License-Identifier: LGPL-2.1-or-later
"""Import, export, download: importctl's verbs since systemd 256, and handed over to it."""

from __future__ import annotations

import os
import signal
import sys

from .context import Context
from .errors import CommandError
from .output import message

_PROGRAM = "/usr/bin/importctl"


def importctl(context: Context, arguments: list[str]) -> int:
    """Become importctl. Raises CommandError where it is not installed."""
    verb = context.verb.name
    if not context.options.quiet:
        message(f"'machinectl {verb}' is 'importctl -m {verb}' by now: going on with that.")
    sys.stdout.flush()
    before = signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and a program inherits that
    try:
        os.execv(_PROGRAM, command(context, arguments))
    except OSError as error:
        signal.signal(signal.SIGPIPE, before)
        raise CommandError(
            f"Failed to run '{_PROGRAM}' for '{verb}': {error.strerror}",
            "It comes with systemd-importd, in Debian in the package 'systemd-container'.",
        ) from error


def command(context: Context, arguments: list[str]) -> list[str]:
    """Its command line, in the order systemd's own client has them."""
    options = context.options
    words = ["importctl", "--class=machine"]
    switches = (
        ("--no-pager", not options.pager), ("--no-legend", not options.legend or options.json),
        ("--read-only", options.read_only), ("--force", options.force), ("--quiet", options.quiet),
        ("--no-ask-password", not options.ask_password),
    )  # fmt: skip
    words += [word for word, wanted in switches if wanted]
    words += ["--verify", options.verify]
    if options.format:
        words += ["--format", options.format]
    return [*words, context.verb.name, *arguments]
