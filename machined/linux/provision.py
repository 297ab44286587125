# SPDX-License-Identifier: LGPL-2.1-or-later
"""First settings of a system, put into its tree: what systemd-firstboot --root= does, for trees that are not
to be trusted and also where they have been set before. For machined.linux.worker.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from typing import Final

from machined.linux import identity, overlay
from machined.linux.rootwrite import Root, inside_of

ZONES: Final = "usr/share/zoneinfo"
_DAY: Final = 86400


def apply(root: str, settings: Mapping[str, str], forget: bool, forget_name: bool) -> None:
    """Put settings into a tree: hostname, locale, timezone, password (hashed), ssh-key (lines).

    `forget`: whose copy this is no longer matters, the machine gets an id of its own at its first boot;
    `forget_name`: nor is it called as the host it was made on. OSError, FileNotFoundError for a time zone
    the tree does not know.
    """
    with Root(root) as top:
        if forget:
            _forget_identity(root, top)
        if forget_name:
            top.remove("etc/hostname")
        if hostname := settings.get("hostname"):
            top.write("etc/hostname", f"{hostname}\n".encode(), 0o644)
        if locale := settings.get("locale"):
            _set_locale(top, locale)
        if timezone := settings.get("timezone"):
            _set_timezone(top, timezone)
        if password := settings.get("password"):
            _set_password(top, password)
        if key := settings.get("ssh-key"):
            _add_key(top, key)


def apply_to_layers(layers: Sequence[str], writable: str, settings: Mapping[str, str]) -> None:
    """Put settings into a tree of layers: what is written lands in `writable` (overlay.assemble())."""
    with overlay.assemble(layers, writable) as mount:
        apply(inside_of(mount), settings, False, False)


def _forget_identity(root: str, top: Root) -> None:
    identity.reset_identity(root)
    # Empty and not "uninitialized": that would be a first boot, whose systemd-firstboot asks questions on a
    # console that nobody sees, and all units would be preset anew.
    if top.is_directory("etc") and top.read("etc/machine-id") != b"":
        top.write("etc/machine-id", b"", 0o444)


def _set_locale(top: Root, locale: str) -> None:
    top.write("etc/locale.conf", f"LANG={locale}\n".encode(), 0o644)
    # What Debian's logins read; newer ones link it to the other.
    if top.is_directory("etc/default"):
        top.link("etc/default/locale", "../locale.conf")


def _set_timezone(top: Root, timezone: str) -> None:
    if top.kind(f"{ZONES}/{timezone}") not in {"file", "program"}:
        raise FileNotFoundError(
            2, f"the tree knows no time zone '{timezone}' (no /{ZONES}/{timezone}: is 'tzdata' missing?)"
        )
    top.link("etc/localtime", f"../{ZONES}/{timezone}")
    if top.kind("etc/timezone"):
        top.write("etc/timezone", f"{timezone}\n".encode(), 0o644)


def _set_password(top: Root, hashed: str) -> None:
    today = str(int(time.time()) // _DAY)
    shadow = (top.read("etc/shadow") or b"").decode("utf-8", "surrogateescape")
    lines, found = [], False
    for line in shadow.splitlines():
        fields = line.split(":")
        if fields[0] == "root" and not found:
            # A last change of 0 would have the password expired, and one asks for the next at once.
            line = ":".join(["root", hashed, today, *(fields[3:] or [""] * 6)])
            found = True
        lines.append(line)
    if not found:
        lines.insert(0, f"root:{hashed}:{today}:0:99999:7:::")
    top.write("etc/shadow", _text(lines), 0o600)
    users = (top.read("etc/passwd") or b"").decode("utf-8", "surrogateescape").splitlines()
    shadowed = [_shadowed(line) for line in users]
    if shadowed != users:
        top.write("etc/passwd", _text(shadowed), 0o644)


def _shadowed(line: str) -> str:
    fields = line.split(":")
    return ":".join(["root", "x", *fields[2:]]) if fields[0] == "root" and len(fields) > 2 else line


def _add_key(top: Root, keys: str) -> None:
    if not top.is_directory("root"):
        top.make_directory("root", 0o700)
    top.make_directory("root/.ssh", 0o700)
    path = os.path.join("root/.ssh", "authorized_keys")
    there = (top.read(path) or b"").decode("utf-8", "surrogateescape").splitlines()
    new = [line for line in keys.splitlines() if line.strip() and line not in there]
    if new:
        top.write(path, _text([*there, *new]), 0o600)


def _text(lines: list[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape")
