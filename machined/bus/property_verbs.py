# SPDX-License-Identifier: LGPL-2.1-or-later
"""Rows of org.machined1.Manager about limits: changed while a machine runs and for good; what is used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple
from typing import Any, Final

from dbus_fast import Variant

from machined.bus.call import Call
from machined.bus.verbs import ACTION, MAX_SETTINGS, options
from machined.bus.vtable import Row, method
from machined.linux import cgroup, usage
from machined.model.core import Core
from machined.model.errors import invalid
from machined.model.settings import explanation


async def set_properties(
    call: Call, core: Core, name: str, words: Sequence[str], given: Mapping[str, Variant]
) -> tuple[list[str], list[str], list[tuple[str, str, str]]]:
    values = options(given, {"runtime": "b"})
    if not 0 < len(words) <= MAX_SETTINGS:
        raise invalid(f"From 1 to {MAX_SETTINGS} properties at a time, as NAME=VALUE.")
    settings = core.set_property.check(name, words)  # what is wrong is said before a password is asked for
    keys = " ".join(setting.key for setting in settings)
    await call.authorize(
        f"{ACTION}set-machine-property", {"machine": name, "verb": "set_property", "properties": keys}
    )
    changed = await core.set_property.change(name, words, runtime=values.get("runtime", False))
    secrets = (await call.credentials()).uid == 0
    findings = explanation.visible(changed.findings, secrets=secrets)
    return (
        [_text(str(path)) for path in changed.files],
        [setting.key for setting in changed.pending],
        [(f.severity.value, _text(str(f.place or "")), _text(f.text)) for f in findings],
    )


def list_usage(call: Call, core: Core) -> list[list[Any]]:
    rows = []
    for machine in core.registry:
        if machine.leader is None or machine.is_host():
            continue
        try:
            found = usage.of_unit(cgroup.path_of(machine.leader.pid))
        except OSError:
            continue  # its end is about to be noticed
        rows.append([machine.name, *astuple(found)])
    return rows


def _text(text: str) -> str:
    """Names of files may be anything, texts of the bus may not."""
    return text.encode(errors="replace").decode()


ROWS: Final[tuple[Row, ...]] = (
    method(
        "SetMachineProperties",
        "s name, as assignments, a{sv} options",
        "as files, as pending, a(sss) findings",
        set_properties,
        doc=(
            "Change limits of a machine, the settings of section Service and the slice: `Key=value` says it "
            "anew, `Key+=value` adds to a list, `Key=` takes back what was set so, or, where another file "
            "says it, resets it. They hold at once for a machine that runs and for all starts to come, or "
            "with the option `runtime` b for those until the host goes down. All or nothing is changed. "
            "Returns the files that were changed (those of SetMachineSettings), the keys that a machine "
            "that runs gets at its next start only, and warnings."
        ),
    ),
    method(
        "ListUsage",
        "",
        "a(sttttt) usage",
        list_usage,
        doc=(
            "What the machines that run use, as the kernel counts it for their units: name, processor time "
            "in µs, memory in bytes, tasks, bytes read from disks and written to them. 2^64-1 where nobody "
            "counts."
        ),
    ),
)
