# SPDX-License-Identifier: LGPL-2.1-or-later

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.fakes.roots import Operations
from tests.fakes.sandbox import Sandbox
from tests.fakes.world import World, world


@pytest.fixture(params=[257], ids=["257"])
def version(request: pytest.FixtureRequest) -> int:
    """Of the host's systemd; parametrize it for what differs."""
    return int(request.param)


@pytest.fixture
async def host(sandbox: Sandbox, version: int) -> AsyncIterator[World]:
    """A host with the model on it."""
    async with world(sandbox, version) as made:
        yield made


@pytest.fixture
def operations(host: World, monkeypatch: pytest.MonkeyPatch) -> Operations:
    made = Operations()
    monkeypatch.setattr(host.core.roots, "_workers", made)
    monkeypatch.setattr(host.core.roots, "_removers", made)
    return made
