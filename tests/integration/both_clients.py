# SPDX-License-Identifier: LGPL-2.1-or-later
"""Our client and systemd's, side by side on one host: the same words, then what both had to say."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from tests.host.boot import Host
from tests.integration.driver import OURS, STOCK

DAEMONS: Final = ("systemd", "machined")
GUEST: Final = "box"

_TIMES: Final = (
    (re.compile(r"; [^;\n]*(ago|left|now)$", re.MULTILINE), "; REL"),
    (re.compile(r"\w{3} \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC"), "DATE"),
)
_ADDRESS: Final = re.compile(r"^\t( Address: |          )[0-9a-f.:%]+\n", re.MULTILINE)
# Runs each command line of a JSON array and says what it did: one way into the host for many programs.
_MANY: Final = """
import json, subprocess, sys
said = []
for argv in json.load(sys.stdin):
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=60)
    said.append([done.returncode, *(text.decode(errors="replace") for text in (done.stdout, done.stderr))])
json.dump(said, sys.stdout)
"""
_TREE: Final = re.compile(r"^\t\t  .*\n", re.MULTILINE)


class Said(NamedTuple):
    """What a client did with a command line."""

    status: int
    out: str
    err: str

    def reason(self) -> str:
        """The last thing it said on standard error, without what it was about."""
        last = (self.err.strip().splitlines() or [""])[-1]
        return last.rpartition(": ")[2] if ": " in last else last


class BothClients:
    """One host with both clients in it. `ours_serves`: its daemon is machined, else systemd's."""

    def __init__(self, host: Host, *, ours_serves: bool) -> None:
        self.host = host
        self.ours_serves = ours_serves

    @property
    def modern(self) -> bool:
        """Whether its systemd is the one of sid (262)."""
        return self.host.suite == "sid"

    def ours(self, *args: str, env: Mapping[str, str] | None = None, user: str | None = None) -> Said:
        return self._run(OURS, args, env, user)

    def stock(self, *args: str, env: Mapping[str, str] | None = None, user: str | None = None) -> Said:
        return self._run(STOCK, args, env, user)

    def many(self, lines: Sequence[Sequence[str]]) -> list[tuple[Said, Said]]:
        """What both say to each of these, in turn: systemd's and ours."""
        commands = [[program, *words] for words in lines for program in (STOCK, OURS)]
        done = self.host.run(["python3", "-c", _MANY], input=json.dumps(commands), timeout=300)
        said = [Said(*each) for each in json.loads(done.stdout)]
        return [*zip(said[::2], said[1::2], strict=True)]

    def compare(self, *args: str, same_reason: bool = True, user: str | None = None) -> tuple[Said, Said]:
        """Run both; fail unless they say the same. Ours may say more on stderr: names, and what to do.

        `same_reason`: the reason systemd's client gives is in our words too.
        """
        theirs, ours = self.stock(*args, user=user), self.ours(*args, user=user)
        self.check(args, theirs, ours, same_reason=same_reason)
        return theirs, ours

    def in_our_words(self, line: str) -> bool:
        """Whether our client asks our own interface, which says more about what it refuses."""
        return self.ours_serves and line.split()[0] in ("remove", "rename", "clone")

    def check(self, args: object, theirs: Said, ours: Said, *, same_reason: bool = True) -> None:
        note = f"{args}: {theirs} {ours}"
        assert ours.status == theirs.status, note
        assert "Traceback" not in ours.err, note
        self._same_output(theirs.out, ours.out, note)
        assert bool(ours.err.strip()) == bool(theirs.err.strip()), note
        if same_reason:
            assert theirs.reason() in ours.err, note

    def _same_output(self, theirs: str, ours: str, note: str) -> None:
        if not self.ours_serves:
            assert steady(ours) == steady(theirs), note
            return
        # From machined our client knows more: its properties in `show`, its states in `status`.
        lines = steady(ours).splitlines()
        assert [line for line in steady(theirs).splitlines() if line not in lines] == [], note

    def sh(self, script: str) -> str:
        return self.host.run(["sh", "-ec", script]).stdout

    def make_images(self) -> None:
        """Two small ones, and one that is hidden."""
        self.sh(
            "cd /var/lib/machines; mkdir tree .hidden; mkdir -p tree/etc\n"
            "echo ID=t >tree/etc/os-release; echo treehost >tree/etc/hostname; truncate -s 1M raw.raw"
        )

    def drop_images(self) -> None:
        """All but the guest that runs."""
        self.sh(
            "cd /var/lib/machines; for i in *; do case $i in box|three.nspawn) ;; "
            '*) chattr -i "$i" 2>/dev/null || true; rm -rf "$i" ;; esac; done; rm -rf .hidden'
        )

    def prepare(self) -> None:
        """A guest that runs, and settings files in each of the folders."""
        self._start(GUEST)
        self.sh(
            "mkdir -p /etc/systemd/nspawn /run/systemd/nspawn\n"
            "printf '[Exec]\\nBoot=yes\\n' >/etc/systemd/nspawn/one.nspawn\n"
            "printf '[Exec]\\nBoot=no' >/run/systemd/nspawn/two.nspawn\n"
            "printf '# c\\n[Exec]\\n' >/var/lib/machines/three.nspawn\n"
        )

    def _start(self, name: str, timeout: float = 90) -> None:
        """Start it as a unit of systemd's template, which either daemon knows, and wait until it is up."""
        self.host.add_guest(name)
        self.host.run(["systemctl", "start", f"systemd-nspawn@{name}.service"], timeout=timeout)
        deadline = time.monotonic() + timeout
        unit = f"systemd-nspawn@{name}.service"
        # What the guest's init tells nspawn when it has come up. Nobody sends a signal about it.
        while "Ready." not in self.host.run(["systemctl", "show", "-P", "StatusText", unit]).stdout:
            assert time.monotonic() < deadline, f"{name} does not come up"
            time.sleep(0.05)

    def _run(
        self, program: str, args: tuple[str, ...], env: Mapping[str, str] | None, user: str | None
    ) -> Said:
        done = self.host.run([program, *args], check=False, env=env, user=user)
        return Said(done.returncode, done.stdout, done.stderr)


def words(line: str) -> list[str]:
    """`,` stands for a blank inside a word."""
    filled = line.format(guest=GUEST, tree="tree", raw="raw").split()
    return [word.replace(",", " ") if word.startswith("500M") else word for word in filled]


def steady(text: str) -> str:
    """Without what changes from one second to the next: times, addresses, the processes of a guest."""
    for pattern, word in _TIMES:
        text = pattern.sub(word, text)
    return _TREE.sub("", _ADDRESS.sub("", text))
