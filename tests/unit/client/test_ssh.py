# SPDX-License-Identifier: LGPL-2.1-or-later
"""`ssh`: which way it takes, as the command line of ssh."""

from __future__ import annotations

import socket
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from machinectl import ssh

from .conftest import Client
from .fakebus import MANAGER, PATH, Peer

MACHINE = "org.freedesktop.machine1.Machine"


class Became(Exception):
    """Instead of the program."""


@pytest.fixture
def argv(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    seen: list[str] = []

    def become(file: str, words: list[str]) -> None:
        seen[:] = words
        raise Became

    monkeypatch.setattr("os.execvp", become)
    monkeypatch.setattr(ssh, "EXPORTS", (str(tmp_path) + "/{}-no", str(tmp_path) + "/{}-ssh"))
    return seen


def machine(manager: Peer, addresses: list[Any], **properties: str) -> None:
    told = {key: ("s", value) for key, value in properties.items()}
    manager.on(MANAGER, "GetMachine", lambda *_: ("o", (f"{PATH}/machine/box",)))
    manager.on("org.freedesktop.DBus.Properties", "GetAll", lambda *_: ("a{sv}", (told,)))
    manager.on(MANAGER, "GetMachineAddresses", lambda *_: ("a(iay)", (addresses,)))


def test_the_socket_of_a_guest(manager: Peer, client: Client, argv: list[str], tmp_path: Path) -> None:
    machine(manager, [(socket.AF_INET, bytes([10, 0, 0, 2]))], SSHAddress="")
    path = tmp_path / "box-ssh"
    with closing(socket.socket(socket.AF_UNIX)) as listens:
        listens.bind(str(path))
        with pytest.raises(Became):
            client("ssh", "me@box", "ls", "-l", "--all")
    assert argv[0] == "ssh"
    assert f"ProxyCommand={ssh.PROXY} 'unix{path}' %p" in argv
    assert "StrictHostKeyChecking=no" in argv
    assert argv[-7:] == ["-l", "me", "--", "box", "ls", "-l", "--all"]


def test_a_virtual_machine(manager: Peer, client: Client, argv: list[str]) -> None:
    machine(manager, [], SSHAddress="vsock/3%'", SSHPrivateKeyPath="/run/key")
    with pytest.raises(Became):
        client("ssh", "box")
    assert argv[1:5] == ["-o", "IdentityFile=/run/key", "-o", "IdentitiesOnly=yes"]
    assert f"ProxyCommand={ssh.PROXY} 'vsock/3%%'\\''' %p" in argv
    assert argv[-2:] == ["--", "box"]


@pytest.mark.parametrize("link", [False, True])
def test_the_network(manager: Peer, client: Client, argv: list[str], tmp_path: Path, link: bool) -> None:
    """A link in place of the socket is the guest's, and not followed."""
    machine(manager, [(socket.AF_INET6, bytes(15) + b"\1"), (socket.AF_INET, bytes(4))], SSHAddress="")
    if link:
        (tmp_path / "box-ssh").symlink_to("/run/dbus/system_bus_socket")
    with pytest.raises(Became):
        client("ssh", "--uid=me", "box")
    assert argv == ["ssh", "-o", "HostName=::1", "-l", "me", "--", "box"]


def test_no_way(manager: Peer, client: Client, argv: list[str]) -> None:
    machine(manager, [], SSHAddress="")
    status, out, err = client("ssh", "box")
    assert (status, out, argv) == (1, "", [])
    assert "neither a socket nor an address" in err
    assert client("-H", "other", "ssh", "box").status == 1


def test_no_ssh(manager: Peer, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(manager, [(socket.AF_INET, bytes(4))], SSHAddress="")
    monkeypatch.setenv("PATH", "/nowhere")
    status, _, err = client("ssh", "box")
    assert status == 1
    assert "openssh-client" in err
