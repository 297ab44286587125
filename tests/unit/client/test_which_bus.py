# SPDX-License-Identifier: LGPL-2.1-or-later
"""The buses --user leads to, and those of other hosts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from machinectl import remote

from .conftest import Client
from .fakebus import OURS, Peer


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
