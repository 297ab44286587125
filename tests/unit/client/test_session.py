# SPDX-License-Identifier: LGPL-2.1-or-later
from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from .conftest import Client
from .fakebus import MACHINE1, MANAGER, OURS, PATH, FakeError, Peer

Opener = Callable[..., tuple[str, tuple[Any, ...]]]


@pytest.fixture
def guest() -> Iterator[Callable[[bytes], Opener]]:
    """Makes a handler that opens a terminal, on which somebody says something and leaves."""
    masters: list[int] = []

    def make(text: bytes) -> Opener:
        def handler(*_: Any) -> tuple[str, tuple[Any, ...]]:
            master, slave = os.openpty()
            os.write(slave, text)
            os.close(slave)
            masters.append(master)
            return "hs", (master, "/dev/pts/0")

        return handler

    yield make
    for fd in masters:
        os.close(fd)


@pytest.fixture(autouse=True)
def no_terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Standard input is /dev/null, however the tests are started."""
    saved = os.dup(0)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    yield
    os.dup2(saved, 0)
    os.close(saved)


def test_shell(manager: Peer, client: Client, guest: Callable[[bytes], Opener]) -> None:
    manager.on(MANAGER, "OpenMachineShell", guest(b"hello\n"))
    result = client("shell", "box")
    assert (result.status, result.out) == (0, "hello\r\n")
    assert result.err.splitlines() == [
        "Connected to machine box. Press ^] three times within 1s to exit session.",
        "Connection to machine box terminated.",
    ]
    assert manager.calls == [("OpenMachineShell", ("box", "", "", [], ["TERM=xterm-test"]))]


def test_quiet_and_a_last_line_without_an_end(
    manager: Peer, client: Client, guest: Callable[[bytes], Opener]
) -> None:
    manager.on(MANAGER, "OpenMachineShell", guest(b"no end"))
    assert client("-q", "shell", "box") == (0, "no end\n", "")


@pytest.mark.parametrize(
    ("argv", "arguments"),
    [
        (["shell"], (".host", "", "", [])),
        (["shell", "joe@"], (".host", "joe", "", [])),
        (["shell", "joe@box"], ("box", "joe", "", [])),
        (["--uid=joe", "shell", "box"], ("box", "joe", "", [])),
        (["shell", "box", "/bin/ls"], ("box", "", "/bin/ls", [])),
        (["shell", "box", "/bin/ls", "-l"], ("box", "", "/bin/ls", ["/bin/ls", "-l"])),
    ],
)
def test_arguments_of_shell(
    manager: Peer,
    client: Client,
    guest: Callable[[bytes], Opener],
    argv: list[str],
    arguments: tuple[Any, ...],
) -> None:
    manager.on(MANAGER, "OpenMachineShell", guest(b""))
    assert client("-q", *argv).status == 0
    assert manager.calls[0][1][:4] == arguments


def test_the_environment_of_shell(
    manager: Peer, client: Client, guest: Callable[[bytes], Opener], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLORTERM", "truecolor")
    manager.on(MANAGER, "OpenMachineShell", guest(b""))
    client("-E", "A=b", "--setenv=TERM=dumb", "shell", "box")
    assert manager.calls[0][1][4] == ["A=b", "TERM=dumb", "COLORTERM=truecolor"]


def test_login_tells_our_manager_the_terminal(
    manager: Peer, client: Client, guest: Callable[[bytes], Opener]
) -> None:
    manager.on(OURS, "OpenLogin", guest(b"box login: "))
    assert client("login", "box", "-q") == (0, "box login: \n", "")
    (call,) = manager.calls
    assert call == (
        "OpenLogin",
        ("box", {"rows": ("u", 24), "columns": ("u", 80), "term": ("s", "xterm-test")}),
    )


def test_login_with_systemds_manager(
    manager: Peer, client: Client, guest: Callable[[bytes], Opener]
) -> None:
    manager.on(MANAGER, "OpenMachineLogin", guest(b"box login: "))
    result = client("login")
    assert (result.status, result.out) == (0, "box login: \n")
    assert result.err.splitlines() == [
        "Connected to the local host. Press ^] three times within 1s to exit session.",
        "Connection to the local host terminated.",
    ]
    assert manager.calls[-1] == ("OpenMachineLogin", (".host",))


def test_a_login_ends_with_its_machine(
    manager: Peer, client: Client, guest: Callable[[bytes], Opener]
) -> None:
    open_login = guest(b"bye\n")

    def handler(name: str, options: Any) -> tuple[str, tuple[Any, ...]]:
        for other in ("other", name):
            manager.emit(PATH, MANAGER, "MachineRemoved", "so", other, f"{PATH}/machine/x")
        return open_login()

    manager.on(OURS, "OpenLogin", handler)
    result = client("login", "box")
    assert (result.status, result.out) == (0, "bye\r\n")
    assert result.err.splitlines()[1] == "Machine box terminated."


def test_no_descriptor_is_left_behind(
    manager: Peer, client: Client, guest: Callable[[bytes], Opener]
) -> None:
    manager.on(MANAGER, "OpenMachineShell", guest(b""))
    client("-q", "shell", "box")  # what is imported and opened once
    held = 3  # the fake guest's masters stay open until the end of the test
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(held):
        client("-q", "shell", "box")

    def refuse(*_: Any) -> None:
        raise FakeError(f"{MACHINE1}.NoSuchMachine", "No machine 'box' known")

    manager.on(MANAGER, "OpenMachineShell", refuse)
    client("-q", "shell", "box")
    assert len(os.listdir("/proc/self/fd")) == before + held
