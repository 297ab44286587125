# SPDX-License-Identifier: LGPL-2.1-or-later
"""Arch Linux: pacstrap(8)."""

from __future__ import annotations

from typing import Final

from machined.model.builders import arguments
from machined.model.builders.plan import ENABLE_NETWORK, TREE, Builder, Plan, Wishes, make_locale

KEYS: Final = ("include", "config", "login")


def pacstrap(text: str, wishes: Wishes) -> Plan:
    """The words before the first ',' are packages, "base" if there are none: that has systemd and D-Bus."""
    given = arguments.parse("pacstrap", text, KEYS, "")
    command = ["pacstrap", "-K", "-c"]  # keys of its own, and the package cache of the host
    if config := given.value("config"):
        command += ["-C", config]
    packages = [*(given.what or "base").split(":"), *given.words("include")]
    if wishes.timezone:
        packages.append("tzdata")
    command += [TREE, *dict.fromkeys(packages)]
    locale = make_locale(wishes.locale) if wishes.language else ()
    network = (ENABLE_NETWORK,) if given.flag("login", True) else ()
    return Plan(tuple(command), (*locale, *network))


PACSTRAP: Final = Builder(
    "pacstrap",
    "[PACKAGE:…][,KEY=VALUE…]",
    "Arch Linux, by pacstrap",
    pacstrap,
    "pacstrap",
    "arch-install-scripts",
    (
        (
            r"(?i)keyring is not writable|could not be looked up remotely"
            r"|signature from .* is (unknown|invalid)",
            "The keys of pacman on this host are missing or old: 'pacman-key --init', 'pacman-key "
            "--populate archlinux', and an up-to-date archlinux-keyring.",
        ),
        (
            r"(?i)no servers configured|failed to synchronize|could not resolve host|target not found",
            "pacman reads /etc/pacman.conf and /etc/pacman.d/mirrorlist of the host, or the file that "
            "config= names: repositories and a server have to be in it.",
        ),
    ),
)
