# SPDX-License-Identifier: LGPL-2.1-or-later
"""Two hosts of a suite, one with the stock daemon and one with machined: tools have to say the same."""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from tests.host.boot import Host
from tests.integration.driver import Done, Driver

GUEST: Final = "web"
"""The machine that runs on both hosts all the time; a test that changes it puts it right again."""
NETWORK: Final = ("10.20.30.{}/24", "fd20:30::{}/64")
"""Its addresses, always the same: what a DHCP server gives comes late, and the rest later still."""
ENDS: Final = {f"ve-{GUEST}": 1, "host0": 2}
"""The number that either end of its network has in them. The host lists its end as its own."""
GUEST_UNIT: Final = f"systemd-nspawn@{GUEST}.service"

# The programs of the distribution alone: ours are in /usr/local.
PATH: Final = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}

# What two hosts cannot have in common.
_OF_ONE_HOST: Final = (
    (re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b\][^\x07\x1b]*(\x07|\x1b\\)"), ""),  # what terminals obey
    (re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b"), "<uuid>"),
    (re.compile(r"\b[0-9a-f]{32}\b"), "<id>"),
    (re.compile(r"\b[A-Z][a-z]{2} \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC\b"), "<date>"),
    (re.compile(r"; .*\bago\b"), "; <time> ago"),
    (re.compile(r"\brun-[pu]?\d+(-i\d+)?\b"), "run-<n>"),
    (re.compile(r"\d+(\.\d+)?(ms|us|min|s)\b"), "<span>"),
    (re.compile(r"[0-9][0-9.]{2,}[0-9KMG]*|\d{3,}"), "<number>"),
    (re.compile(r"[ \t]+|[ \t\r]+$", re.MULTILINE), " "),
)


def common(text: str) -> list[str]:
    """The lines of an output without what is of one host alone: times, ids, addresses, process ids."""
    for pattern, replacement in _OF_ONE_HOST:
        text = pattern.sub(replacement, text)
    return [line.strip() for line in text.splitlines()]


@dataclass(frozen=True, slots=True)
class Step:
    """A shell command line, whether it has to succeed, and the text as it was written in a script."""

    command: str
    succeeds: bool = True

    def words(self) -> list[str]:
        return shlex.split(self.command)


def steps(script: str) -> list[Step]:
    """A script, a line for each command; one that has to fail begins with an exclamation mark."""
    lines = [line.strip() for line in script.splitlines()]
    return [
        Step(line.removeprefix("! "), not line.startswith("! "))
        for line in lines
        if line and not line.startswith("#")
    ]


class Side(Driver):
    """One of the two."""

    def __init__(self, host: Host, *, ours: bool) -> None:
        super().__init__(host)
        self.ours = ours

    def sh(self, command: str, *, check: bool = True, user: str | None = None, timeout: float = 60) -> Done:
        """A shell command with the distribution's programs, `machinectl` is the stock one."""
        return self.host.run(["sh", "-c", command], check=check, user=user, timeout=timeout, env=PATH)

    def until(self, condition: str, seconds: int = 30) -> None:
        """Wait for a shell condition: for what has no event that somebody outside could wait for."""
        self.host.until(condition, seconds, env=PATH)

    def known(self, name: str) -> bool:
        return self.sh(f"machinectl show {name} -P Name", check=False).returncode == 0

    def fact(self, name: str, fact: str) -> str:
        return self.sh(f"machinectl show {name} -P {fact}").stdout.strip()

    def until_registered(self, name: str, seconds: int = 30) -> None:
        self.until(f"test -e /run/systemd/machines/{name}", seconds)

    def until_gone(self, name: str, seconds: int = 30) -> None:
        self.until(f"! test -e /run/systemd/machines/{name}", seconds)

    def until_up(self, name: str) -> None:
        """Until the system in a machine is up."""
        self.until(f"systemctl -M {name} is-system-running 2>/dev/null | grep -Eqx 'running|degraded'", 60)

    def up(self) -> None:
        """Have the common guest run, with its addresses."""
        self.sh(f"systemctl start {GUEST_UNIT}", timeout=90)
        self.until_up(GUEST)
        inside = f"nsenter -n -t {self.fact(GUEST, 'Leader')} "
        # An address is not listed before the kernel has made sure that nobody else has it; the ends take
        # their time independently of each other.
        for link, number in ENDS.items():
            look = f"{inside if link == 'host0' else ''}ip -o addr show dev {link} -tentative 2>/dev/null"
            for address in NETWORK:
                self.until(f"{look} | grep -q ' {address.format(number)} '")

    def add_common_guest(self) -> None:
        """Make the tree of the common guest, and both ends of its network."""
        tree = self.host.add_guest(GUEST)
        for link, number in ENDS.items():
            directory = tree if link == "host0" else self.host.path("/")
            file = directory / "etc/systemd/network/10-test.network"
            addresses = [f"Address={address.format(number)}" for address in NETWORK]
            network = ["LinkLocalAddressing=no", "IPv6AcceptRA=no", "DHCP=no", *addresses]
            file.write_text(
                "\n".join(["[Match]", f"Name={link}", "[Network]", *network, ""]), encoding="utf-8"
            )


class Pair:
    """Both, with the guest running."""

    def __init__(self, stock: Side, ours: Side) -> None:
        self.stock = stock
        self.ours = ours

    def __iter__(self) -> Iterator[Side]:
        return iter((self.stock, self.ours))

    @property
    def modern(self) -> bool:
        return self.stock.modern

    def same(self, step: Step | str, *, user: str | None = None, ignore: Iterable[str] = ()) -> str:
        """Run a command on both and compare status and output; what ours printed.

        `ignore`: patterns of lines that may differ, each for a reason that the caller says.
        """
        if isinstance(step, str):
            (step,) = steps(step)
        done = [side.sh(step.command, check=False, user=user) for side in self]
        stock, ours = (
            [f"status {one.returncode}", *_without(common(one.stdout), ignore), *common(one.stderr)]
            for one in done
        )
        assert ours == stock, "\n".join(
            [f"machined's answer to '{step.command}' is not the stock daemon's:", *_difference(stock, ours)]
        )
        assert (done[1].returncode == 0) == step.succeeds, f"'{step.command}': {done[1]}"
        return done[1].stdout

    def play(self, script: str, *, user: str | None = None, ignore: Iterable[str] = ()) -> None:
        """All steps of a script, as `same`; all that differ are named."""
        failures = []
        for step in steps(script):
            try:
                self.same(step, user=user, ignore=ignore)
            except AssertionError as error:
                failures.append(str(error))
        assert not failures, f"{len(failures)} steps differ:\n\n" + "\n\n".join(failures)


def _difference(stock: list[str], ours: list[str]) -> Iterator[str]:
    """The lines that differ, and those around them."""
    return difflib.unified_diff(stock, ours, "stock", "machined", n=2, lineterm="")


def _without(lines: list[str], ignore: Iterable[str]) -> list[str]:
    return [line for line in lines if not any(re.search(pattern, line) for pattern in ignore)]
