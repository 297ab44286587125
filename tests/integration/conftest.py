# SPDX-License-Identifier: LGPL-2.1-or-later
"""Fixtures of the integration tests: booted hosts, or the reason why there is none."""

from collections.abc import Iterator

import pytest

from tests.host import recipe
from tests.host.boot import Host
from tests.host.probe import why_not


@pytest.fixture(scope="session", params=recipe.SUITES)
def suite(request: pytest.FixtureRequest) -> str:
    """Every suite in turn; a test asks for it through `host`."""
    if (reason := why_not()) is not None:
        pytest.skip(f"no test host on this machine: {reason}")
    return str(request.param)


@pytest.fixture(scope="session")
def host(suite: str) -> Iterator[Host]:
    """A booted host of the suite with the stock systemd-machined, shared by the session."""
    with Host(suite) as host:
        yield host.boot()


@pytest.fixture
def own_host(suite: str) -> Iterator[Host]:
    """A host for one test alone, not booted: to shut down, to cut off, to spoil."""
    with Host(suite) as host:
        yield host
