# SPDX-License-Identifier: LGPL-2.1-or-later
"""Debian and Ubuntu: debootstrap(8) and mmdebstrap(1)."""

from __future__ import annotations

from typing import Final

from machined.model.builders import arguments
from machined.model.builders.arguments import Arguments
from machined.model.builders.plan import ENABLE_NETWORK, TREE, Builder, Hint, Plan, Wishes, make_locale
from machined.model.errors import invalid

KEYS: Final = ("mirror", "include", "components", "variant", "arch", "keyring", "verify", "login")
SYNTAX: Final = "SUITE[,KEY=VALUE…]"
# An init to boot, and what machinectl login and shell talk to in the guest.
LOGIN: Final = ("systemd-sysv", "dbus", "libpam-systemd")

HINTS: Final[tuple[Hint, ...]] = (
    (
        r"(?i)unknown key|NO_PUBKEY|not signed|GPG error|Missing key|Keyring file not available"
        r"|Cannot find keyring|No good signature|Unable to find keyring",
        "The host does not have the key this release is signed with: install debian-archive-keyring or "
        "ubuntu-keyring, or name a file with keyring=. Keys of old Debian releases are in "
        "/usr/share/keyrings/debian-archive-removed-keys.gpg.",
    ),
    (
        r"(?i)No such script|unknown suite|does not have a Release file|Failed getting release file"
        r"|invalid suite|unable to find mirror",
        "Is the suite a code name (trixie, noble) or an alias (stable)? Releases that are no longer "
        "supported are on the distribution's archive server: name it with mirror=.",
    ),
    (
        r"(?i)Temporary failure resolving|Could not connect|Failed to fetch|Couldn't download|wget: unable",
        "Can the host reach the mirror? Another one can be named with mirror=.",
    ),
    (
        r"(?i)nodev|noexec",
        "/var/lib/machines is mounted with 'noexec' or 'nodev': nothing can be built there.",
    ),
)


def _packages(given: Arguments, wishes: Wishes) -> list[str]:
    packages = list(LOGIN) if given.flag("login", True) else []
    packages += ["locales"] if wishes.language else []
    packages += ["tzdata"] if wishes.timezone else []
    return list(dict.fromkeys([*packages, *given.words("include")]))


def _afterwards(given: Arguments, wishes: Wishes) -> tuple[tuple[str, ...], ...]:
    locale = make_locale(wishes.locale) if wishes.language else ()
    network = (ENABLE_NETWORK,) if given.flag("login", True) else ()
    return (*locale, *network, ("chroot", TREE, "apt-get", "clean"))


def debootstrap(text: str, wishes: Wishes) -> Plan:
    given = arguments.parse("debootstrap", text, KEYS, "a suite, such as 'trixie'")
    command = ["debootstrap", "--force-check-gpg" if given.flag("verify", True) else "--no-check-gpg"]
    command += [f"--{key}={value}" for key in ("arch", "variant", "keyring") if (value := given.value(key))]
    if components := given.words("components"):
        command.append(f"--components={','.join(components)}")
    if packages := _packages(given, wishes):
        command.append(f"--include={','.join(packages)}")
    command += [given.what, TREE]
    if mirror := given.value("mirror"):
        command.append(arguments.mirror_url(mirror))
    return Plan(tuple(command), _afterwards(given, wishes))


def mmdebstrap(text: str, wishes: Wishes) -> Plan:
    given = arguments.parse("mmdebstrap", text, KEYS, "a suite, such as 'trixie'")
    command = ["mmdebstrap", "--mode=root", "--format=directory"]
    command += [f"--{key}={value}" for key in ("variant", "keyring") if (value := given.value(key))]
    if arch := given.value("arch"):
        command.append(f"--architectures={arch}")
    components = given.words("components") or ("main",)
    command.append(f"--components={','.join(components)}")
    if packages := _packages(given, wishes):
        command.append(f"--include={','.join(packages)}")
    command += [given.what, TREE]
    mirror = given.value("mirror")
    if mirror.startswith("/"):
        # Of "file:" the packages would stay where they are, out of reach from inside the tree.
        mirror = f"copy://{mirror}"
    if not given.flag("verify", True):
        if not mirror:
            raise invalid("Builder 'mmdebstrap': with 'verify=no' a mirror has to be named by 'mirror='.")
        mirror = f"deb [trusted=yes] {mirror} {given.what} {' '.join(components)}"
    if mirror:
        command.append(mirror)
    return Plan(tuple(command), _afterwards(given, wishes))


DEBOOTSTRAP: Final = Builder(
    "debootstrap",
    SYNTAX,
    "Debian or Ubuntu, by debootstrap",
    debootstrap,
    "debootstrap",
    "debootstrap",
    HINTS,
)
MMDEBSTRAP: Final = Builder(
    "mmdebstrap",
    SYNTAX,
    "Debian or Ubuntu, by mmdebstrap (faster)",
    mmdebstrap,
    "mmdebstrap",
    "mmdebstrap",
    HINTS,
)
