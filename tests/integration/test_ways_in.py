# SPDX-License-Identifier: LGPL-2.1-or-later
"""login and shell on a real terminal: what is typed and seen, the window's size, the type, the way out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.integration.driver import OURS, Driver
from tests.integration.terminals import SEQUENCES, TERM, Terminal

pytestmark = pytest.mark.integration

ESCAPE = b"\x1d"


@contextmanager
def interactive(managed: Driver, *words: str) -> Iterator[Terminal]:
    with Terminal(managed, [OURS, *words]) as terminal:
        terminal.expect(r"Press \^\] three times")
        yield terminal


@pytest.fixture
def running(managed: Driver, machine: str) -> str:
    managed.start(machine)
    return machine


def wait_for_sleep(managed: Driver, *, there: bool) -> None:
    """Until the program that a test runs in the machine is there, or gone."""
    loop = "until" if there else "while"
    script = f"{loop} pgrep -fx '/bin/sleep 1000' >/dev/null; do sleep 0.05; done"
    managed.host.run(["timeout", "20", "sh", "-c", script])


def plain(text: str) -> str:
    """What a person sees of an output: systemd 258 and later tell terminals what they run (OSC 3008)."""
    return SEQUENCES.sub(b"", text.encode()).decode().strip()


def test_shell_runs_a_command(managed: Driver, running: str) -> None:
    done = managed.ctl("--quiet", "shell", running, "/bin/echo", "out", "in")
    assert plain(done.stdout) == "out in"
    assert "Connected" not in done.stdout + done.stderr
    done = managed.ctl("-q", "shell", f"daemon@{running}", "/usr/bin/id", "-un")
    assert plain(done.stdout).split()[-1] == "daemon"
    done = managed.ctl("-q", "shell", "--uid=daemon", running, "/usr/bin/id", "-un")
    assert plain(done.stdout).split()[-1] == "daemon"
    done = managed.ctl("-q", "shell", "-E", "WORD=x y", running, "/usr/bin/printenv", "WORD")
    assert plain(done.stdout) == "x y"


def test_shell_of_the_host(managed: Driver) -> None:
    assert plain(managed.ctl("-q", "shell", ".host", "/bin/hostname").stdout) == "testhost"


def test_shell_on_a_terminal(managed: Driver, running: str) -> None:
    with interactive(managed, "shell", running) as terminal:
        # What is typed before the shell has set its terminal up is dropped, by the stock client as well.
        terminal.expect(r"[#$] ")
        terminal.type("stty size; echo TERM=$TERM; id -un; pwd\r")
        terminal.expect(r"\n\r?33 101\r")
        terminal.expect(rf"\n\r?TERM={TERM}\r")
        terminal.expect(r"\n\r?root\r")
        terminal.expect(r"\n\r?/root\r")
        terminal.resize(44, 120)
        terminal.type("sleep 0.2; stty size\r")
        terminal.expect(r"\n\r?44 120\r")
        terminal.type("exit\r")
        terminal.expect("terminated")
        assert terminal.ended() == 0


def test_three_escapes_leave(managed: Driver, running: str) -> None:
    with interactive(managed, "shell", running) as terminal:
        terminal.expect(r"[#$] ")
        terminal.type("echo here-$((40+2))\r")
        terminal.expect("here-42")
        terminal.type(ESCAPE * 3)
        assert terminal.ended() == 0


def test_login(managed: Driver, running: str) -> None:
    with interactive(managed, "login", running) as terminal:
        terminal.expect("login: ")
        terminal.type("root\r")
        terminal.expect(r"[#$] ")
        terminal.type("echo TERM=$TERM; stty size; tty\r")
        terminal.expect(rf"\n\r?TERM={TERM}\r")
        terminal.expect(r"\n\r?33 101\r")
        terminal.expect(r"\n\r?/dev/pts/\d+\r")
        terminal.type("exit\r")
        terminal.expect("login: ")
        terminal.type(ESCAPE * 3)
        assert terminal.ended() == 0


def test_stock_login_works_too(managed: Driver, running: str) -> None:
    with Terminal(managed, ["/usr/bin/machinectl", "login", running]) as terminal:
        terminal.expect("login: ")
        terminal.type("root\r")
        terminal.expect(r"[#$] ")
        terminal.type(ESCAPE * 3)
        assert terminal.ended() == 0


def test_login_ends_with_the_machine(managed: Driver, running: str) -> None:
    with interactive(managed, "login", running) as terminal:
        terminal.expect("login: ")
        managed.ctl("poweroff", running)
        assert terminal.ended() == 0


def test_nothing_of_a_shell_stays(managed: Driver, running: str) -> None:
    """The program is hung up when the client goes, and the daemon keeps no descriptor of the terminal."""
    pid = managed.daemon_pid()

    def descriptors() -> list[str]:
        return managed.host.run(["sh", "-c", f"readlink /proc/{pid}/fd/*; true"]).stdout.splitlines()

    def shell() -> None:
        with interactive(managed, "shell", running, "/bin/sleep", "1000") as terminal:
            wait_for_sleep(managed, there=True)
            terminal.type(ESCAPE * 3)
            assert terminal.ended() == 0
        wait_for_sleep(managed, there=False)

    # What is opened once, and kept as long as the machine runs, is open from now on.
    managed.wait(running, "running")
    managed.ctl("list")
    shell()
    before = descriptors()
    for _ in range(3):
        shell()
    # That the client has left the bus is told a moment later.
    settled = f"until [ $(ls /proc/{pid}/fd | wc -l) -le {len(before)} ]; do sleep 0.05; done"
    done = managed.host.run(["timeout", "20", "sh", "-c", settled], check=False)
    assert done.returncode == 0, sorted(set(descriptors()) - set(before))


def test_output_is_not_lost_when_input_ends(managed: Driver, running: str) -> None:
    done = managed.host.run(
        [OURS, "-q", "shell", running, "/bin/sh", "-c", "sleep 0.5; seq 1 2000"], input="", timeout=60
    )
    assert plain(done.stdout).split()[-1] == "2000"


def test_a_client_that_is_killed_restores_nothing_but_harms_nobody(managed: Driver, running: str) -> None:
    command = [OURS, "shell", running, "/bin/sleep", "1000"]
    with managed.background(command) as client:
        wait_for_sleep(managed, there=True)
        client.kill()
    wait_for_sleep(managed, there=False)
    assert managed.wait(running, "running") == "running"
