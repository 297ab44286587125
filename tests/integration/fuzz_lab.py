# SPDX-License-Identifier: LGPL-2.1-or-later
"""A host with one guest and the programs of tests/fuzz in it; what must be the same afterwards."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from tests.host.snapshot import Snapshot
from tests.integration.driver import NAME, ROOT, UNIT, Driver

SEED: Final = os.environ.get("MACHINED_FUZZ_SEED", "machined")
PYTHON: Final = {"PYTHONPATH": "/run/fuzz"}
PROGRAMS: Final = Path(__file__).parent.parent / "fuzz"
# What the allocator keeps, in kB.
MORE_MEMORY: Final = 10 * 1024
VARLINK: Final = "/run/systemd/machine/io.systemd.Machine"
COMPLAINTS: Final = ("Traceback", "unhandled", "never retrieved", "never awaited", "Task exception")

STATE: Final = """
find /run/systemd/machines -printf '%p %y %l\\n' | sort
find /run/systemd/machines -type f -exec cat {} +
find /var/lib/machines /etc/systemd /run/systemd/nspawn /run/systemd/transient \
    -maxdepth 2 -printf '%p %y %i %m %U %l\\n' 2>/dev/null | sort
systemctl list-units --all --plain --no-legend 'machine-*' 'systemd-nspawn*' 'container-*' 'run-*' | sort
"""


class FuzzLab:
    """A host with one guest, before and after."""

    def __init__(self, managed: Driver, guest: str) -> None:
        self.managed = managed
        self.guest = guest
        self.pid = managed.daemon_pid()
        directory = managed.host.path("/run/fuzz/tests/fuzz")
        directory.mkdir(parents=True, exist_ok=True)
        for program in PROGRAMS.glob("*.py"):
            (directory / program.name).write_bytes(program.read_bytes())

    def fuzz(
        self, program: str, count: int, *, first: int = 0, user: str | None = "tester"
    ) -> dict[str, Any]:
        asked = {"seed": SEED, "first": first, "count": count, "machines": [self.guest]}
        done = self.managed.host.run(
            ["python3", "-m", f"tests.fuzz.{program}", json.dumps(asked)],
            check=False, user=user, timeout=120, env=PYTHON,
        )  # fmt: skip
        assert done.returncode == 0, f"seed {SEED!r}: {done.stderr}"
        report: dict[str, Any] = json.loads(done.stdout)
        print(f"seed {SEED!r}, {program} as {user or 'root'}, {count} messages: {report}")
        return report

    def same(self) -> list[Any]:
        """What must not change."""
        managed = self.managed
        leader = managed.leader(self.guest)
        look = managed.host.run(["sh", "-c", STATE]).stdout
        mounts = managed.host.run(["awk", "{print $5}", f"/proc/{leader}/mountinfo"]).stdout.splitlines()
        # Root's own shells come with a session.
        mounts = [mount for mount in mounts if not mount.startswith("/run/user/")]
        inside = managed.guest(
            self.guest,
            "sh",
            "-c",
            "systemctl list-units --plain --no-legend 'container-getty*' 'machined-*'",
        ).stdout
        images = managed.stock("list-images", "--no-legend").stdout
        question = ["busctl", "call", "org.freedesktop.DBus", "/", "org.freedesktop.DBus"]
        owner = managed.host.run([*question, "GetConnectionUnixProcessID", "s", NAME]).stdout
        return [managed.host.snapshot(), leader, look, mounts, inside, images, owner]

    def load(self) -> tuple[int, int, list[str]]:
        """Of the daemon: descriptors, kB of memory, helpers (children of the process that forks them)."""
        proc = f"/proc/{self.pid}"
        run = self.managed.host.run
        helpers = f"for i in $(cat {proc}/task/*/children); do cat /proc/$i/task/*/children; done"
        children = run(["sh", "-c", helpers]).stdout.split()
        status = run(["cat", f"{proc}/status"]).stdout
        memory = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:"))
        return len(run(["ls", f"{proc}/fd"]).stdout.split()), memory, children

    def quiet(self) -> tuple[int, int, list[str]]:
        """The load when it does not change any more."""
        # What a flood has left in the queue is worked off first, however long that takes.
        ping = ["busctl", "--timeout=600", "call", NAME, ROOT, "org.freedesktop.DBus.Peer", "Ping"]
        self.managed.host.run(ping, timeout=610)
        # A connection to the guest is made once and kept.
        self.managed.ctl("list")
        seen = [-1]

        def same(now: tuple[int, int, list[str]]) -> bool:
            seen.append(now[0])
            return not now[2] and seen[-1] == seen[-2]

        return self.settled(same)

    def settled(self, fits: Callable[[tuple[int, int, list[str]]], bool]) -> tuple[int, int, list[str]]:
        """The load as soon as it fits, or what it is after half a minute."""
        deadline = time.monotonic() + 30
        while not fits(load := self.load()) and time.monotonic() < deadline:
            # A call to the daemon: its answer comes after what has been asked before.
            self.managed.host.run(["busctl", "call", NAME, ROOT, "org.freedesktop.DBus.Peer", "Ping"])
        return load

    def check(self, before: list[Any], load: tuple[int, int, list[str]], cursor: str) -> None:
        managed = self.managed
        now = self.settled(lambda n: n[0] <= load[0] and n[1] <= load[1] + MORE_MEMORY and not n[2])
        print(f"descriptors {load[0]} -> {now[0]}, memory {load[1]} -> {now[1]} kB")
        assert managed.daemon_pid() == self.pid
        assert now[0] <= load[0], f"seed {SEED!r}: descriptors {load[0]} -> {now[0]}"
        assert now[1] <= load[1] + MORE_MEMORY, f"seed {SEED!r}: memory {load[1]} -> {now[1]} kB"
        assert now[2] == []
        after = self.same()
        assert isinstance(before[0], Snapshot)
        assert before[0].diff(after[0]) == []
        assert before[1:] == after[1:]
        assert managed.state(self.guest) == "running"
        managed.host.run(["journalctl", "--sync"])
        log = managed.host.run(["journalctl", f"--after-cursor={cursor}", "-u", UNIT, "-o", "cat"]).stdout
        assert [line for line in log.splitlines() if any(word in line for word in COMPLAINTS)] == []

    def cursor(self) -> str:
        done = self.managed.host.run(["journalctl", "-n", "1", "-o", "json", "--output-fields=MESSAGE"])
        return str(json.loads(done.stdout)["__CURSOR"])
