# SPDX-License-Identifier: LGPL-2.1-or-later
"""Kinds of values that name files: paths, mounts of them, variables, credentials."""

from __future__ import annotations

import re
from typing import Final

from machined.linux.paths import is_normalized
from machined.model.settings import kinds
from machined.model.settings.kinds import Kind
from machined.model.settings.words import escape_colons, split_colons

_PATH_MAX: Final = 4095
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(=.*)?", re.DOTALL)
_CREDENTIAL: Final = re.compile(r"[^/:\x00-\x20\x7f]{1,255}")
BIND_OPTIONS: Final = frozenset({"rbind", "norbind", "noidmap", "idmap", "rootidmap", "owneridmap"})


def path(text: str) -> str:
    """From the root, without '..' or doubled slashes."""
    clean = re.sub(r"/+", "/", text).rstrip("/") or "/"
    if text.startswith("/") and is_normalized(clean) and len(clean) <= _PATH_MAX:
        return clean
    raise ValueError(f"'{text}' must be a path from the root, without '..'")


PATH: Final = Kind("PATH", path)


def _from_either(text: str) -> str:
    """A path of the host, or after '+' one of the tree; nothing for a new directory."""
    if not text:
        return text
    plus = "+" if text.startswith("+") else ""
    return plus + path(text.removeprefix("+"))


def _colons(parts: list[str]) -> str:
    return ":".join(map(escape_colons, parts))


def bind(text: str) -> str:
    """SOURCE[:TARGET[:OPTION,…]]"""
    parts = split_colons(text)
    if len(parts) > 3 or not text:
        raise ValueError("must be SOURCE[:TARGET[:OPTIONS]]; a colon in a path is written '\\:'")
    result = [_from_either(parts[0])]
    if not parts[0] and (len(parts) < 2 or not parts[1]):
        raise ValueError("needs a target where the source is a new directory")
    if len(parts) > 1:
        result.append(path(parts[1]) if parts[1] else result[0].removeprefix("+"))
    if len(parts) > 2:
        if wrong := [option for option in parts[2].split(",") if option not in BIND_OPTIONS]:
            raise ValueError(f"'{wrong[0]}' is none of the options {', '.join(sorted(BIND_OPTIONS))}")
        result.append(parts[2])
    return _colons(result)


BIND: Final = Kind("SOURCE[:TARGET[:OPTIONS]]", bind)


def tmpfs(text: str) -> str:
    """PATH[:OPTIONS]"""
    where, colon, options = text.partition(":")
    return path(where) + colon + options


TMPFS: Final = Kind("PATH[:OPTIONS]", tmpfs)


def overlay(text: str) -> str:
    """LOWER…:UPPER[:TARGET]"""
    parts = split_colons(text)
    if len(parts) < 2:
        raise ValueError(
            "must be LOWER[:LOWER…]:UPPER:TARGET, or two paths, the second of them also the target"
        )
    *layers, target = parts
    if not target:
        raise ValueError("must not end with a colon: the last path is where the overlay goes")
    if not all(layers[:-1] if len(layers) > 1 else layers):
        raise ValueError("only the upper layer, the last before the target, may be empty")
    target = path(target) if len(parts) > 2 else _from_either(target)
    return _colons([*map(_from_either, layers), target])


OVERLAY: Final = Kind("LOWER[:LOWER…]:UPPER[:TARGET]", overlay)


def inaccessible(text: str) -> str:
    """A path of the tree."""
    return path(text)


INACCESSIBLE: Final = Kind("PATH", inaccessible)


def pivot(text: str) -> str:
    """NEW-ROOT[:OLD-ROOT]"""
    parts = text.split(":")
    if len(parts) > 2:
        raise ValueError("must be PATH[:PATH], the new root and where the old one goes")
    return ":".join(map(path, parts))


PIVOT: Final = Kind("PATH[:PATH]", pivot)


def variable(text: str) -> str:
    """NAME=VALUE, or NAME, whose value is the one that the manager has."""
    if _VARIABLE.fullmatch(text):
        return text
    raise ValueError(f"'{text}' must be NAME=VALUE or NAME; a name has letters, digits and '_'")


VARIABLE: Final = Kind("NAME[=VALUE]", variable, words=True)
PARAMETERS: Final = Kind("ARGUMENT", lambda word: word, words=True)


def _credential(text: str) -> tuple[str, str]:
    name, colon, rest = text.partition(":")
    if not colon or not _CREDENTIAL.fullmatch(name) or name in {".", ".."}:
        raise ValueError("must be NAME:VALUE, the name without '/', ':' and spaces")
    return name, rest


def literal_credential(text: str) -> str:
    """NAME:VALUE; in the value systemd-nspawn knows C's escapes."""
    return ":".join(_credential(text))


def credential_file(text: str) -> str:
    """NAME:PATH"""
    name, where = _credential(text)
    # One without a slash is looked for among the credentials of the host.
    if "/" in where:
        return f"{name}:{path(where)}"
    if not _CREDENTIAL.fullmatch(where):
        raise ValueError("must be NAME:PATH, or NAME:NAME for a credential of the host")
    return f"{name}:{where}"


CREDENTIAL: Final = Kind("NAME:VALUE", literal_credential)
CREDENTIAL_FILE: Final = Kind("NAME:PATH", credential_file)
ROOT_HASH: Final = kinds.matching(
    r"([0-9a-fA-F]{2}){16,64}", "a root hash in hexadecimal digits", shown="HASH"
)


def signature(text: str) -> str:
    """A path, or base64:…"""
    if re.fullmatch(r"base64:[A-Za-z0-9+/=]+", text):
        return text
    return path(text)


SIGNATURE: Final = Kind("PATH|base64:…", signature)
SLICE: Final = kinds.matching(
    r"([A-Za-z0-9:_.\\]+(-[A-Za-z0-9:_.\\]+)*|-)\.slice",
    "the name of a slice, as 'machine.slice'",
    shown="SLICE",
)
