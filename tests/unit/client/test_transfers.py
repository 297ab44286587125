# SPDX-License-Identifier: LGPL-2.1-or-later
"""What importctl is handed, and the buses --user leads to."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from machinectl import remote
from machinectl.table import VERBS

from .conftest import Client
from .fakebus import OURS, Peer

TRANSFERS = [verb.name for verb in VERBS if verb.group == "Transfer"]


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The command lines that would have taken our place."""
    commands: list[list[str]] = []

    def execv(path: str, command: list[str]) -> None:
        commands.append([path, *command])
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr("os.execv", execv)
    return commands


@pytest.mark.parametrize("verb", TRANSFERS)
def test_all_are_handed_over(program: list[list[str]], client: Client, verb: str) -> None:
    result = client(verb, "a", "b", "c", "d")
    assert result.status == 1
    assert result.err.splitlines()[:2] == [
        f"'machinectl {verb}' is 'importctl -m {verb}' by now: going on with that.",
        f"Failed to run '/usr/bin/importctl' for '{verb}': No such file or directory",
    ]
    assert program == [
        [
            "/usr/bin/importctl",
            "importctl",
            "--class=machine",
            "--verify",
            "signature",
            verb,
            "a",
            "b",
            "c",
            "d",
        ]
    ]


def test_options_are_handed_over(program: list[list[str]], client: Client) -> None:
    line = (
        "pull-tar --format=xz --no-ask-password --force -q --read-only --no-legend --no-pager --verify=no u"
    )
    assert "going on" not in client(*line.split()).err
    assert program == [
        ["/usr/bin/importctl", "importctl", "--class=machine", "--no-pager", "--no-legend", "--read-only",
         "--force", "--quiet", "--no-ask-password", "--verify", "no", "--format", "xz", "pull-tar", "u"]
    ]  # fmt: skip


def test_the_bus_of_the_user(
    private_bus: str, tmp_path: Path, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nonexistent")
    monkeypatch.delenv("DBUS_SESSION_BUS_ADDRESS", raising=False)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    assert client("--user", "list").err.startswith("Failed to connect to user scope bus: ")
    monkeypatch.setenv("XDG_RUNTIME_DIR", os.fspath(tmp_path))
    err = client("--user", "list").err
    assert err.startswith(f"Failed to connect to the user bus at 'unix:path={tmp_path}/bus'")
    assert "loginctl" in err
    with Peer(f"unix:path={private_bus}", "org.freedesktop.machine1") as peer:
        peer.answer(OURS, "ListAll", "a(ssssssasbs)", [])
        (tmp_path / "bus").symlink_to(private_bus)
        assert client("--user", "list") == (0, "No machines.\n", "")
        assert client("--user", "--system", "list").status == 1
        monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", "unix:path=/nonexistent")
        assert client("--user", "list").status == 1


def test_the_bus_of_a_user_elsewhere() -> None:
    assert remote.machine_command("joe@.host", user=True) == [
        "systemd-stdio-bridge", "--machine=joe@.host", "--user"
    ]  # fmt: skip
    assert remote.host_command("joe@far", user=True)[-3:] == ["joe@far", "systemd-stdio-bridge", "--user"]


def test_an_empty_host_is_not_this_one(client: Client) -> None:
    assert client("--host=", "list").status == 1
