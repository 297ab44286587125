# SPDX-License-Identifier: LGPL-2.1-or-later
"""`top`: what it makes of two looks, in which order, and what it says without a terminal."""

from __future__ import annotations

import json

import pytest

from machinectl.top import UNKNOWN, Used, _bytes, _used, ordered

from .conftest import Client
from .fakebus import DBUS_ERROR, OURS, FakeError, Peer

FIRST = [("box", 1_000_000, 4096, 3, 10, UNKNOWN), ("web", 0, 2**31, 100, 0, 0)]
SECOND = [("box", 1_500_000, 8192, 4, 20, UNKNOWN), ("web", 100, 2**31, 100, 0, 5 * 2**20)]


def answers(manager: Peer, looks: int = 2) -> None:
    told = iter([FIRST, *[SECOND] * looks])
    manager.on(OURS, "ListUsage", lambda *_: ("a(sttttt)", (next(told),)))


def test_rates() -> None:
    assert _used("box", FIRST[0][1:], SECOND[0][1:], 2.0) == Used("box", 4, 0.25, 8192, 5.0, None)
    assert _used("box", (), SECOND[0][1:], 2.0) == Used("box", 4, None, 8192, None, None)
    # A machine that has been started again meanwhile counts from nothing.
    assert _used("box", SECOND[0][1:], FIRST[0][1:], 2.0).cpu is None


@pytest.mark.parametrize(
    ("order", "names"),
    [("cpu", "bca"), ("memory", "cba"), ("tasks", "abc"), ("io", "cab"), ("name", "abc")],
)
def test_order(order: str, names: str) -> None:
    rows = [
        Used("a", 9, None, None, 1.0, 1.0), Used("b", 5, 0.5, 1, None, None), Used("c", 5, 0.1, 2, 0.0, 3.0),
    ]  # fmt: skip
    assert "".join(row.machine for row in ordered(rows, order)) == names


@pytest.mark.parametrize(
    ("number", "text"),
    [(None, "-"), (0, "0B"), (1023, "1023B"), (1536, "1.5K"), (2.0**31, "2.0G"), (2.0**52, "4096.0T")],
)
def test_bytes(number: float | None, text: str) -> None:
    assert _bytes(number) == text


def test_a_table(manager: Peer, client: Client) -> None:
    answers(manager)
    status, out, err = client("top", "--delay=50ms", "--order=memory")
    lines = out.splitlines()
    assert (status, err) == (0, "")
    assert lines[0].split() == ["MACHINE", "TASKS", "CPU%", "MEMORY", "READ/S", "WRITTEN/S"]
    assert [line.split()[0] for line in lines[1:3]] == ["web", "box"]
    assert lines[2].split()[3] == "8.0K"
    assert lines[2].split()[5] == "-"
    assert lines[-1] == "2 machines listed."


def test_records_of_some(manager: Peer, client: Client) -> None:
    answers(manager, 3)
    status, out, _ = client("top", "-d", "0.05", "--iterations=3", "-o", "json", "web")
    looks = [json.loads(line) for line in out.splitlines()]
    assert status == 0
    assert [[row["machine"] for row in look] for look in looks] == [["web"]] * 3
    assert looks[0][0]["tasks"] == 100
    assert looks[0][0]["written"] > 0
    assert looks[1][0]["written"] == 0


def test_what_does_not_run(manager: Peer, client: Client) -> None:
    answers(manager)
    status, out, err = client("top", "nothing")
    assert (status, out) == (1, "")
    assert err.startswith("Machine 'nothing' does not run")


@pytest.mark.parametrize("words", [["--delay=0"], ["--delay=2d"], ["--iterations=0"], ["--order=size"]])
def test_bad_words(words: list[str], client: Client) -> None:
    status, out, err = client("top", *words)
    assert (status, out) == (1, "")
    assert err


def test_without_our_manager(manager: Peer, client: Client) -> None:
    def refuse(*_: object) -> None:
        raise FakeError(f"{DBUS_ERROR}UnknownMethod", "Unknown method")

    manager.on(OURS, "ListUsage", refuse)
    status, _, err = client("top")
    assert status == 1
    assert "systemd-cgtop" in err
