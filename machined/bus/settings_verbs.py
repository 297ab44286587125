# SPDX-License-Identifier: LGPL-2.1-or-later
"""Rows of org.machined1.Manager about settings: what holds and why, whether it is valid, and changing it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final

from dbus_fast import Variant

from machined.bus import settings_apply
from machined.bus.call import Call
from machined.bus.settings_apply import configure, is_running, no_machine, tree_of, write
from machined.bus.verbs import ACTION, MAX_SETTINGS, options
from machined.bus.vtable import Row, method
from machined.model import configured, hostcheck, placed
from machined.model.core import Core
from machined.model.errors import MachineError, invalid
from machined.model.images import Image
from machined.model.names import check_machine_name, is_machine_name
from machined.model.ports import UnitProperty
from machined.model.settings import editing, explanation, files, proofreading, sources
from machined.model.settings.layers import Finding, Severity

_KINDS: Final = {kind.value: kind for kind in proofreading.Kind}
# Machines looked at before others get their turn.
_AT_ONCE: Final = 8


async def _inspect(call: Call, name: str, verb: str) -> bool:
    """Polkit; whether the caller may see credentials as well."""
    await call.authorize(f"{ACTION}inspect-settings", {"machine": name, "verb": verb})
    return (await call.credentials()).uid == 0


def _text(text: str) -> str:
    """Names of files may be anything, texts of the bus may not."""
    return text.encode(errors="replace").decode()


def _rows(findings: Sequence[Finding]) -> list[tuple[str, str, str]]:
    return [(f.severity.value, _text(str(f.place or "")), _text(f.text)) for f in findings]


def _look(
    core: Core, name: str, origin: str = "", words: Sequence[str] = ()
) -> tuple[Image | None, list[Finding]]:
    """The tree of a machine, or what is to say against it. Raises MachineError (NO_SUCH_IMAGE)."""
    if origin:
        return core.lifecycle.image_to_start(name, origin, words), []
    try:
        image, _ = configured.load(name, core.images.find(name), core.version, words)
    except MachineError as error:
        return None, [Finding(Severity.ERROR, None, error.text)]
    if image is None:
        if name not in files.named():
            raise no_machine(name)
        return None, [Finding(Severity.WARNING, None, f"There are settings of '{name}', but no image.")]
    return image, []


# -- looking -----------------------------------------------------------------------------------------------


async def explain(call: Call, core: Core, name: str, given: Mapping[str, Variant]) -> tuple[Any, ...]:
    values = options(given, {"settings": "as", "ephemeral": "b", "image": "s"})
    check_machine_name(name)
    secrets = await _inspect(call, name, "explain")
    words = values.get("settings", [])[:MAX_SETTINGS]
    image, findings = _look(core, name, values.get("image", ""), words)
    effective = sources.load(name, image, core.version, words)
    findings += effective.findings
    unit: list[UnitProperty] = []
    if image is not None and not effective.errors():
        try:
            unit = await core.lifecycle.plan(
                name, image, effective, ephemeral=values.get("ephemeral", False)
            )
        except MachineError as error:
            findings.append(Finding(Severity.ERROR, None, error.text))
    found = explanation.explain(effective, unit, findings, secrets=secrets)
    return (
        [tuple(map(_text, row)) for row in found.settings],
        [*map(_text, found.command)],
        [tuple(map(_text, row)) for row in found.properties],
        _rows(found.findings),
    )


async def check(call: Call, core: Core, name: str) -> list[tuple[str, str, str]]:
    check_machine_name(name)
    secrets = await _inspect(call, name, "check")
    return _rows(_check(core, name, secrets))


async def check_all(call: Call, core: Core) -> list[tuple[str, str, str, str]]:
    secrets = await _inspect(call, "", "check")
    names = {image.name for image in core.images.list() if is_machine_name(image.name)} | files.named()
    found = []
    for number, name in enumerate(sorted(names)):
        if number % _AT_ONCE == 0:
            await asyncio.sleep(0)
        try:
            found += [(name, *row) for row in _rows(_check(core, name, secrets))]
        except MachineError:
            continue  # it went meanwhile
    return found


def _check(core: Core, name: str, secrets: bool) -> list[Finding]:
    image, findings = _look(core, name)
    effective = sources.load(name, image, core.version)
    findings += effective.findings
    if core.registry.get(name) is None:  # what a machine that runs has taken is not missing
        findings += hostcheck.missing(effective)
        findings += core.roots.users.conflicts(name, effective)
    return explanation.visible(findings, secrets=secrets)


async def check_text(call: Call, core: Core, kind: str, name: str, text: str) -> list[tuple[str, str, str]]:
    if kind not in _KINDS:
        raise invalid(f"Unknown kind '{_text(kind[:40])}', expected one of {', '.join(_KINDS)}.")
    secrets = await _inspect(call, name, "check")
    machine = name.partition("/")[0]
    image = tree_of(core, machine) if is_machine_name(machine) else None
    findings = proofreading.proofread(_KINDS[kind], name, image, core.version, text.encode())
    return _rows(explanation.visible(findings, secrets=secrets))


def list_profiles(call: Call, core: Core) -> list[tuple[str, str, str]]:
    return [(_text(name), _text(path), _text(comment)) for name, path, comment in files.profiles()]


# -- changing ----------------------------------------------------------------------------------------------


async def set_settings(
    call: Call, core: Core, name: str, words: Sequence[str], given: Mapping[str, Variant]
) -> tuple[list[str], list[str], list[tuple[str, str, str]]]:
    values = options(given, {"runtime": "b"})
    check_machine_name(name)
    if not 0 < len(words) <= MAX_SETTINGS:
        raise invalid(f"From 1 to {MAX_SETTINGS} settings at a time, as Key=value.")
    changes = editing.parse(words, core.version)
    await configure(call, name, "set")
    image = tree_of(core, name)
    edited = editing.set_settings(name, image, core.version, words, runtime=values.get("runtime", False))
    if image is None and not placed.names_tree(edited.effective) and name not in files.named():
        raise no_machine(name)
    write(edited.files)
    pending = list(dict.fromkeys(str(change.setting) for change in changes))
    secrets = (await call.credentials()).uid == 0
    findings = explanation.visible(edited.effective.findings, secrets=secrets)
    waits = is_running(core, name) and bool(edited.files)
    return [str(path) for path in edited.files], pending if waits else [], _rows(findings)


ROWS: Final[tuple[Row, ...]] = (
    method(
        "ExplainMachine",
        "s name, a{sv} options",
        "a(sssss) settings, as command, a(ss) properties, a(sss) findings",
        explain,
        doc=(
            "What holds for a machine if it is started now, and why: section, key, value, source and origin "
            "(file:line, or the source) of every setting; the command line of systemd-nspawn; the "
            "properties of the unit, as text; and what is to say about it: severity (error or warning), "
            "origin, text. With an error there is no command, as nothing starts. Values of credentials are "
            "root's to see. Options as those of StartMachine: `settings` as, `ephemeral` b, `image` s."
        ),
    ),
    method(
        "CheckMachine",
        "s name",
        "a(sss) findings",
        check,
        doc="What is wrong with the settings of a machine: severity, origin, text.",
    ),
    method(
        "CheckMachines",
        "",
        "a(ssss) findings",
        check_all,
        doc="The same of all machines that there is an image or a file of, the name first.",
    ),
    method(
        "CheckSettingsText",
        "s kind, s name, s text",
        "a(sss) findings",
        check_text,
        doc=(
            "What would be wrong if this were written to the file of a machine (kind nspawn or machine), to "
            "a drop-in of it (drop-in, the name being NAME/FILE), or to a profile (profile): severity, "
            "origin, text."
        ),
    ),
    method(
        "ListProfiles",
        "",
        "a(sss) profiles",
        list_profiles,
        doc="Name, file and first comment of each profile.",
    ),
    method(
        "SetMachineSettings",
        "s name, as assignments, a{sv} options",
        "as files, as pending, a(sss) findings",
        set_settings,
        doc=(
            "Change settings for the starts to come. `[Section.]Key=value` says it anew, `Key+=value` adds "
            "to a list, `Key=` takes back what was set so, or, where another file says it, resets it. "
            "Written to /etc/machined/machines/NAME.conf.d/50-set.conf, or with the option `runtime` b to "
            "51-set.conf of that directory in /run; nothing is written when anything is not valid. Returns "
            "the files that were changed, the settings that a machine that runs gets at its next start "
            "only, and warnings."
        ),
    ),
    method(
        "ApplyMachines",
        "s document, a{sv} options",
        "s result",
        settings_apply.apply,
        doc=(
            "Have machines as a document in TOML or JSON says: {machine: {NAME: {settings: {Section: {Key: "
            "value or list}}, properties: {Key: value}, profiles: [name], enabled: bool, running: bool}}}, "
            "all of it optional; properties are those of section Service. Settings become the file "
            "/etc/machined/machines/NAME.conf. What is so already stays; nothing is done when anything is "
            "not valid. Options: `dry-run` b (change nothing), `force` b (write over files of others). "
            "Returns JSON, for each name: `changed`, `file`, `diff` (lines), `actions`, `restart_needed`, "
            "`warnings`, `error` (null, or why it could not be enabled, started …)."
        ),
    ),
)
