# SPDX-License-Identifier: LGPL-2.1-or-later
"""The manager leaves the bus instead of answering: killed, or exchanged for a newer one."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from .conftest import Client
from .fakebus import MACHINE1, MANAGER, OURS, Leaving, Peer
from .test_list import LIST_ALL, ROWS

GONE = "Message recipient disconnected from message bus without replying"


def leave(*_: object) -> None:
    raise Leaving


@pytest.fixture
def successor(manager: Peer, system_bus: str) -> Iterator[Peer]:
    """Whoever gets the name when `manager` leaves, as by bus activation."""
    with Peer(system_bus, MACHINE1, heir=True) as peer:
        yield peer


def test_a_question_is_asked_again(manager: Peer, successor: Peer, client: Client) -> None:
    manager.on(OURS, "ListAll", leave)
    successor.answer(OURS, "ListAll", LIST_ALL, ROWS[:1])
    result = client("list", "--no-legend")
    assert result == (0, "web container machined debian 13 10.0.0.5…\n", "")
    assert manager.members() == successor.members() == ["ListAll"]


def test_but_not_a_third_time(manager: Peer, successor: Peer, system_bus: str, client: Client) -> None:
    manager.on(OURS, "ListAll", leave)
    successor.on(OURS, "ListAll", leave)
    with Peer(system_bus, MACHINE1, heir=True) as third:
        result = client("list")
        assert (result.status, result.out) == (1, "")
        assert GONE in result.err
        assert third.calls == []


def test_all_questions_in_flight(manager: Peer, successor: Peer, client: Client) -> None:
    names = [f"m{number}" for number in range(100)]
    manager.answer(MANAGER, "ListMachines", "a(ssso)", [(name, "container", "", "/m") for name in names])
    manager.on(MANAGER, "GetMachineOSRelease", leave)
    successor.on(MANAGER, "GetMachineOSRelease", lambda name: ("a{ss}", ({"ID": name, "VERSION_ID": "1"},)))
    successor.answer(MANAGER, "GetMachineAddresses", "a(iay)", [(2, b"\x0a\0\0\1")])
    result = client("list", "--no-legend")
    assert (result.status, result.err) == (0, "")
    rows = [line.split() for line in result.out.splitlines()]
    assert rows == [[name, "container", "-", name, "1", "10.0.0.1"] for name in sorted(names)]
    assert manager.members() == ["ListAll", "ListMachines", "GetMachineOSRelease"]


@pytest.mark.parametrize(
    ("interface", "member", "command"),
    [
        (MANAGER, "TerminateMachine", ["terminate", "web"]),
        (MANAGER, "KillMachine", ["kill", "web"]),
        (OURS, "StopMachine", ["poweroff", "web"]),
        (OURS, "StartMachine", ["start", "web"]),
        (OURS, "EnableMachine", ["enable", "web"]),
        (MANAGER, "RemoveImage", ["remove", "web"]),
        (MANAGER, "CloneImage", ["clone", "web", "copy"]),
        (MANAGER, "CleanPool", ["clean"]),
        (MANAGER, "SetPoolLimit", ["set-limit", "1G"]),
    ],
)
def test_what_changes_something_is_never_done_twice(
    manager: Peer, successor: Peer, client: Client, interface: str, member: str, command: list[str]
) -> None:
    manager.on(interface, member, leave)
    result = client(*command)
    assert manager.members()[-1] == member
    assert (result.status, result.out) == (1, "")
    assert GONE in result.err
    assert successor.calls == []


def test_a_wait_goes_on_for_the_rest_of_its_time(
    manager: Peer, successor: Peer, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr("machinectl.wait.time", SimpleNamespace(monotonic=lambda: now[0]))

    def cut_off(*_: object) -> None:
        now[0] += 4
        raise Leaving

    manager.on(OURS, "WaitMachine", cut_off)
    successor.answer(OURS, "WaitMachine", "s", "running")
    assert client("wait", "web", "--timeout=10") == (0, "", "")
    assert manager.calls == [("WaitMachine", ("web", "running", 10_000_000))]
    assert successor.calls == [("WaitMachine", ("web", "running", 6_000_000))]


def test_a_wait_without_limit_stays_without(manager: Peer, successor: Peer, client: Client) -> None:
    manager.on(OURS, "WaitMachine", leave)
    successor.answer(OURS, "WaitMachine", "s", "running")
    assert client("wait", "web") == (0, "", "")
    assert successor.calls == [("WaitMachine", ("web", "running", 0))]
