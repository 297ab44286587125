# SPDX-License-Identifier: LGPL-2.1-or-later
"""Tests that want the machine for themselves, where several workers run tests at a time.

A fixture for all: the others share the machine, and a test with the marker `alone` waits until nobody does.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator

import pytest

from tests.host import cache


@pytest.fixture(autouse=True)
def turn(request: pytest.FixtureRequest) -> Iterator[None]:
    alone = request.node.get_closest_marker("alone") is not None
    locks = cache.directory("locks")
    with (locks / "gate").open("w") as gate, (locks / "machine").open("w") as machine:
        # Who wants it alone waits inside the gate, so that nobody begins meanwhile.
        fcntl.flock(gate, fcntl.LOCK_EX)
        fcntl.flock(machine, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(gate, fcntl.LOCK_UN)
        yield
