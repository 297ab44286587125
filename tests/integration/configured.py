# SPDX-License-Identifier: LGPL-2.1-or-later
"""A machine with settings of a test, and ways to look inside."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tests.integration.driver import Driver

COMMAND = (
    "[Exec]\nBoot=no\nProcessTwo=yes\nParameters=sleep infinity\nPrivateUsers=no\n[Network]\nPrivate=yes\n"
)
POOL = "/var/lib/machines"


@dataclass
class Configured:
    """A machine that is started with what is in its own file."""

    managed: Driver
    name: str

    def lifetime(self) -> Iterator[Self]:
        """For fixtures: itself, and nothing of it afterwards."""
        yield self
        self.stop()
        self.file.unlink(missing_ok=True)

    @property
    def file(self) -> Path:
        return self.managed.host.path(f"/etc/machined/machines/{self.name}.conf")

    def start(self, text: str, *words: str) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_text(text, encoding="utf-8")
        self.managed.ctl("start", self.name, *words)

    def stop(self) -> None:
        self.managed.call("StopMachine", "sa{sv}", self.name, "1", "mode", "s", "terminate", check=False)
        self.managed.call("WaitMachine", "sst", self.name, "stopped", "90000000", check=False)

    @property
    def leader(self) -> int:
        return self.managed.leader(self.name)

    def inside(self, *argv: str, check: bool = True) -> str:
        """What a program prints that enters all its namespaces."""
        # Its cgroup first, which says what devices may be opened.
        group = f"/sys/fs/cgroup$(sed -n s/^0:://p /proc/{self.leader}/cgroup)/cgroup.procs"
        join = ["sh", "-c", f'echo 0 >"{group}" && exec "$@"', "sh"]
        enter = [*join, "nsenter", "--all", f"--target={self.leader}", "--", *argv]
        done = self.managed.host.run(enter, check=check)
        return done.stdout.strip() if check else f"{done.returncode} {done.stderr.strip()}"

    def payload(self) -> int:
        """The process of the command, under the stub init, which looks for the user before it begins it."""
        script = (
            f"while :; do for pid in $(cat /proc/{self.leader}/task/{self.leader}/children); do "
            f"case $(cat /proc/$pid/comm) in sleep|sh) echo $pid; exit;; esac; done; sleep 0.01; done"
        )
        return int(self.managed.host.run(["timeout", "20", "sh", "-c", script]).stdout)

    def proc(self, file: str, pid: int = 0) -> str:
        return self.managed.host.run(["cat", f"/proc/{pid or self.payload()}/{file}"]).stdout

    def status(self, key: str) -> str:
        return next(
            line.split(":", 1)[1].strip()
            for line in self.proc("status").splitlines()
            if line.startswith(f"{key}:")
        )
