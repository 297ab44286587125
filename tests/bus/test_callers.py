# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who calls is asked of the bus once for each connection."""

from __future__ import annotations

import asyncio
import os

import pytest

from machined.bus import callers as module
from machined.bus.callers import Callers, Credentials
from machined.bus.connection import Bus
from machined.model.errors import MachineError, Problem
from tests.fakes.service import Served
from tests.settled import descriptors
from tests.until import until


@pytest.fixture
def queries(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names that the bus was asked about."""
    found: list[str] = []
    real = Callers._query

    async def query(callers: Callers, sender: str) -> Credentials:
        found.append(sender)
        return await real(callers, sender)

    monkeypatch.setattr(Callers, "_query", query)
    return found


@pytest.fixture
def callers(service: Served) -> Callers:
    return service.service.dispatcher._callers


async def privileged_call(service: Served) -> None:
    await service.client.call("KillMachine", "ssi", "web", "leader", 15)


async def test_asked_once(service: Served, queries: list[str]) -> None:
    await service.machine("web")
    await asyncio.gather(*(privileged_call(service) for _ in range(5)))
    await privileged_call(service)
    assert queries == [service.client.bus.unique_name]


async def test_forgotten_when_it_leaves(service: Served, callers: Callers) -> None:
    await service.machine("web")
    other = await service.connect()
    name = other.bus.unique_name
    assert name is not None
    await other.call("KillMachine", "ssi", "web", "leader", 15)
    assert callers.known(name) is not None
    other.bus.close()
    await until(lambda: callers.known(name) is None)
    assert name not in callers._pinned


async def test_one_who_leaves_while_it_is_asked(service: Served, callers: Callers) -> None:
    """Nobody would tell again that it has left: what is kept for it would be kept for good."""
    other = await service.connect()
    name = other.bus.unique_name
    assert name is not None
    before = len(descriptors())
    asked = asyncio.ensure_future(callers.credentials(name))
    await asyncio.sleep(0)
    callers.left(name)
    assert (await asked).uid == os.geteuid()
    assert callers.known(name) is None
    assert name not in callers._pinned
    assert len(descriptors()) == before
    assert not callers._left


async def test_the_process(service: Served, callers: Callers, queries: list[str]) -> None:
    name = service.client.bus.unique_name
    assert name is not None
    for _ in range(2):
        with await callers.process(name) as process:
            assert process.pid == os.getpid()
            assert process.alive()
    assert queries == [name]


async def test_pinned_processes_are_bounded(
    service: Served, callers: Callers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PINNED", 2)
    monkeypatch.setattr(module, "REMEMBERED", 3)
    clients = [await service.connect() for _ in range(6)]
    before = len(descriptors())
    for client in clients:
        assert client.bus.unique_name is not None
        (await callers.process(client.bus.unique_name)).close()
    assert len(descriptors()) <= before + 2
    assert len(callers._known) == 3
    await callers.close()
    assert len(descriptors()) == before


async def test_one_who_has_left(private_bus: str) -> None:
    bus = await Bus.connect_to(private_bus)
    callers = Callers(bus)
    try:
        with pytest.raises(MachineError, match="cannot be told any more") as caught:
            await callers.credentials(":1.99999")
        assert caught.value.problem is Problem.ACCESS_DENIED
    finally:
        await callers.close()
        bus.close()
