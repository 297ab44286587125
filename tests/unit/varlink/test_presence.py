# SPDX-License-Identifier: LGPL-2.1-or-later
"""Noticing that a peer leaves while something is done for it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import pytest

from machined.varlink.presence import PeerLostError, while_there
from tests.settled import descriptors


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    yield ours, theirs
    ours.close()
    theirs.close()


async def test_the_result(pair: tuple[socket.socket, socket.socket]) -> None:
    async def work() -> int:
        await asyncio.sleep(0)
        return 7

    before = descriptors()
    assert await while_there(pair[0], work()) == 7
    assert descriptors() == before


async def test_what_is_raised(pair: tuple[socket.socket, socket.socket]) -> None:
    async def work() -> None:
        await asyncio.sleep(0)
        raise LookupError("x")

    with pytest.raises(LookupError):
        await while_there(pair[0], work())


async def test_leaving(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    cancelled = asyncio.Event()

    async def work() -> None:
        theirs.send(b"more to read")
        theirs.close()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async with asyncio.timeout(10):
        with pytest.raises(PeerLostError):
            await while_there(ours, work())
    assert cancelled.is_set()
    assert ours.recv(100) == b"more to read", "it was not read on the way"


async def test_who_only_stops_sending_is_there(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    theirs.shutdown(socket.SHUT_WR)

    async def work() -> int:
        await asyncio.sleep(0.05)
        return 7

    assert await while_there(ours, work()) == 7


async def test_our_own_end(pair: tuple[socket.socket, socket.socket]) -> None:
    started, cancelled = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    task = asyncio.ensure_future(while_there(pair[0], work()))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert cancelled.is_set()
