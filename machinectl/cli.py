# SPDX-License-Identifier: LGPL-2.1-or-later
"""From argv to an exit status: parse, run the verb's function, say what went wrong."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib import import_module

from .errors import BusError, CommandError, explain
from .values import Answer

_INTERRUPTED = 130  # 128 + SIGINT, what a shell makes of it


def main(argv: list[str] | None = None) -> int:
    """Run one command line; 0 when it was done, 1 (for interruption 130) when not. Flushes stdout."""
    _open_standard_descriptors()
    for stream in (sys.stdout, sys.stderr):
        # Arguments and guests' texts may hold anything, a terminal need not be able to show it.
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        try:
            status = _run(sys.argv[1:] if argv is None else argv)
        except Answer as answer:
            print(answer)
            status = 0
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        # Whoever read our output has seen enough. Nothing may be flushed to it again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), 1)
        return 0
    except CommandError as error:
        _complain(error)
        return error.status
    except BusError as error:
        failure = explain(error, "Failed to talk to the machine manager")
        _complain(failure)
        return failure.status
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return _INTERRUPTED


def entry() -> None:
    """For the launcher: run, and leave without the interpreter's tidying up, which costs some ms."""
    status = main()
    sys.stderr.flush()
    os._exit(status)


def _open_standard_descriptors() -> None:
    """Where one of the three is closed, the next file opened would take its number: the bus, say."""
    while (fd := os.open(os.devnull, os.O_RDWR)) < 3:
        os.set_inheritable(fd, True)
    os.close(fd)
    # The interpreter has none for a descriptor that was closed when it started.
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


def _run(argv: list[str]) -> int:
    from . import options as parser

    options, words = parser.parse(argv)
    if options.completion:
        from .completions import script

        print(script(options.completion), end="")
        return 0
    if options.version:
        from . import VERSION

        print(f"machined {VERSION}")
        return 0
    if options.help:
        from .helptext import overview

        print(overview(), end="")
        return 0
    verb, arguments = parser.choose_verb(words)

    from .context import Context

    module, _, name = verb.function.partition(":")
    function: Callable[[Context, list[str]], int] = getattr(import_module(f".{module}", __package__), name)
    context = Context(options, verb)
    try:
        return function(context, arguments)
    finally:
        context.close()


def _complain(error: CommandError) -> None:
    from .output import message

    message(error.message)
    if error.hint:
        message(error.hint)
