# SPDX-License-Identifier: LGPL-2.1-or-later
"""`set-property`: limits of a machine, at once and for good."""

from __future__ import annotations

from . import names
from .bus import ASKING_TIMEOUT, OURS
from .context import Context
from .errors import BusError, CommandError
from .output import message

Finding = tuple[str, str, str]
"""Severity, place, text."""


def set_property(context: Context, arguments: list[str]) -> int:
    """All of them or none."""
    name, *assignments = arguments
    names.check(name)
    for word in assignments:
        if not word.partition("=")[0] or "=" not in word:
            raise CommandError(
                f"'{names.clean(word)}' is no assignment.",
                "Write it as MemoryMax=2G; without a value (MemoryMax=) it takes back what was set.",
            )
    options: dict[str, tuple[str, object]] = {"runtime": ("b", True)} if context.options.runtime else {}
    try:
        _, pending, findings = context.mutating_bus().call(
            OURS,
            "SetMachineProperties",
            "sasa{sv}",
            name,
            assignments,
            options,
            reply="asasa(sss)",
            timeout=ASKING_TIMEOUT,
        )
    except BusError as error:
        raise _failure(context, error, name) from error
    _report(context, name, pending, findings)
    return 0


def _report(context: Context, name: str, pending: list[str], findings: list[Finding]) -> None:
    if context.options.quiet:
        return
    for _, place, text in findings:
        message(names.clean(f"{place}: {text}" if place else text))
    if pending:
        keys = ", ".join(f"{key}=" for key in pending)
        message(f"Machine '{name}' runs without {keys} until it is started again.")


def _failure(context: Context, error: BusError, name: str) -> CommandError:
    if error.not_there:
        return CommandError(
            "'set-property' needs machined's own manager, but systemd's is running.",
            f"For a machine of that one: 'systemctl set-property systemd-nspawn@{name}.service …'.",
        )
    return context.failure(error, f"Could not set properties of machine '{name}'")
