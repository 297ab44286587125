# SPDX-License-Identifier: LGPL-2.1-or-later
"""How builders are written on the command line, BUILDER:WHAT[,KEY=VALUE…], and what may be in it.

What is written here ends up as arguments of programs that run as root: nothing in it may be taken for an
option, or be seen as anything but text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from machined.linux import paths
from machined.model.errors import invalid

MAX_LENGTH: Final = 4096

# Names of suites, variants, architectures, repositories and packages, of all distributions.
_WORD: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+_@/~-]{0,127}")
_URL: Final = re.compile(r"(https?|ftp|file|copy)://?[A-Za-z0-9._~:/@%+-]+")


@dataclass(frozen=True, slots=True)
class Arguments:
    """What follows the name of a builder, checked. Lists are written with ':' between their members."""

    what: str
    values: Mapping[str, str] = field(default_factory=dict)

    def value(self, key: str, default: str = "") -> str:
        return self.values.get(key, default)

    def words(self, key: str) -> tuple[str, ...]:
        return tuple(filter(None, self.values.get(key, "").split(":")))

    def flag(self, key: str, default: bool) -> bool:
        return self.values[key] == "yes" if key in self.values else default


def _word(value: str) -> bool:
    return _WORD.fullmatch(value) is not None


def _words(value: str) -> bool:
    return all(map(_word, value.split(":")))


def _path(value: str) -> bool:
    return paths.is_normalized(value) and value.isprintable()


def _mirror(value: str) -> bool:
    return _URL.fullmatch(value) is not None or (_path(value) and " " not in value)


def _flag(value: str) -> bool:
    return value in {"yes", "no"}


@dataclass(frozen=True, slots=True)
class Key:
    """A key that builders have in common: what its value may be, in a check and in words."""

    fits: Callable[[str], bool]
    wanted: str
    doc: str


KEYS: Final[Mapping[str, Key]] = {
    "mirror": Key(_mirror, "a URL or an absolute path", "where packages come from"),
    "include": Key(_words, "packages with ':' between them", "more packages"),
    "components": Key(_words, "names with ':' between them", "parts of the archive (main:universe)"),
    "variant": Key(_word, "a name", "which packages to begin with (minbase)"),
    "arch": Key(_word, "a name", "the architecture, if not the host's"),
    "keyring": Key(_path, "an absolute path", "the keys that packages are signed with"),
    "verify": Key(_flag, "'yes' or 'no'", "whether signatures are checked (yes)"),
    "login": Key(_flag, "'yes' or 'no'", "whether what a boot and a login need is added (yes)"),
    "repos": Key(_words, "repository ids with ':' between them", "repositories of the host's configuration"),
    "distribution": Key(_word, "a name", "whose packages they are"),
    "config": Key(_path, "an absolute path", "the package manager's configuration"),
}


def parse(builder: str, text: str, keys: tuple[str, ...], what: str) -> Arguments:
    """Read what follows "BUILDER:". `what` says in words what the first part is; empty, and it may be too.

    Raises MachineError (INVALID_ARGS) saying which part is wrong and what it may be.
    """
    check_text(builder, text)
    first, *rest = text.split(",")
    if first and not _words(first):
        raise invalid(f"Builder '{builder}': '{first}' is not {what or 'a name'}.")
    if not first and what:
        raise invalid(f"Builder '{builder}' needs {what}: '{builder}:…'.")
    values: dict[str, str] = {}
    for part in rest:
        key, equals, value = part.partition("=")
        if not equals or key not in keys:
            known = ", ".join(f"{key}=" for key in keys)
            raise invalid(
                f"Builder '{builder}' does not know '{part}'; after the first ',' there may be {known}."
            )
        if key in values:
            raise invalid(f"Builder '{builder}': '{key}=' is given twice.")
        if not KEYS[key].fits(value):
            raise invalid(f"Builder '{builder}': '{key}={value}' is not {KEYS[key].wanted}.")
        values[key] = value
    return Arguments(first, values)


def check_text(builder: str, text: str) -> None:
    """Raises MachineError (INVALID_ARGS) for what no argument of any program should be."""
    if len(text) > MAX_LENGTH or not text.isprintable():
        raise invalid(f"Builder '{builder}': what follows it is too long, or has control characters in it.")


def absolute(builder: str, text: str) -> str:
    """The path that is all of a builder's argument. Raises MachineError (INVALID_ARGS)."""
    check_text(builder, text)
    if not paths.is_normalized(text):
        raise invalid(
            f"Builder '{builder}' needs an absolute path without '..': '{builder}:/…', not '{text}'."
        )
    return text


def mirror_url(value: str) -> str:
    """A mirror as programs want it: a path becomes a URL."""
    return f"file://{value}" if value.startswith("/") else value
