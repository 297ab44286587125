# SPDX-License-Identifier: LGPL-2.1-or-later

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.fakes.sandbox import Sandbox
from tests.fakes.service import Client, Served, served


@pytest.fixture(params=[257], ids=["257"])
def version(request: pytest.FixtureRequest) -> int:
    """Of the host's systemd; parametrize it for what differs."""
    return int(request.param)


@pytest.fixture
async def service(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, private_bus: str, version: int
) -> AsyncIterator[Served]:
    """The bus half of the daemon on a private bus, between a fake PID 1 and a fake polkit."""
    async with served(sandbox, monkeypatch, private_bus, version) as made:
        yield made


@pytest.fixture
def client(service: Served) -> Client:
    return service.client
