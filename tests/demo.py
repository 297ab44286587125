# SPDX-License-Identifier: LGPL-2.1-or-later
"""`make demo`: machined at work, every command and all it says shown, everything checked on the way.

It runs in a test host of its own, which it reboots; with --here it uses the host it is on, reboot left out.
The standard library is all it needs. Exit status: 0; 1 when anything is not as it should be; 77, as test
programs have it, where the machine cannot boot a test host.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shlex
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from tests.host import build, layer
from tests.host.boot import ENVIRONMENT, Host
from tests.host.cache import TestHostError
from tests.host.probe import why_not
from tests.host.snapshot import SCRIPT, Snapshot
from tests.screen import PATIENCE, Screen, Session, Surprise

NAME = "demo"
IMAGE = f"/var/lib/machines/{NAME}"
TEMPLATE = "/srv/debian"
JOURNAL = "/var/log/journal"

# What guests leave in the file system, besides what Snapshot knows of.
_FILES = f"""
find /etc/systemd /run/systemd/transient {JOURNAL} -type l -printf 'file %p -> %l\\n' 2>/dev/null
find /var/lib/machines /run/systemd/transient -mindepth 1 -maxdepth 1 -printf 'file %p\\n' 2>/dev/null
true
"""


class Place(ABC):
    """Where the demo takes place."""

    def __init__(self, template: str) -> None:
        self.template = template

    @abstractmethod
    def openpty(self) -> tuple[int, int]:
        """A terminal: (our end, its end)."""

    @abstractmethod
    def popen(self, argv: Sequence[str], terminal: int, env: Mapping[str, str]) -> subprocess.Popen[str]:
        """Start a command on a terminal."""

    @abstractmethod
    def ask(self, *argv: str) -> str:
        """What a command says, behind the scenes; whether it succeeds is not asked."""

    def snapshot(self) -> Snapshot:
        """What there is of mounts, links, cgroups, units and files."""
        return Snapshot.parse(self.ask("sh", "-c", SCRIPT + _FILES))

    def left_behind(self, before: Snapshot) -> list[str]:
        return before.diff(self.snapshot())


class TestHost(Place):
    """A booted test host."""

    __test__ = False

    def __init__(self, host: Host) -> None:
        super().__init__(TEMPLATE)
        self.host = host

    def openpty(self) -> tuple[int, int]:
        return self.host.openpty()

    def popen(self, argv: Sequence[str], terminal: int, env: Mapping[str, str]) -> subprocess.Popen[str]:
        return self.host.popen(argv, stdin=terminal, stdout=terminal, stderr=terminal, env=env, tty=True)

    def ask(self, *argv: str) -> str:
        return self.host.run(argv, check=False, timeout=PATIENCE).stdout


class Here(Place):
    """The host we are on."""

    def openpty(self) -> tuple[int, int]:
        return os.openpty()

    def popen(self, argv: Sequence[str], terminal: int, env: Mapping[str, str]) -> subprocess.Popen[str]:
        command = ["setsid", "--ctty", "--wait", *argv]
        variables = ENVIRONMENT | dict(env)
        return subprocess.Popen(
            command, stdin=terminal, stdout=terminal, stderr=terminal, env=variables, text=True
        )

    def ask(self, *argv: str) -> str:
        return subprocess.run(argv, capture_output=True, text=True, check=False, env=ENVIRONMENT).stdout

    def left_behind(self, before: Snapshot) -> list[str]:
        # A host in use has other things going on; all that is the machine's has its name in it.
        return [line for line in super().left_behind(before) if NAME in line]


class Demo:
    """The story, told once."""

    def __init__(self, place: Place, screen: Screen) -> None:
        self._place = place
        self._screen = screen

    def tell(self, reboot: Callable[[], None] | None) -> None:
        """All of it. `reboot` does that to the host. Raises Surprise."""
        say, run = self._screen.say, self._run
        before = self._place.snapshot()
        say("\nA machine is a directory tree with an init in it:")
        run("cp", "-a", self._place.template, IMAGE)
        self._check(NAME in run("machinectl", "list-images"), "the image is not listed")

        say("\nIt starts, and everybody sees it, systemd's own machinectl too:")
        run("machinectl", "start", NAME)
        run("machinectl", "wait", "--timeout=90", NAME)
        self._check(self._lists(run("machinectl", "list")), "the machine is not listed")
        self._check(
            self._lists(run("/usr/bin/machinectl", "list", "--no-legend")), "systemd's does not list it"
        )
        self._check("State: running" in run("machinectl", "status", "--lines=3", NAME), "it does not run")

        say("\nA command in it, and a login, on a terminal that knows what it is (leave by ^]^]^]):")
        said = run("machinectl", "shell", NAME, "/bin/sh", "-c", "tty; echo $TERM; id")
        self._check(
            bool(re.search(r"/dev/pts/\d+\s+\S+\s+uid=0\(root\)", said)), "the shell does not say so"
        )
        self._login()

        say("\nIt is to start with its host from now on:" if reboot else "\nIt can start with its host:")
        run("machinectl", "enable", NAME)
        if reboot:
            self._prompt("systemctl", "reboot")
            reboot()
            say("\nThe host went down in good order and is up again, and the machine with it:")
            run("machinectl", "wait", "--timeout=90", NAME)
            self._check(self._lists(run("machinectl", "list")), "the machine is not back")
            said = run("journalctl", f"--machine={NAME}", "--boot=-1", "--output=cat", "--lines=4")
            self._check("Reached target" in said, "the machine's own journal says nothing of a shutdown")

        say("\nOff, and not with the host any more:")
        run("machinectl", "poweroff", NAME)
        run("machinectl", "disable", NAME)
        self._check(not self._lists(run("machinectl", "list")), "the machine is still listed")

        say("\nThe tree is the user's to remove, and the link that systemd-nspawn made to its journal:")
        self._remove(run)
        if left := self._place.left_behind(before):
            raise Surprise("the host is not as it was before:\n" + "\n".join(left))
        say("\nMounts, network links, cgroups, units and files of the host are as before.")

    def _prompt(self, *argv: str) -> None:
        self._screen.say(f"# {shlex.join(argv)}")

    @contextlib.contextmanager
    def _session(self, *argv: str) -> Iterator[Session]:
        self._prompt(*argv)
        session = Session(self._place, argv, self._screen)
        try:
            yield session
        finally:
            session.close()

    def _run(self, *argv: str) -> str:
        with self._session(*argv) as session:
            return session.finish()

    def _login(self) -> None:
        """What a user types at the terminal of a guest."""
        with self._session("machinectl", "login", NAME) as session:
            session.expect("login: ")
            session.type("root\r")
            if session.expect("assword: |[#$] ").endswith("assword: "):
                self._screen.say("\n(the image wants a password, which the demo does not have)")
            else:
                session.type("tty; echo $TERM\r")
                said = session.expect(r"/dev/pts/\d+\s+[^#$]*[#$] ")
                self._check("dumb" not in said, "the login knows nothing of the terminal")
            session.type("\x1d\x1d\x1d")
            session.finish()

    def _remove(self, run: Callable[..., object]) -> None:
        run("rm", "-r", IMAGE)
        if links := self._journal_links():
            run("rm", *links)

    def _journal_links(self) -> list[str]:
        return self._place.ask("find", JOURNAL, "-type", "l", "-lname", f"{IMAGE}/*").split()

    def clean_up(self) -> None:
        """After a surprise: say what may explain it, and remove what the story has begun."""
        try:
            self._clean_up()
        except (TestHostError, OSError, subprocess.SubprocessError) as error:
            print(f"demo: {error}", file=sys.stderr)  # the surprise matters more

    def _clean_up(self) -> None:
        self._screen.end()
        units = [f"--unit=machine-{NAME}.service", "--unit=systemd-machined.service"]
        print(self._place.ask("journalctl", "--quiet", "--no-pager", "--lines=20", *units), file=sys.stderr)
        for verb in ("terminate", "disable"):
            self._place.ask("machinectl", verb, NAME)
        self._place.ask("machinectl", "--for=stopped", "--timeout=30", "wait", NAME)
        self._remove(self._place.ask)

    @staticmethod
    def _lists(table: str) -> bool:
        return any(line.split()[:1] == [NAME] for line in table.splitlines())

    @staticmethod
    def _check(as_expected: bool, otherwise: str) -> None:
        if not as_expected:
            raise Surprise(otherwise)


def on_test_host(suite: str, screen: Screen) -> None:
    """In a host that is made for it."""
    screen.say(f"A Debian ({suite}) host with machined installed in it is made (minutes, the first time) …")
    installed = layer.with_machined(suite)
    guest = build.ensure(suite).guest
    with Host(suite, layer=installed, read_only={TEMPLATE: guest}) as host:
        host.boot()
        place = TestHost(host)
        version = place.ask("systemctl", "--version").split("\n")[0]
        screen.say(f"… and booted: {version}. What follows happens in there, as root.")

        def reboot() -> None:
            if (end := host.shutdown("reboot", PATIENCE)) != "reboot":
                raise Surprise(f"the host was to reboot, and it ended with '{end}'")
            host.boot(PATIENCE)

        with explained(Demo(place, screen)) as demo:
            demo.tell(reboot)
    screen.say(
        "Shown: start, list, status, shell, login, enable, a reboot of the host, poweroff, disable. "
        "To play: make host-shell"
    )


def on_this_host(image: str | None, screen: Screen) -> None:
    """On the host we are on. Raises Surprise with what is missing."""
    if os.geteuid() != 0:
        raise Surprise("only root can start machines: sudo make demo DEMO_ARGS='--here --image DIRECTORY'")
    if not Path("/run/systemd/system").is_dir():
        raise Surprise("systemd is not running here, so no machine can be started: leave --here out")
    place = Here(os.fspath(Path(image or "").resolve()))
    if "org.machined1.Manager" not in place.ask(
        "busctl", "introspect", "--no-pager", "org.freedesktop.machine1", "/org/freedesktop/machine1"
    ):
        raise Surprise("machined is not running here: make install")
    if image is None or not os.path.lexists(Path(image) / "sbin/init"):
        raise Surprise(
            f"there is no system in '{image}', a tree with /sbin/init" if image else
            "--here needs a directory tree with a system in it: --image DIRECTORY"
        )  # fmt: skip
    if os.path.lexists(IMAGE):
        raise Surprise(f"there is an image named '{NAME}' here, which the demo would take: '{IMAGE}'")
    with explained(Demo(place, screen)) as demo:
        demo.tell(None)
    screen.say("Shown: start, list, status, shell, login, enable, poweroff, disable.")


@contextlib.contextmanager
def explained(demo: Demo) -> Iterator[Demo]:
    """Leaves nothing behind when the story ends before its time."""
    try:
        yield demo
    except BaseException:
        demo.clean_up()
        raise


def main() -> int:
    parser = argparse.ArgumentParser(prog="python3 -m tests.demo", description="machined at work.")
    parser.add_argument("--here", action="store_true", help="on this host, which is not rebooted")
    parser.add_argument("--image", metavar="DIRECTORY", help="with --here: a system's tree, to be copied")
    parser.add_argument("--suite", default="trixie", help="the Debian of the test host (trixie)")
    arguments = parser.parse_args()
    screen = Screen()
    try:
        if arguments.here:
            on_this_host(arguments.image, screen)
            return 0
        if (reason := why_not()) is not None:
            print(f"demo: no test host on this machine: {reason}", file=sys.stderr)
            return 77
        on_test_host(arguments.suite, screen)
    except (Surprise, TestHostError, OSError, subprocess.SubprocessError) as error:
        print(f"demo: failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
