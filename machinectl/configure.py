# SPDX-License-Identifier: LGPL-2.1-or-later
"""`set` and `apply`: settings written by the manager, one by one or as a document has them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from . import names
from .bus import ASKING_TIMEOUT, OURS
from .context import Context
from .errors import BusError, CommandError
from .findings import Finding, failure, sentence
from .names import clean
from .output import message, to_json

_SIZE_MAX = 1024 * 1024
_NO_LIMIT = None  # machines are started on the way, and power off


def set_settings(context: Context, arguments: list[str]) -> int:
    options = context.options
    name, words = arguments[0], arguments[1:]
    names.check(name)
    given = {"runtime": ("b", True)} if options.runtime else {}
    bus = context.mutating_bus()
    try:
        files, pending, findings = bus.call(
            OURS, "SetMachineSettings", "sasa{sv}", name, words, given, reply="asasa(sss)",
            timeout=ASKING_TIMEOUT,
        )  # fmt: skip
    except BusError as error:
        raise failure(context, error, f"Could not change the settings of machine '{name}'") from error
    finding: Finding
    for finding in findings:
        message(sentence(finding))
    if not options.quiet:
        _tell(name, files, pending)
    return 0


def _tell(name: str, files: list[str], pending: list[str]) -> None:
    if not files:
        message(f"Nothing to change, '{name}' has these settings already.")
        return
    message("Changed " + ", ".join(f"'{path}'" for path in files) + ".")
    if pending:
        message(
            f"Machine '{name}' runs, and has this from its next start on: {', '.join(pending)} "
            f"('machinectl poweroff {name}' and 'machinectl start {name}')."
        )


def apply(context: Context, arguments: list[str]) -> int:
    """1 when anything could not be done."""
    options = context.options
    if not options.file:
        raise CommandError("Nothing to apply.", "Usage: machinectl apply --file=FILE [--dry-run] [--diff]")
    given: dict[str, tuple[str, object]] = {}
    if options.dry_run:
        given["dry-run"] = ("b", True)
    if options.force:
        given["force"] = ("b", True)
    text = _read(options.file)
    bus = context.mutating_bus()
    try:
        answer: str = bus.call(OURS, "ApplyMachines", "sa{sv}", text, given, reply="s", timeout=_NO_LIMIT)
    except BusError as error:
        raise failure(context, error, f"Could not apply '{options.file}'") from error
    import json

    result: Mapping[str, Any] = json.loads(answer)
    if options.json:
        print(to_json(result, pretty=options.output == "json-pretty"))
    else:
        for name, outcome in result.items():
            _report(context, name, outcome)
    for outcome in result.values():
        for warning in outcome["warnings"]:
            message(f"Warning: {warning}")
        if outcome["error"]:
            message(outcome["error"])
    return 1 if any(outcome["error"] for outcome in result.values()) else 0


def _read(path: str) -> str:
    try:
        if path == "-":
            data = sys.stdin.buffer.read(_SIZE_MAX + 1)
        else:
            with open(path, "rb") as file:
                data = file.read(_SIZE_MAX + 1)
        text = data.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not valid UTF-8"
        raise CommandError(f"Could not read '{path}': {reason}") from error
    if len(data) > _SIZE_MAX or "\0" in text:
        raise CommandError(f"Could not apply '{path}': it is no document.")
    return text


def _report(context: Context, name: str, outcome: Mapping[str, Any]) -> None:
    options = context.options
    if options.diff:
        for line in outcome["diff"]:
            print(clean(line))
    if options.quiet:
        return
    what = ["settings"] if outcome["diff"] else []
    what += outcome["actions"]
    if not what:
        print(f"{name}: unchanged")
        return
    doing = "would be changed" if options.dry_run else "changed"
    later = ", from its next start on" if outcome["restart_needed"] else ""
    print(f"{name}: {doing} ({', '.join(what)}{later})")
