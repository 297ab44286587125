# SPDX-License-Identifier: LGPL-2.1-or-later
"""Fedora, AlmaLinux and their relatives: dnf(8) with --installroot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from machined.model.builders import arguments
from machined.model.builders.plan import ENABLE_NETWORK, TREE, Builder, Plan, Wishes
from machined.model.errors import invalid

KEYS: Final = ("distribution", "repos", "mirror", "include", "arch", "keyring", "verify", "login", "config")


@dataclass(frozen=True, slots=True)
class _Distribution:
    """Where its packages come from, and which make a system to boot and log in to."""

    repos: tuple[str, ...]
    release: str
    login: tuple[str, ...]


_BASE: Final = ("systemd", "dbus", "util-linux", "shadow-utils", "iputils", "less", "dnf")
_ENTERPRISE: Final = (*_BASE, "passwd", "iproute", "dhcp-client", "vim-minimal")

DISTRIBUTIONS: Final[Mapping[str, _Distribution]] = {
    "fedora": _Distribution(
        ("fedora", "updates"),
        "fedora-release",
        (*_BASE, "glibc", "ncurses", "systemd-networkd", "systemd-resolved", "vim-default-editor"),
    ),
    "almalinux": _Distribution(("baseos",), "almalinux-release", _ENTERPRISE),
    "rocky": _Distribution(("baseos",), "rocky-release", _ENTERPRISE),
    "centos": _Distribution(("baseos",), "centos-stream-release", _ENTERPRISE),
}


def dnf(text: str, wishes: Wishes) -> Plan:
    given = arguments.parse("dnf", text, KEYS, "a release, such as '42'")
    name = given.value("distribution", "fedora")
    distribution = DISTRIBUTIONS.get(name)
    if distribution is None:
        raise invalid(f"Builder 'dnf' knows no distribution '{name}', known are {', '.join(DISTRIBUTIONS)}.")
    repos = given.words("repos") or distribution.repos
    command = ["dnf", "--assumeyes", f"--releasever={given.what}", "--best", f"--installroot={TREE}"]
    command += ["--setopt=install_weak_deps=False"]
    if config := given.value("config"):
        command.append(f"--config={config}")
    if mirror := given.value("mirror"):
        command.append(f"--repofrompath={repos[0]},{arguments.mirror_url(mirror)}")
    command += [f"--repo={repo}" for repo in repos]
    if keyring := given.value("keyring"):
        command += [f"--setopt={repo}.gpgkey=file://{keyring}" for repo in repos]
    command += (
        [f"--setopt={repo}.gpgcheck=1" for repo in repos] if given.flag("verify", True) else ["--nogpgcheck"]
    )
    if arch := given.value("arch"):
        command.append(f"--forcearch={arch}")
    language = wishes.language or "en"
    packages = [distribution.release, f"glibc-langpack-{language}"]
    packages += distribution.login if given.flag("login", True) else ()
    packages += ["tzdata"] if wishes.timezone else []
    command += ["install", *dict.fromkeys([*packages, *given.words("include")])]
    return Plan(tuple(command), (ENABLE_NETWORK,) if given.flag("login", True) else ())


DNF: Final = Builder(
    "dnf",
    "RELEASE[,distribution=NAME][,KEY=VALUE…]",
    "Fedora, AlmaLinux, Rocky or CentOS Stream, by dnf",
    dnf,
    "dnf",
    "dnf",
    (
        (
            r"(?i)unknown repo|no matching repo|no repositories|there are no enabled repo"
            r"|Cannot find a valid baseurl|repositories .* not exist",
            "dnf reads the repositories in /etc/dnf/dnf.conf and /etc/yum.repos.d of the host: put those of "
            "the distribution there (docs/create.md shows how), or use repos=, mirror= and keyring=.",
        ),
        (
            r"(?i)GPG|public key|key import failed",
            "The repository's gpgkey= has to name the key of this release; keyring= names one here.",
        ),
    ),
)
