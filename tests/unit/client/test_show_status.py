# SPDX-License-Identifier: LGPL-2.1-or-later
from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import Client
from .fakebus import DBUS_ERROR, MACHINE1, MANAGER, FakeError, Peer

PROPERTIES = "org.freedesktop.DBus.Properties"
MACHINE = "org.freedesktop.machine1.Machine"
OUR_MACHINE = "org.machined1.Machine"
BOX = "/org/freedesktop/machine1/machine/box"
INTERFACES: dict[str, dict[str, tuple[str, Any]]] = {
    MANAGER: {
        "PoolPath": ("s", "/var/lib/machines"),
        "PoolUsage": ("t", 2**64 - 1),
        "LimitX": ("t", 2**64 - 1),
    },
    MACHINE: {
        "Name": ("s", "box"),
        "Id": ("ay", bytes.fromhex("c5989a98e10a495783525047f40a7063")),
        "Timestamp": ("t", 1795381994000000),
        "TimestampMonotonic": ("t", 1221726283),
        "Service": ("s", "machined"),
        "Unit": ("s", "machine-box.service"),
        "Leader": ("u", os.getpid()),
        "Class": ("s", "container"),
        "RootDirectory": ("s", "/var/lib/machines/bo\nx"),
        "NetworkInterfaces": ("ai", [1]),
        "SSHAddress": ("s", ""),
        "State": ("s", "running"),
    },
    OUR_MACHINE: {
        "State": ("s", "degraded"),
        "Enabled": ("b", True),
        "Unit": ("s", "machine-box.service"),
        "StateTimestamp": ("t", 0),
        "Job": ("o", "/"),
    },
}


def serve(manager: Peer, interfaces: dict[str, dict[str, tuple[str, Any]]]) -> None:
    def get_all(interface: str) -> tuple[str, tuple[Any, ...]]:
        if interface not in interfaces:
            raise FakeError(DBUS_ERROR + "UnknownInterface", "no such interface")
        return "a{sv}", (interfaces[interface],)

    def get_machine(name: str) -> tuple[str, tuple[Any, ...]]:
        if name != "box":
            raise FakeError(f"{MACHINE1}.NoSuchMachine", f"No machine '{name}' known")
        return "o", (BOX,)

    manager.on(PROPERTIES, "GetAll", get_all)
    manager.on(MANAGER, "GetMachine", get_machine)


@pytest.fixture
def box(manager: Peer) -> Peer:
    serve(manager, INTERFACES)
    return manager


def stock(interfaces: dict[str, dict[str, tuple[str, Any]]]) -> dict[str, dict[str, tuple[str, Any]]]:
    return {
        name: properties for name, properties in interfaces.items() if not name.startswith("org.machined1")
    }


def test_show_the_manager(box: Peer, client: Client) -> None:
    assert (
        client("show").out == "PoolPath=/var/lib/machines\nPoolUsage=18446744073709551615\nLimitX=infinity\n"
    )


def test_show_a_machine_of_systemds_manager(manager: Peer, client: Client) -> None:
    serve(manager, stock(INTERFACES))
    assert client("show", "box").out.splitlines() == [
        "Name=box",
        "Id=c5989a98e10a495783525047f40a7063",
        "Timestamp=Sun 2026-11-22 21:13:14 UTC",
        "TimestampMonotonic=1221726283",
        "Service=machined",
        "Unit=machine-box.service",
        f"Leader={os.getpid()}",
        "Class=container",
        "RootDirectory=[unprintable]",
        "State=running",
    ]


def test_show_all_and_ours(box: Peer, client: Client) -> None:
    lines = client("show", "--all", "box").out.splitlines()
    assert lines[-7:] == [
        "NetworkInterfaces=[unprintable]",
        "SSHAddress=",
        "State=running",
        "MachineState=degraded",
        "Enabled=yes",
        "StateTimestamp=",
        "Job=/",
    ]


@pytest.mark.parametrize(
    ("argv", "out"),
    [
        (["-p", "Name", "-p", "SSHAddress"], "Name=box\nSSHAddress=\n"),
        (["-P", "Name", "-P", "State"], "box\nrunning\n"),
        (["--value", "-p", "NetworkInterfaces"], "[unprintable]\n"),
        (["-p", "Nonsense"], ""),
    ],
)
def test_chosen_properties(box: Peer, client: Client, argv: list[str], out: str) -> None:
    assert client("show", "box", *argv) == (0, out, "")


def test_machines_are_apart_and_the_first_unknown_one_ends_it(box: Peer, client: Client) -> None:
    result = client("show", "-PName", "box", "box", "gone", "box")
    assert result.status == 1
    assert result.out == "box\n\nbox\n\n"
    assert result.err.startswith("Could not get path to machine: No machine 'gone' known\n")


@pytest.fixture
def journalctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """A journalctl that notes its arguments and prints one line."""
    script = tmp_path / "journalctl"
    script.write_text(
        f'#!/bin/sh\nprintf "%s\\n" "$@" >{tmp_path}/argv\necho journal line\n', encoding="utf-8"
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return lambda: (tmp_path / "argv").read_text(encoding="utf-8").splitlines()


def test_status(box: Peer, systemd: Peer, client: Client, journalctl: Callable[[], list[str]]) -> None:
    group = "/machine.slice/machine-box.service"
    addresses = [(int(socket.AF_INET), b"\x0a\0\0\1"), (10, b"\xfe\x80" + bytes(13) + b"\x01")]
    box.answer(MANAGER, "GetMachineAddresses", "a(iay)", addresses)
    box.answer(MANAGER, "GetMachineOSRelease", "a{ss}", {"PRETTY_NAME": "Debian\x1b[31m 13"})
    box.answer(MANAGER, "GetMachineUIDShift", "u", 65536)
    systemd.answer(PROPERTIES, "Get", "v", ("s", group))
    systemd.answer(
        "org.freedesktop.systemd1.Manager",
        "GetUnitProcesses",
        "a(sus)",
        [(f"{group}/payload", 155, "/sbin/init")],
    )
    result = client("status", "box", "-n", "3", "-o", "cat")
    comm = Path("/proc/self/comm").read_text(encoding="utf-8").strip()
    assert (result.status, result.err) == (0, "")
    lines = result.out.splitlines()
    assert lines.pop(1).startswith("\t   Since: Sun 2026-11-22 21:13:14 UTC; ")
    assert lines == [
        "box(c5989a98e10a495783525047f40a7063)",
        "\t   State: degraded",
        f"\t  Leader: {os.getpid()} ({comm})",
        "\t Service: machined; class container",
        "\t    Root: /var/lib/machines/box",
        "\t   Iface: lo",
        "\t Address: 10.0.0.1",
        "\t          fe80::1%1",
        "\t      OS: Debian[31m 13",
        "  UID Shift: 65536",
        "\t    Unit: machine-box.service",
        "\t\t  └─payload",
        "\t\t    └─155 /sbin/init",
        "",
        "journal line",
    ]
    assert journalctl() == [
        "--no-pager",
        "--quiet",
        "--unit=machine-box.service",
        "--lines=3",
        "--output=cat",
        "--since=@1795381994",
    ]


def test_status_says_little_where_little_is_known(manager: Peer, client: Client) -> None:
    bare = {"Name": ("s", "box"), "Class": ("s", "vm"), "Id": ("ay", b""), "Leader": ("u", 0)}
    serve(manager, {MACHINE: bare})
    assert client("status", "box") == (0, "box\n\t   Class: vm\n", "")


def test_status_of_a_machine_that_failed(
    manager: Peer, client: Client, journalctl: Callable[[], list[str]]
) -> None:
    ours = {
        "State": ("s", "failed"),
        "Result": ("s", "exit-code"),
        "StateTimestamp": ("t", 0),
        "Image": ("s", "/var/lib/machines/web"),
        "Unit": ("s", "machine-web.service"),
    }
    serve(manager, {OUR_MACHINE: ours})
    result = client("status", "web")
    assert result.status == 1  # as for every machine that is not registered
    assert result.out.splitlines() == [
        "web",
        "\t   State: failed",
        "\t  Result: exit-code",
        "\t   Image: /var/lib/machines/web",
        "\t    Unit: machine-web.service",
        "",
        "journal line",
    ]
    assert result.err.startswith("Could not get path to machine: No machine 'web' known\n")
