# SPDX-License-Identifier: LGPL-2.1-or-later
"""What an installation has to ask of, and say to, the running host."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

from .environment import InstallError
from .layout import MACHINED_UNIT, MARK, Layout

SOCKET_UNIT = "systemd-machined.socket"


def check() -> None:
    """Raise InstallError for whatever would make the installed daemon fail on this host."""
    check_root()
    if shutil.which("systemd-nspawn") is None:
        raise InstallError("systemd-nspawn is missing, which machines run in: apt install systemd-container")
    if importlib.util.find_spec("systemd") is None:
        raise InstallError("the Python module 'systemd' is missing: apt install python3-systemd")


def check_root() -> None:
    if os.geteuid() != 0:
        raise InstallError(
            "only root may do this: sudo make … (or stage it somewhere with DESTDIR=DIRECTORY)"
        )


def check_foreign(layout: Layout, override: Path, command: Path) -> None:
    """Refuse to overwrite somebody else's override or command, or our own override for another PREFIX.

    override and command are the real paths, with DESTDIR in front.
    """
    if command.exists() and MARK not in command.read_text(encoding="utf-8", errors="replace"):
        raise InstallError(
            f"'{layout.command}' is not machined's and would be overwritten: take another PREFIX"
        )
    try:
        text = override.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return
    if MARK not in text:
        raise InstallError(
            f"'{layout.override}' is not machined's and would be overwritten: move it away first"
        )
    if f"ExecStart={layout.tree}/machined\n" not in text:
        raise InstallError(
            f"machined is installed under another PREFIX, see '{layout.override}': uninstall it there first"
        )


def booted() -> bool:
    """Whether systemd is PID 1 here (sd_booted(3))."""
    return Path("/run/systemd/system").is_dir()


def run(*command: str, fatal: bool = True) -> bool:
    """Run a command, its output going to the terminal."""
    good = subprocess.run(command, check=False).returncode == 0
    if not good and fatal:
        raise InstallError(f"'{' '.join(command)}' failed")
    return good


def reload() -> None:
    """Have PID 1, the bus and polkit read what was put there or removed."""
    # The bus before PID 1, and with patience: it looks users up, by nss-systemd also with systemd-machined,
    # and that one asks PID 1 over the bus about its machines when PID 1 has reloaded. They would wait 25 s
    # for each other.
    bus = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "ReloadConfig")
    run("busctl", "--system", "--quiet", "--timeout=60", "call", *bus)
    run("systemctl", "daemon-reload")
    # polkit watches its directories, but not one that is made after its start (seen with 126 and 128).
    run("systemctl", "try-reload-or-restart", "polkit.service", fatal=False)


def restart(hint: str) -> None:
    """Restart whatever systemd-machined.service is by now. Machines go on running, it adopts them.

    hint: what to do when it does not start.
    """
    # From 258 on PID 1 listens on the varlink socket and hands it over at the start. It begins to listen
    # only while the service is not running.
    if _says("cat", SOCKET_UNIT) and not _says("is-active", SOCKET_UNIT):
        run("systemctl", "stop", MACHINED_UNIT)
        run("systemctl", "start", SOCKET_UNIT)
    if run("systemctl", "restart", MACHINED_UNIT, fatal=False):
        return
    run("journalctl", "--no-pager", "--lines=15", f"--unit={MACHINED_UNIT}", fatal=False)
    raise InstallError(
        f"{MACHINED_UNIT} does not start, its last messages are above. Machines that run go on running, "
        f"but nothing manages them until it does. {hint}"
    )


def autostarted(etc: Path) -> list[Path]:
    """The links that `machinectl enable` has made, below etc (/etc)."""
    return sorted((etc / "systemd/system").glob("*.wants/machined@*.service"))


def _says(verb: str, unit: str) -> bool:
    return subprocess.run(["systemctl", verb, unit], capture_output=True, check=False).returncode == 0
