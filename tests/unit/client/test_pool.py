# SPDX-License-Identifier: LGPL-2.1-or-later
"""`pool`: the calls it makes and what it prints."""

from __future__ import annotations

import json
from typing import Any

import pytest

from machinectl.timefmt import UINT64_MAX

from .conftest import Client
from .fakebus import DBUS_ERROR, OURS, FakeError, Leaving, Peer

GIBIBYTE = 1024**3
PLAIN = {
    "path": ("s", "/var/lib/machines"), "type": ("s", "directory"), "file-system": ("s", "ext4"),
    "size": ("t", 100 * GIBIBYTE), "used": ("t", 40 * GIBIBYTE), "available": ("t", 55 * GIBIBYTE),
    "limit": ("t", UINT64_MAX),
}  # fmt: skip
FILED = PLAIN | {
    "type": ("s", "file"), "file-system": ("s", "btrfs"), "file": ("s", "/var/lib/machines.raw"),
    "allocated": ("t", GIBIBYTE), "size-max": ("t", 120 * GIBIBYTE),
}  # fmt: skip


def answers(manager: Peer, pool: dict[str, Any]) -> None:
    manager.on(OURS, "GetPool", lambda: ("a{sv}", (pool,)))


def test_status(manager: Peer, client: Client) -> None:
    answers(manager, PLAIN)
    text = """\
        Pool: /var/lib/machines
        Type: directory on ext4
        Size: 100G
        Used: 40G
        Free: 55G
"""
    assert client("pool") == client("pool", "status") == (0, text, "")
    answers(manager, FILED)
    text = """\
        Pool: /var/lib/machines
        Type: btrfs in a file
        Size: 100G
        Used: 40G
        Free: 55G
       Limit: none
        File: /var/lib/machines.raw
     On disk: 1G
 May grow to: 120G
"""
    assert client("pool") == (0, text, "")
    told = json.loads(client("pool", "-o", "json").out)
    assert told == {name: value for name, (_, value) in FILED.items()} | {"limit": None}


@pytest.mark.parametrize(
    ("line", "call"),
    [
        ("create", ("CreatePool", (0, {}))),
        ("create --size=1.5G", ("CreatePool", (3 * GIBIBYTE // 2, {}))),
        ("grow 2G", ("GrowPool", (2 * GIBIBYTE,))),
        ("remove", ("RemovePool", ({},))),
    ],
)
def test_calls(manager: Peer, client: Client, line: str, call: tuple[str, Any]) -> None:
    answers(manager, PLAIN if line == "remove" else FILED)
    manager.on(OURS, call[0], lambda *_: None)
    done = client("pool", *line.split())
    assert (done.status, done.out) == (0, "")
    if line == "remove":
        assert done.err == "The pool /var/lib/machines is a plain directory on ext4.\n"
    else:
        assert done.err == (
            "The pool /var/lib/machines has 100G in the file /var/lib/machines.raw, and may grow to 120G.\n"
        )
    assert manager.calls == [call, ("GetPool", ())]
    assert client("pool", "--quiet", *line.split()) == (0, "", "")


@pytest.mark.parametrize(
    "line",
    [
        "shrink", "grow", "grow 1X", "create 1G", "create --size=0", "create --size=big", "remove x",
        "status x", "grow 1G --size=2G", "--size=1G",
    ],
)  # fmt: skip
def test_bad_arguments_get_nowhere(manager: Peer, client: Client, line: str) -> None:
    done = client("pool", *line.split())
    assert (done.status, done.out, manager.calls) == (1, "", [])
    assert done.err


def test_failures(manager: Peer, client: Client) -> None:
    manager.fail(OURS, "CreatePool", f"{DBUS_ERROR}NotSupported", "mkfs.btrfs is missing")
    assert client("pool", "create") == (1, "", "Could not create the pool: mkfs.btrfs is missing\n")

    def stock(*_: Any) -> None:
        raise FakeError(f"{DBUS_ERROR}UnknownInterface", "Unknown interface")

    for line, member in (("", "GetPool"), ("create", "CreatePool"), ("grow 1G", "GrowPool")):
        manager.on(OURS, member, stock)
        done = client("pool", *line.split())
        assert done.status == 1
        assert "'pool' needs machined's own manager" in done.err


def test_a_daemon_that_ends_meanwhile(manager: Peer, client: Client) -> None:
    def leave(*_: Any) -> None:
        raise Leaving

    manager.on(OURS, "CreatePool", leave)
    done = client("pool", "create")
    assert done.status == 1
    assert "What was begun goes on" in done.err
