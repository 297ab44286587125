# SPDX-License-Identifier: LGPL-2.1-or-later
"""Drives an installed machined the way a user does: by its programs, and by busctl."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from tests.host.boot import Host

NAME: Final = "org.freedesktop.machine1"
ROOT: Final = "/org/freedesktop/machine1"
OWN: Final = "org.machined1.Manager"
STOCK: Final = "/usr/bin/machinectl"
OURS: Final = "/usr/local/bin/machinectl"
UNIT: Final = "systemd-machined.service"


# Run by the installed Python, which has jeepney: busctl does not say when its subscription has begun.
WATCHER: Final = """
import json, sys
from jeepney import MatchRule, message_bus
from jeepney.io.blocking import open_dbus_connection
bus = open_dbus_connection("SYSTEM")
rule = MatchRule(type="signal", interface=sys.argv[1], member=sys.argv[2])
with bus.filter(rule) as queue:
    bus.send_and_get_reply(message_bus.AddMatch(rule))
    print("ready", flush=True)
    while True:
        print(json.dumps(bus.recv_until_filtered(queue).body), flush=True)
"""


def unique_name() -> str:
    """A name that no other machine of the host has."""
    return f"t-{uuid4().hex[:8]}"


Done = subprocess.CompletedProcess[str]


class Driver:
    """One host with machined in it."""

    def __init__(self, host: Host) -> None:
        self.host = host

    @property
    def modern(self) -> bool:
        """Whether its systemd is the one of sid (262)."""
        return self.host.suite == "sid"

    # -- programs ------------------------------------------------------------------------------------------

    def ctl(self, *args: str, check: bool = True, user: str | None = None, timeout: float = 200) -> Done:
        """Our machinectl."""
        return self.host.run([OURS, *args], check=check, user=user, timeout=timeout)

    def stock(self, *args: str, check: bool = True, user: str | None = None) -> Done:
        """The machinectl of systemd."""
        return self.host.run([STOCK, *args], check=check, user=user)

    def call(
        self, method: str, signature: str = "", *args: str, check: bool = True, timeout: float = 120
    ) -> Done:
        """A method of org.machined1.Manager by busctl."""
        words = [method, *([signature] if signature else []), *args]
        wait = f"--timeout={timeout:g}"
        return self.host.run(
            ["busctl", wait, "--json=short", "call", NAME, ROOT, OWN, *words],
            check=check,
            timeout=timeout + 5,
        )

    def get(self, path: str, interface: str, name: str) -> Any:
        """A property by busctl."""
        done = self.host.run(["busctl", "--json=short", "get-property", NAME, path, interface, name])
        return json.loads(done.stdout)["data"]

    @contextmanager
    def signals(self, interface: str, member: str) -> Iterator[Iterator[list[Any]]]:
        """The bodies of the signals that are sent inside the block, as they come."""
        command = ["/usr/local/lib/machined/bin/python3", "-c", WATCHER, interface, member]
        with self.host.popen(command) as watcher:
            assert watcher.stdout is not None
            try:
                assert watcher.stdout.readline() == "ready\n"
                yield map(json.loads, watcher.stdout)
            finally:
                watcher.kill()

    @contextmanager
    def background(self, argv: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
        """A program that runs beside the block and never outlives it, however that ends."""
        with self.host.popen(argv) as process:
            try:
                yield process
            finally:
                process.kill()

    # -- questions -----------------------------------------------------------------------------------------

    def state(self, name: str) -> str:
        return str(json.loads(self.call("GetMachineState", "s", name).stdout)["data"][0])

    def wait(self, name: str, condition: str, seconds: int = 90) -> str:
        """Wait for a state by our own WaitMachine; the state reached."""
        done = self.call("WaitMachine", "sst", name, condition, str(seconds * 1_000_000))
        return str(json.loads(done.stdout)["data"][0])

    def listed(self, *, stock: bool = False) -> dict[str, str]:
        """Names and classes in `machinectl list`."""
        run = self.stock if stock else self.ctl
        rows = run("list", "--no-legend").stdout.splitlines()
        return {words[0]: words[1] for words in map(str.split, rows) if words}

    def leader(self, name: str) -> int:
        return int(self.stock("show", name, "--property=Leader", "--value").stdout)

    def unit_property(self, unit: str, name: str) -> str:
        return self.host.run(["systemctl", "show", unit, f"--property={name}", "--value"]).stdout.strip()

    def daemon_pid(self) -> int:
        return int(self.unit_property(UNIT, "MainPID"))

    def journal(self, *match: str) -> list[dict[str, Any]]:
        """Records of this boot, oldest first: all that was sent to journald by now."""
        self.host.run(["journalctl", "--sync"])
        done = self.host.run(["journalctl", "--boot", "--no-pager", "--output=json", *match])
        return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]

    # -- guests --------------------------------------------------------------------------------------------

    def start(self, name: str) -> None:
        """Start a machine and wait until the system in it is up."""
        self.ctl("start", name)
        self.wait(name, "running")

    def guest(self, name: str, *argv: str, check: bool = True) -> Done:
        """Run a command in a machine, by the -M transport of systemd."""
        return self.host.run(
            ["systemd-run", "--quiet", "--pipe", "--wait", "--collect", "-M", name, "--", *argv], check=check
        )

    def take_guest(self, name: str) -> None:
        """A bootable tree under this name: one that an earlier test gave back, or a new one."""
        if self._spare.exists():
            self._spare.rename(self._tree(name))
        else:
            self.host.add_guest(name)

    def give_back_guest(self, name: str) -> None:
        """For the next test; but for one that has been given to other users."""
        if self._tree(name).stat().st_uid == 0:
            self._tree(name).rename(self._spare)
        else:
            shutil.rmtree(self._tree(name))

    @property
    def _spare(self) -> Path:
        return self.host.path("/var/lib/machines/.spare")

    def _tree(self, name: str) -> Path:
        return self.host.path(f"/var/lib/machines/{name}")

    def remove(self, name: str) -> None:
        """Take an image out of the host, and everything that a test may have begun with it."""
        self.clear(name)
        shutil.rmtree(self._tree(name), ignore_errors=True)

    def clear(self, name: str) -> None:
        """End everything that a test may have begun with an image."""
        self.ctl("disable", name, check=False)
        self.call("StopMachine", "sa{sv}", name, "1", "mode", "s", "terminate", check=False)
        self.call("WaitMachine", "sst", name, "stopped", "30000000", check=False)
        for unit in (f"systemd-nspawn@{name}.service", f"machine-{name}.service"):
            self.host.run(["systemctl", "stop", unit], check=False)
            self.host.run(["systemctl", "reset-failed", unit], check=False)
        self.host.path(f"/etc/systemd/nspawn/{name}.nspawn").unlink(missing_ok=True)
