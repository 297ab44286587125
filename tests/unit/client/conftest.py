# SPDX-License-Identifier: LGPL-2.1-or-later
from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from machinectl.cli import main

from .fakebus import MACHINE1, SYSTEMD1, Peer


class Result(NamedTuple):
    status: int
    out: str
    err: str


Client = Callable[..., Result]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What changes the output of the client, the same on every machine."""
    for name in ("LC_ALL", "LC_CTYPE", "COLUMNS", "COLORTERM", "NO_COLOR", "SYSTEMD_PAGER", "PAGER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LANG", "C.UTF-8")
    monkeypatch.setenv("TERM", "xterm-test")
    monkeypatch.setenv("TZ", "UTC")


@pytest.fixture
def system_bus(private_bus: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The client's system bus is the private one; its address."""
    address = f"unix:path={private_bus}"
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", address)
    return address


@pytest.fixture
def manager(system_bus: str) -> Iterator[Peer]:
    """Whoever owns org.freedesktop.machine1."""
    with Peer(system_bus, MACHINE1) as peer:
        yield peer


@pytest.fixture
def systemd(system_bus: str) -> Iterator[Peer]:
    with Peer(system_bus, SYSTEMD1) as peer:
        yield peer


@pytest.fixture
def client(capfd: pytest.CaptureFixture[str]) -> Client:
    """Runs one command line in this process: (exit status, stdout, stderr)."""

    def run(*argv: str) -> Result:
        capfd.readouterr()
        status = main(list(argv))
        out, err = capfd.readouterr()
        return Result(status, out, err)

    return run


@pytest.fixture
def no_bus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={tmp_path}/nobody")
