# SPDX-License-Identifier: LGPL-2.1-or-later
"""`explain`, `check`, `profiles`: what settings machines have, whose they are, whether they are valid."""

from __future__ import annotations

from collections.abc import Sequence

from . import names
from .bus import ASKING_TIMEOUT, OURS
from .context import Context
from .errors import BusError, CommandError
from .findings import Finding, failure, finding_record, has_errors, sentence
from .names import clean
from .output import message, print_rows, text_cell, to_json
from .pager import paging

_COLUMNS = ("SECTION", "KEY", "VALUE", "ORIGIN")


def explain(context: Context, arguments: list[str]) -> int:
    """1 when the machine would not start like this."""
    options = context.options
    name, given = arguments[0], _options(context, arguments[0])
    if options.names:
        name = options.names[0]
    names.check(name)
    bus = context.mutating_bus()
    try:
        answer = bus.call(
            OURS, "ExplainMachine", "sa{sv}", name, given, reply="a(sssss)asa(ss)a(sss)",
            timeout=ASKING_TIMEOUT,
        )  # fmt: skip
    except BusError as error:
        raise failure(context, error, f"Could not explain machine '{name}'") from error
    settings, command, properties, findings = answer
    if options.json:
        print(to_json(_record(*answer), pretty=options.output == "json-pretty"))
    else:
        with paging(options):
            rows = [[text_cell(text) for text in (row[0], row[1], row[2], row[4])] for row in settings]
            print_rows(options, _COLUMNS, rows, "settings")
            if command:
                _print_unit(command, properties)
        for finding in findings:
            message(sentence(finding))
        if not command and not has_errors(findings):
            message(f"Machine '{name}' has nothing to start.")
    return 1 if has_errors(findings) else 0


def _options(context: Context, image: str) -> dict[str, tuple[str, object]]:
    """As `start` would be called."""
    options = context.options
    given: dict[str, tuple[str, object]] = {}
    if options.settings:
        given["settings"] = ("as", options.settings)
    if options.ephemeral:
        given["ephemeral"] = ("b", True)
    if len(options.names) > 1:
        raise CommandError("--as names one machine here.")
    if options.names:
        given["image"] = ("s", image)
    return given


def _record(
    settings: Sequence[Sequence[str]], command: list[str], properties: Sequence[Sequence[str]],
    findings: Sequence[Finding],
) -> dict[str, object]:  # fmt: skip
    keys = ("section", "key", "value", "source", "origin")
    return {
        "settings": [dict(zip(keys, row, strict=True)) for row in settings],
        "command": command,
        "properties": [{"name": name, "value": value} for name, value in properties],
        "findings": [finding_record(finding) for finding in findings],
    }


def _print_unit(command: list[str], properties: Sequence[Sequence[str]]) -> None:
    import shlex

    print("\nCommand:")
    print(" \\\n    ".join("  " * (n == 0) + clean(shlex.quote(word)) for n, word in enumerate(command)))
    print("\nUnit:")
    for name, value in properties:
        print(f"  {name}={clean(value)}")


def check(context: Context, arguments: list[str]) -> int:
    """Of all machines where none is named; 1 when one of them would not start."""
    options = context.options
    for name in arguments:
        names.check(name)
    bus = context.mutating_bus()
    found: list[tuple[str, Finding]] = []
    try:
        for name in dict.fromkeys(arguments):
            rows: list[Finding] = bus.call(
                OURS, "CheckMachine", "s", name, reply="a(sss)", timeout=ASKING_TIMEOUT
            )
            found += [(name, row) for row in rows]
        if not arguments:
            everything: list[tuple[str, str, str, str]] = bus.call(
                OURS, "CheckMachines", reply="a(ssss)", timeout=ASKING_TIMEOUT
            )
            found = [(name, (severity, origin, text)) for name, severity, origin, text in everything]
    except BusError as error:
        raise failure(context, error, "Could not check settings") from error
    if options.json:
        records = [{"machine": name, **finding_record(finding)} for name, finding in found]
        print(to_json(records, pretty=options.output == "json-pretty"))
    else:
        for name, finding in found:
            print(clean(f"{sentence(finding)}" if finding[1] else f"{name}: {sentence(finding)}"))
    return 1 if has_errors([finding for _, finding in found]) else 0


def profiles(context: Context, arguments: list[str]) -> int:
    try:
        rows: list[tuple[str, str, str]] = context.bus().call(OURS, "ListProfiles", reply="a(sss)")
    except BusError as error:
        raise failure(context, error, "Could not list profiles") from error
    cells = [[text_cell(name), text_cell(text), text_cell(path)] for name, path, text in rows]
    print_rows(context.options, ("NAME", "DESCRIPTION", "FILE"), cells, "profiles")
    return 0
