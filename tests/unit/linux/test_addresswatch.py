# SPDX-License-Identifier: LGPL-2.1-or-later

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable

import pytest

from machined.linux import helper, rtdump
from machined.linux.addresswatch import AddressWatch
from tests.until import until

from .conftest import ROOT, Guest

# Gives the guest's loopback interface these addresses (of its alias lo:2, one after the other).
ADDRESSER = """
import fcntl, os, socket, struct, sys
sys.path.append(sys.argv[1])
from machined.linux import syscalls
fd = os.open(f"/proc/{sys.argv[2]}/ns/net", os.O_RDONLY)
syscalls.setns(fd, syscalls.CLONE_NEWNET)
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    for text in sys.argv[3:]:
        fcntl.ioctl(sock, 0x8916, struct.pack("16sHH4s8x", b"lo:2", 2, 0, socket.inet_aton(text)))
"""


def give(guest: Guest, *addresses: str) -> None:
    """Have these addresses in the guest, the last one for good (0.0.0.0: none)."""
    command = [sys.executable, "-I", "-S", "-c", ADDRESSER, str(ROOT), str(guest.ref.pid), *addresses]
    subprocess.run(command, check=True)


@pytest.fixture
async def watch(guest: Guest) -> AsyncIterator[AddressWatch]:
    give(guest, "0.0.0.0")
    with (await helper.run("netlink", guest.ref, {})).fds as fds:
        made = AddressWatch(socket.socket(fileno=fds.steal(0)))
    yield made
    made.close()


@pytest.fixture
def dumps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each time that the kernel is asked."""
    found: list[int] = []
    real: Callable[..., list[rtdump.Row]] = rtdump.dump

    def dump(sock: socket.socket, outcome: rtdump.Outcome | None = None) -> list[rtdump.Row]:
        found.append(1)
        return real(sock, outcome)

    monkeypatch.setattr(rtdump, "dump", dump)
    return found


async def seen(watch: AddressWatch, *expected: str) -> None:
    await until(lambda: watch.texts() == list(expected))


async def test_changes_show_up(guest: Guest, watch: AddressWatch, dumps: list[int]) -> None:
    assert watch.texts() == ["192.0.2.7"]
    assert watch.texts() == ["192.0.2.7"]
    assert len(dumps) == 1, "the kernel is asked once"
    give(guest, "192.0.2.8")
    await seen(watch, "192.0.2.7", "192.0.2.8")
    give(guest, "0.0.0.0")
    await seen(watch, "192.0.2.7")
    assert len(dumps) == 3


async def test_a_flood_costs_one_wake_up(guest: Guest, watch: AddressWatch, dumps: list[int]) -> None:
    """More changes than the socket has room for."""
    watch.addresses()
    give(guest, *(f"198.51.{n // 250}.{n % 250 + 1}" for n in range(2000)), "192.0.2.9")
    for _ in range(10):
        await asyncio.sleep(0)
    assert len(dumps) == 1
    assert not watch._listening
    assert watch.texts() == ["192.0.2.7", "192.0.2.9"]
    assert watch.texts() == ["192.0.2.7", "192.0.2.9"]
    assert len(dumps) == 2


async def test_a_change_while_it_is_told(
    guest: Guest, watch: AddressWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was told is given out, and asked for again the next time."""
    real = rtdump._receive

    def receive(sock: socket.socket) -> bytes:
        monkeypatch.setattr(rtdump, "_receive", real)
        give(guest, "192.0.2.8")
        return real(sock)

    monkeypatch.setattr(rtdump, "_receive", receive)
    watch.addresses()
    assert watch.texts() == ["192.0.2.7", "192.0.2.8"]


async def test_too_many(watch: AddressWatch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rtdump, "ROWS_MAX", 1)
    assert len(watch.addresses()) <= 1
    assert not watch.usable
