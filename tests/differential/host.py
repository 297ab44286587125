# SPDX-License-Identifier: LGPL-2.1-or-later
"""One booted host with either daemon in charge, and the script run in it by every user."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from tests.differential.world import EVERYBODY
from tests.host import layer
from tests.host.boot import CommandFailed, Host
from tests.host.cache import TestHostError

PYTHON: Final = "/usr/local/lib/machined/bin/python3"
UNIT: Final = "systemd-machined.service"
# What an installation adds to what decides over the daemon: all else lies beside it unused.
OVERRIDES: Final = (
    "/etc/systemd/system/systemd-machined.service",
    "/etc/dbus-1/system.d/org.machined1.conf",
)
SECONDS: Final = 120

# {user: {case: answers}}, and what polkit was asked under the name of POLKIT.
Answers = dict[str, dict[str, Any]]
POLKIT: Final = "polkit"


class Stage:
    """A host that both daemons are tried in."""

    def __init__(self, host: Host) -> None:
        self.host = host
        shutil.copytree(
            Path(__file__).parent,
            host.path("/opt/differential/tests/differential"),
            ignore=shutil.ignore_patterns("__pycache__"),
        )
        output = host.run(["systemctl", "--version"]).stdout
        self.version = int(output.split()[1])
        self.stock()
        for name in ("plain", "private"):
            host.add_guest(name)
        self._inside("setup")

    def stock(self) -> None:
        """Put the daemon of systemd in charge."""
        self._switch([f"mv {path} {path}.aside" for path in OVERRIDES])

    def ours(self) -> None:
        """Put ours in charge again."""
        self._switch([f"mv {path}.aside {path}" for path in OVERRIDES])

    def _switch(self, moves: list[str]) -> None:
        steps = [
            f"systemctl stop {UNIT}", *moves, "systemctl daemon-reload", "systemctl reload dbus",
            f"systemctl start {UNIT}",
        ]  # fmt: skip
        self.host.run(["sh", "-ec", "\n".join(steps)], timeout=120)

    def _inside(self, *arguments: str, user: str = "root") -> str:
        # Each user's calls come from a unit of a name that is always the same.
        command = [
            "systemd-run", "--quiet", "--pipe", "--wait", "--collect", f"--unit=differential-{user}",
            f"--uid={user}", "--setenv=PYTHONPATH=/opt/differential",
            "--setenv=PYTHONDONTWRITEBYTECODE=1", "--",
            PYTHON, "-m", "tests.differential.inside", *arguments,
        ]  # fmt: skip
        try:
            done = self.host.run(command, check=False, timeout=SECONDS)
        except subprocess.TimeoutExpired as late:
            case = self.host.run(["cat", f"/tmp/differential-{user}"], check=False).stdout
            raise TestHostError(
                f"the script takes longer than {SECONDS} s, '{case}' came last: {late.stderr!r}"
            ) from None
        if done.stderr:
            print(done.stderr, file=sys.stderr, end="")
        if done.returncode != 0:
            raise CommandFailed(done.returncode, list(arguments), "", done.stderr)
        return done.stdout

    def run(self, *patterns: str) -> Answers:
        """The script, or its cases of such names, with the daemon in charge, every user in turn."""
        since = time.time()
        monotonic = time.monotonic_ns() // 1000  # one clock for all hosts of a kernel
        answers: Answers = {}
        self._inside("machines")
        try:
            for user in EVERYBODY:
                answers[user] = json.loads(
                    self._inside("run", str(self.version), str(monotonic), *(patterns or ["*"]), user=user)
                )
        finally:
            self._inside("forget")
        answers[POLKIT] = {"questions": self._questions(since)}
        return answers

    def _questions(self, since: float) -> list[str]:
        """What the rule in inside.setup has noted."""
        journal = [
            "journalctl",
            "--no-pager",
            "--output=json",
            "--unit=polkit.service",
            f"--since=@{since:.6f}",
        ]
        found = []
        for line in self.host.run(journal).stdout.splitlines():
            message = str(json.loads(line).get("MESSAGE", ""))
            _, separator, rest = message.partition("diff ")
            if separator:
                found.append(rest)
        return found


@contextmanager
def stage(suite: str) -> Iterator[Stage]:
    """A booted host of a suite with the setup done."""
    with layer.machined_host(suite) as host:
        host.boot()
        yield Stage(host)


def both(suite: str, *patterns: str) -> tuple[Answers, Answers]:
    """What the stock daemon answers, and what ours does."""
    with stage(suite) as it:
        stock = it.run(*patterns)
        it.ours()
        return stock, it.run(*patterns)
