# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a new machine is told before its first boot, checked: name, language, time zone, and who gets in."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from machined.model.builders.plan import Wishes
from machined.model.errors import invalid
from machined.model.names import is_machine_name

MAX_KEYS: Final = 64 * 1024
MAX_PASSWORD: Final = 512
_LOCALE: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,31}(\.[A-Za-z0-9-]{1,31})?(@[A-Za-z0-9]{1,31})?")
_ZONE: Final = re.compile(r"[A-Za-z][A-Za-z0-9_+-]{0,31}(/[A-Za-z][A-Za-z0-9_+-]{0,31}){0,3}")
_KEY_TYPE: Final = re.compile(r"(ssh|ecdsa|sk-ssh|sk-ecdsa)-[a-z0-9@.-]+")


@dataclass(frozen=True, slots=True)
class FirstBoot:
    """Empty is what nothing is said about. `password` is a hash, as in /etc/shadow."""

    hostname: str = ""
    locale: str = ""
    timezone: str = ""
    ssh_key: str = ""
    password: str = ""

    def __repr__(self) -> str:
        return "FirstBoot(…)"  # never into a log

    def __bool__(self) -> bool:
        return any((self.hostname, self.locale, self.timezone, self.ssh_key, self.password))

    @property
    def wishes(self) -> Wishes:
        """What packages may have to come along for."""
        return Wishes(self.locale, self.timezone)

    def settings(self) -> dict[str, str]:
        """For machined.linux.provision:apply."""
        rows = {
            "hostname": self.hostname,
            "locale": self.locale,
            "timezone": self.timezone,
            "ssh-key": self.ssh_key,
            "password": self.password,
        }
        return {key: value for key, value in rows.items() if value}

    def credentials(self) -> dict[str, str]:
        """By the names of systemd.system-credentials(7), for a guest that does not keep its /etc."""
        rows = {
            "system.hostname": self.hostname,
            "firstboot.hostname": self.hostname,
            "firstboot.locale": self.locale,
            "firstboot.timezone": self.timezone,
            "ssh.authorized_keys.root": self.ssh_key,
            "passwd.hashed-password.root": self.password,
        }
        return {key: value for key, value in rows.items() if value}


NOTHING: Final = FirstBoot()


def first_boot(*, hostname: str = "", locale: str = "", timezone: str = "", ssh_key: str = "") -> FirstBoot:
    """Raises MachineError (INVALID_ARGS) for the first that cannot be, and says what can."""
    if hostname and not is_machine_name(hostname):
        raise invalid(
            f"'{_shown(hostname)}' is not a host name: labels of letters, digits and inner '-', 64 at most."
        )
    if locale and not _LOCALE.fullmatch(locale):
        raise invalid(f"'{_shown(locale)}' is not a locale: something like 'de_DE.UTF-8' or 'C.UTF-8'.")
    if timezone and not _ZONE.fullmatch(timezone):
        raise invalid(f"'{_shown(timezone)}' is not a time zone: something like 'Europe/Berlin' or 'UTC'.")
    return FirstBoot(hostname, locale, timezone, _checked_keys(ssh_key))


def _checked_keys(text: str) -> str:
    if not text:
        return ""
    if "PRIVATE KEY" in text:
        raise invalid("That is a private SSH key, which nobody else may have: give the public one (….pub).")
    if len(text) > MAX_KEYS:
        raise invalid(f"SSH keys of more than {MAX_KEYS} bytes are too many.")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    for line in lines:
        words = line.split()
        if not line.isprintable() or not (line.startswith("#") or any(map(_KEY_TYPE.fullmatch, words[:-1]))):
            raise invalid(
                f"'{_shown(line)}' is not a public SSH key, as in a file ….pub or authorized_keys."
            )
    return "".join(f"{line}\n" for line in lines)


def check_password(password: str) -> None:
    """Raises MachineError (INVALID_ARGS) for one that nobody could type at a prompt."""
    if not password:
        raise invalid("The password is empty. A machine gets none when none is given.")
    if len(password.encode()) > MAX_PASSWORD or not password.isprintable():
        raise invalid(f"A password has at most {MAX_PASSWORD} bytes, and no control characters.")


def _shown(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text[:40])
