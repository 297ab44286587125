# SPDX-License-Identifier: LGPL-2.1-or-later
"""The pool is moved, and somebody or everybody is killed on the way: what is there is whole."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration import pools
from tests.integration.driver import OURS, Driver
from tests.integration.pools import (
    POOL,
    STAGING,
    UNIT,
    go,
    held,
    is_filed,
    is_plain,
    listing,
    reached,
    refused,
    told,
    until,
)  # fmt: skip

pytestmark = [pytest.mark.integration, pytest.mark.either("trixie")]

POINTS = {
    "create-copying": (["create", "--size=1G"], "/usr/bin/cp", "*"),
    "create-mounting": (["create", "--size=1G"], "/usr/bin/mount", f"*{POOL}"),
    "remove-copying": (["remove"], "/usr/bin/cp", "*"),
    "remove-unmounting": (["remove"], "/usr/bin/sync", "*"),
}


@pytest.fixture
def pool(own_managed: Driver) -> Iterator[Driver]:
    with pools.booted(own_managed) as driver:
        yield driver


def other(point: str) -> object:
    """For the other test alone: each moment is tried in one of both ways."""
    return pytest.param(point, marks=pytest.mark.variation)


def prepared(pool: Driver, point: str) -> tuple[list[str], bool]:
    """What is there before, and whether that is in a file."""
    if point.startswith("remove"):
        pool.ctl("pool", "create", "--size=1G")
    return listing(pool), point.startswith("remove")


def is_as_before(pool: Driver, before: list[str], filed: bool) -> None:
    assert is_filed(pool) if filed else is_plain(pool)
    assert listing(pool) == before
    assert told(pool)["type"] == ("file" if filed else "directory")


@pytest.mark.parametrize(
    "point", ["create-mounting", "remove-copying", other("create-copying"), other("remove-unmounting")]
)
def test_the_program_is_killed(pool: Driver, point: str) -> None:
    words, program, pattern = POINTS[point]
    before, filed = prepared(pool, point)
    with held(pool.host, program, pattern), pool.background([OURS, "pool", *words]) as client:
        reached(pool.host)
        pool.host.run(["kill", "-KILL", pool.unit_property(UNIT, "MainPID")])
        _, errors = client.communicate(timeout=60)
        assert client.returncode == 1
        assert "ended before it was done" in errors
        is_as_before(pool, before, filed)
    pool.start("g1")
    pool.ctl("poweroff", "g1")
    # And it can be had after all.
    pool.ctl("pool", *words)
    assert is_plain(pool) if filed else is_filed(pool)


@pytest.mark.parametrize(
    "point", ["create-copying", "remove-unmounting", other("create-mounting"), other("remove-copying")]
)
def test_the_power_fails(pool: Driver, point: str) -> None:
    words, program, pattern = POINTS[point]
    before, filed = prepared(pool, point)
    with held(pool.host, program, pattern), pool.background([OURS, "pool", *words]):
        reached(pool.host)
        pool.host.reboot()
    assert pool.host.path(STAGING).is_dir()
    pool.host.run(["systemctl", "restart", "systemd-machined.service"])
    until(pool, f"[ ! -e {STAGING} ]")
    is_as_before(pool, before, filed)
    pool.start("g1")


def test_the_daemon_is_killed(pool: Driver) -> None:
    """The pool goes on being moved, and until that is done nothing else is."""
    before = listing(pool)
    words, program, pattern = POINTS["create-copying"]
    with held(pool.host, program, pattern):
        with pool.background([OURS, "pool", *words]) as client:
            reached(pool.host)
            pool.host.run(["kill", "-KILL", str(pool.daemon_pid())])
            _, errors = client.communicate(timeout=60)
        assert client.returncode == 1
        assert "What was begun goes on" in errors
        assert told(pool)["type"] == "directory"
        assert "being moved" in refused(pool, "pool", "remove")
        assert "being moved" in refused(pool, "pool", "grow", "2G")
        assert "in use" in refused(pool, "start", "g1")
        assert refused(pool, "remove", "g1")
        go(pool.host, program)
        until(pool, f"[ $(systemctl show -P ActiveState {UNIT}) = inactive ]")
    assert is_filed(pool)
    assert listing(pool) == before
    pool.start("g1")
