# SPDX-License-Identifier: LGPL-2.1-or-later
"""Ten thousand messages of bad manners, from an ordinary user, to everything the daemon listens on.

Afterwards it is the same daemon, no larger, with nothing left over, and nothing has been done. A failure
prints the seed; $MACHINED_FUZZ_SEED runs with another one.
"""

from __future__ import annotations

import pytest

from tests.integration.driver import Driver
from tests.integration.fuzz_lab import FuzzLab

pytestmark = pytest.mark.integration


@pytest.fixture
def fuzzed(managed: Driver, machine: str) -> FuzzLab:
    managed.start(machine)
    return FuzzLab(managed, machine)


def test_as_an_ordinary_user(fuzzed: FuzzLab) -> None:
    # What is made once and kept is made by then: caches, connections, the allocator's own.
    fuzzed.fuzz("busfuzz", 600, first=1_000_000)
    fuzzed.fuzz("varlinkfuzz", 400, first=1_000_000)
    before, load, cursor = fuzzed.same(), fuzzed.quiet(), fuzzed.cursor()
    bus = fuzzed.fuzz("busfuzz", 6000)
    varlink = fuzzed.fuzz("varlinkfuzz", 4000)
    fuzzed.check(before, load, cursor)
    # The fuzz itself got where it should.
    assert bus["members"] > 40
    assert bus["answers"]["ok"] > 100
    assert bus["answers"]["org.freedesktop.DBus.Error.AccessDenied"] > 100
    assert bus["thrown out"] < 1000
    assert any(path.endswith("/machine/io.systemd.Machine") for path in varlink["sockets"])
    assert varlink["answers"]["org.varlink.service.InvalidParameter"] > 100


def test_as_root(fuzzed: FuzzLab) -> None:
    """Arguments are checked for root as well. Nothing that exists is named: it may do all there is."""
    fuzzed.fuzz("busfuzz", 200, first=1_000_000, user=None)
    fuzzed.fuzz("varlinkfuzz", 100, first=1_000_000, user=None)
    before, load, cursor = fuzzed.same(), fuzzed.quiet(), fuzzed.cursor()
    fuzzed.fuzz("busfuzz", 700, user=None)
    fuzzed.fuzz("varlinkfuzz", 300, user=None)
    fuzzed.check(before, load, cursor)
