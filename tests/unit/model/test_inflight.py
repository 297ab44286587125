# SPDX-License-Identifier: LGPL-2.1-or-later
"""Operations under way end when they are done, when what they work on goes, and with who waits for them."""

from __future__ import annotations

import asyncio

import pytest

from machined.model.inflight import InFlight
from tests.fakes.world import turns


class Work:
    """Something that takes until told otherwise."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.ended = ""

    async def do(self) -> str:
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.ended = "cancelled"
            raise
        self.ended = "done"
        return "result"


async def test_a_result_and_an_error() -> None:
    flight, work = InFlight(), Work()
    work.go.set()
    assert await flight.run("web", work.do()) == "result"

    async def fail() -> None:
        raise FileExistsError(17, "there")

    with pytest.raises(FileExistsError):
        await flight.run("web", fail())
    await turns()
    assert not len(flight)


async def test_full() -> None:
    flight, works = InFlight(2), [Work(), Work()]
    tasks = [asyncio.ensure_future(flight.run("web", work.do())) for work in works]
    await turns()
    assert flight.full
    works[0].go.set()
    assert await tasks[0] == "result"
    assert len(flight) == 1
    await flight.close()
    assert await tasks[1] is None


async def test_the_end_of_what_it_works_on() -> None:
    flight, here, elsewhere = InFlight(), Work(), Work()
    ours, other = object(), object()
    first = asyncio.ensure_future(flight.run(ours, here.do()))
    second = asyncio.ensure_future(flight.run(other, elsewhere.do()))
    await turns()
    flight.end_of(ours)
    assert await first is None
    assert (here.ended, elsewhere.ended) == ("cancelled", "")
    elsewhere.go.set()
    assert await second == "result"


async def test_who_waits_leaves() -> None:
    flight, work = InFlight(), Work()
    task = asyncio.ensure_future(flight.run("web", work.do()))
    await turns()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (work.ended, len(flight)) == ("cancelled", 0)
