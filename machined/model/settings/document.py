# SPDX-License-Identifier: LGPL-2.1-or-later
"""Documents in TOML or JSON that say how machines are to be: read, checked, and made a settings file of.

pydantic does the checking, by a model that is made of the table of settings. It is imported when a document
comes and not before, as it takes more memory than all the rest of the daemon.
"""

from __future__ import annotations

import difflib
import functools
import json
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final

from machined.model.errors import MachineError, Problem
from machined.model.names import check_machine_name
from machined.model.settings import section_service, table
from machined.model.settings.setting import Form, Setting
from machined.model.settings.words import join_words

if TYPE_CHECKING:
    from pydantic import BaseModel

SERVICE: Final = section_service.SECTION
SIZE_MAX: Final = 1024 * 1024
MARK: Final = "# Managed by 'machinectl apply', which writes all of this file anew."
_MORE: Final = "# What is to be said by hand belongs in {name}.conf.d/*.conf beside it."
_SHOWN: Final = 20
_EXPECTED: Final = {
    "bool_type": "must be true or false",
    "string_type": "must be a text",
    "list_type": "must be a list",
    "dict_type": "must be a table",
    "model_type": "must be a table",
    "model_attributes_type": "must be a table",
}

Lines = list[str]
"""What stands after `Key=` in a file, for each line."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """How a machine is to be; None is where the document says nothing, which stays as it is."""

    settings: Mapping[str, Mapping[str, Lines]] | None = None
    """By section and key."""
    enabled: bool | None = None
    running: bool | None = None


def read(text: str, version: int) -> dict[str, Wanted]:
    """What a document says of each machine.

    Takes a while at the first time. Raises MachineError (INVALID_SETTINGS) with all that is wrong with it.
    """
    if len(text) > SIZE_MAX:
        raise _invalid([f"it is larger than {SIZE_MAX >> 20} MiB"])
    try:
        # No document in TOML begins like this.
        data = json.loads(text) if text.lstrip("\ufeff \t\r\n").startswith("{") else tomllib.loads(text)
    except RecursionError:
        raise _invalid(["it has too many things in each other"]) from None
    except ValueError as error:
        raise _invalid([str(error)]) from None
    from pydantic import ValidationError

    try:
        document: Any = _model(version).model_validate(data)
    except ValidationError as error:
        raise _invalid([*_sentences(error.errors(include_url=False), version)]) from None
    return {name: _wanted(machine) for name, machine in document.machine.items()}


def _invalid(problems: Sequence[str]) -> MachineError:
    shown = "\n".join(f"  {problem}" for problem in problems[:_SHOWN])
    more = f"\n  … and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
    return MachineError(
        Problem.INVALID_SETTINGS, f"The document is not valid, nothing was done:\n{shown}{more}"
    )


def _wanted(machine: Any) -> Wanted:
    said = any(part is not None for part in (machine.settings, machine.properties, machine.profiles))
    sections: dict[str, dict[str, Lines]] = {}
    if machine.profiles:
        sections["Machine"] = {"Profile": [join_words(machine.profiles)]}
    if machine.settings is not None:
        for section, keys in machine.settings.model_dump(exclude_unset=True).items():
            sections[section] = {**sections.get(section, {}), **(keys or {})}
    if machine.properties is not None:
        properties = machine.properties.model_dump(exclude_unset=True)
        sections[SERVICE] = {**sections.get(SERVICE, {}), **properties}
    return Wanted(sections if said else None, machine.enabled, machine.running)


# -- the model ---------------------------------------------------------------------------------------------


@functools.cache
def _model(version: int) -> type[BaseModel]:
    """The model of a document for a host with this systemd."""
    from pydantic import AfterValidator, BeforeValidator, ConfigDict, create_model

    strict = ConfigDict(extra="forbid", strict=True)
    sections: dict[str, Any] = {}
    for section in table.SECTIONS:
        keys: dict[str, Any] = {
            setting.key: (
                Annotated[Any, BeforeValidator(functools.partial(lines_of, setting, version))], None
            )
            for setting in table.SETTINGS
            if setting.section == section
        }  # fmt: skip
        sections[section] = (create_model(section, __config__=strict, **keys), None)
    settings = create_model("settings", __config__=strict, **sections)
    profile = table.find("Machine", "Profile")
    assert profile is not None
    machine: Any = create_model(
        "machine",
        __config__=strict,
        settings=(settings | None, None),
        # The section of the unit's limits under a name by which people look for them.
        properties=(sections[SERVICE][0] | None, None),
        profiles=(list[Annotated[str, AfterValidator(profile.kind.read)]] | None, None),
        enabled=(bool | None, None),
        running=(bool | None, None),
    )
    name: Any = Annotated[str, AfterValidator(_machine_name)]
    return create_model("document", __config__=strict, machine=(dict[name, machine], ...))


def _machine_name(name: str) -> str:
    try:
        check_machine_name(name)
    except MachineError as error:
        raise ValueError(error.text) from None
    return name


def lines_of(setting: Setting, version: int, value: object) -> Lines:
    """The lines for a value, or a list of them, of a document. Raises ValueError."""
    if not setting.is_known_to(version):
        limit = f"before {setting.until}" if setting.until else f"from {setting.since} on"
        raise ValueError(f"{setting} is known to systemd {limit}, this host has {version}")
    if isinstance(value, list):
        if not setting.many:
            raise ValueError(f"{setting} has one value, no list")
        texts = [_text(setting, one) for one in value]
        # Each is one value, whatever is in it; but the words of a line of these belong together.
        if setting.kind.words and setting.form is not Form.LINES:
            texts = [join_words([text]) for text in texts]
        if setting.whole and texts:
            texts = [" ".join(texts)]
    else:
        texts = [_text(setting, value)]
    for text in texts:
        if text:
            _check(setting, text)
    return texts or [""]


def _check(setting: Setting, text: str) -> None:
    values = setting.kind.values(text)
    if not setting.many and len(values) > 1:
        raise ValueError("one value only")
    if (len(text) - len(text.rstrip("\\"))) % 2:
        raise ValueError("a value cannot end with a backslash")


def _text(setting: Setting, value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        if not value.isprintable() and any("\ud800" <= char <= "\udfff" for char in value):
            raise ValueError("half a character, as JSON can have it, is no text")
        return value.strip()
    raise ValueError(f"must be a text{', or a list of texts' if setting.many else ''}: {setting.kind.shown}")


# -- what is wrong with a document -------------------------------------------------------------------------


def _sentences(errors: Iterable[Mapping[str, Any]], version: int) -> Iterator[str]:
    for error in errors:
        path = [str(part) for part in error["loc"] if part != "[key]"]
        where = ".".join(f'"{part}"' if "." in part else part for part in path)
        if error["type"] == "extra_forbidden":
            yield f"{where}: {_unknown(path, version)}"
        elif error["type"] == "missing":
            yield f"{where}: is missing: [machine.NAME] is where a machine begins"
        elif "[key]" in error["loc"]:
            yield f"{where}: {error['ctx']['error']}"
        elif error["type"] == "value_error":
            yield f"{where}: {_short(error['input'])} is not valid: {error['ctx']['error']}"
        else:
            expected = _EXPECTED.get(error["type"], str(error["msg"]))
            yield f"{where}: {_short(error['input'])} is not valid: {expected}"


def _unknown(path: Sequence[str], version: int) -> str:
    """What could have been meant by a key that there is not."""
    match path:
        case [_]:
            known = ["machine"]
        case ["machine", _, _]:
            known = ["settings", "properties", "profiles", "enabled", "running"]
        case ["machine", _, "settings", _]:
            known = list(table.SECTIONS)
        case _:
            section = SERVICE if path[2] == "properties" else path[3]
            known = [s.key for s in table.SETTINGS if s.section == section and s.is_known_to(version)]
            if (elsewhere := table.by_key(path[-1])) is not None:
                return f"no such key; it belongs to section {elsewhere.section}"
    near = difflib.get_close_matches(path[-1], known, 1)
    return f"no such key; {f'did you mean {near[0]!r}?' if near else 'there are ' + ', '.join(known) + '.'}"


def _short(value: object) -> str:
    text = repr(value) if isinstance(value, str | int | float | bool) else f"this {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:79]}…"


# -- the file ----------------------------------------------------------------------------------------------


def file_of(name: str, settings: Mapping[str, Mapping[str, Lines]]) -> bytes:
    """The settings file of a machine, nothing where there is nothing to say."""
    if not any(settings.values()):
        return b""
    text = [MARK, _MORE.format(name=name)]
    for section in (one for one in table.SECTIONS if settings.get(one)):
        text += ["", f"[{section}]"]
        # In the table's order: the same document makes the same file, however it is written.
        for setting in table.SETTINGS:
            if setting.section == section:
                text += [f"{setting.key}={line}" for line in settings[section].get(setting.key, ())]
    return "\n".join([*text, ""]).encode()


def is_managed(data: bytes) -> bool:
    """Whether a file was written by apply, so that it may do so again."""
    return data.startswith(MARK.encode())


def diff(path: str, before: bytes, after: bytes) -> list[str]:
    """A unified diff, line by line."""
    old, new = (data.decode(errors="backslashreplace").splitlines() for data in (before, after))
    names = (path if before else "/dev/null", path if after else "/dev/null")
    return list(difflib.unified_diff(old, new, *names, lineterm=""))
