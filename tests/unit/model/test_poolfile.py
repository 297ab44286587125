# SPDX-License-Identifier: LGPL-2.1-or-later
"""How large a pool may be, and what the daemon asks of PID 1 to move it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from machined.linux import locks
from machined.linux.locks import FileLock
from machined.linux.overmount import Place
from machined.model import images, poolfile, poolservice, rootrecord
from machined.model.errors import MachineError, Problem, ServiceManagerError
from machined.model.images import UNKNOWN
from machined.model.poolfile import MEBIBYTE, Disk, Kind, PoolState
from machined.model.ports import Unit
from tests.fakes.systemd import UNIT_EXISTS, raising
from tests.fakes.world import World, turns

GIBIBYTE = 1024 * MEBIBYTE
UNIT = poolservice.UNIT


def disk(total: float, free: float) -> Disk:
    return Disk(int(total * GIBIBYTE), int(free * GIBIBYTE), int(free * GIBIBYTE))


def filed(size: float, available: float, ceiling: float = 90, limit: int = UNKNOWN) -> PoolState:
    size, available = int(size * GIBIBYTE), int(available * GIBIBYTE)
    top = int(ceiling * GIBIBYTE)
    return PoolState("/pool", Kind.FILE, "btrfs", size, size - available, available, limit, "/p.raw", 0, top)


# -- sizes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "used", "room", "size"),
    [
        (0, 0, disk(100, 90), 40 * GIBIBYTE),  # half of what may be
        (0, 30 * GIBIBYTE, disk(100, 50), 38529 * MEBIBYTE),  # what is there, and a quarter more
        (256 * MEBIBYTE, 0, disk(100, 90), 256 * MEBIBYTE),
        (256 * MEBIBYTE + 1, 0, disk(100, 90), 257 * MEBIBYTE),
        (80 * GIBIBYTE, 0, disk(100, 90), 80 * GIBIBYTE),
    ],
)
def test_a_size_to_make(wanted: int, used: int, room: Disk, size: int) -> None:
    assert poolfile.size_to_make(wanted, used, room) == size


@pytest.mark.parametrize(
    ("wanted", "used", "room", "problem", "why"),
    [
        (255 * MEBIBYTE, 0, disk(100, 90), Problem.INVALID_ARGS, "255.0M are too small"),
        (GIBIBYTE, GIBIBYTE, disk(100, 90), Problem.INVALID_ARGS, "1.0G are too small: .* needs 1.4G"),
        (81 * GIBIBYTE, 0, disk(100, 90), Problem.LIMITS_EXCEEDED, "may have 80.0G, so that a tenth"),
        (0, 20 * GIBIBYTE, disk(100, 21), Problem.LIMITS_EXCEEDED, "take 20.0G and lie on the disk twice"),
        (0, 0, disk(100, 9), Problem.LIMITS_EXCEEDED, "needs 256.0M, and may have 0B"),
    ],
)
def test_sizes_that_cannot_be_made(wanted: int, used: int, room: Disk, problem: Problem, why: str) -> None:
    with pytest.raises(MachineError, match=why) as caught:
        poolfile.size_to_make(wanted, used, room)
    assert caught.value.problem is problem


def test_a_size_to_grow_to() -> None:
    assert poolfile.size_to_grow(3 * GIBIBYTE, filed(2, 1)) == 3 * GIBIBYTE
    for wanted, now, why in (
        (GIBIBYTE, filed(2, 1), "2.0G already, and cannot be made smaller"),
        (2 * GIBIBYTE, filed(2, 1), "already"),
        (4 * GIBIBYTE, filed(2, 1, ceiling=3), "may have 3.0G"),
        (4 * GIBIBYTE, PoolState("/pool", Kind.DIRECTORY, "ext4", 1, 1, 1), "a plain directory"),
        (4 * GIBIBYTE, PoolState("/pool", Kind.BTRFS, "btrfs", 1, 1, 1), "is not ours to grow"),
    ):
        with pytest.raises(MachineError, match=why):
            poolfile.size_to_grow(wanted, now)


@pytest.mark.parametrize(
    ("needed", "now", "size"),
    [
        (0, filed(10, 1), 0),  # a tenth is free
        (0, filed(10, 0.9), 12.5),  # a quarter more
        (0, filed(2, 0.1), 3),  # 1 GiB at least
        (GIBIBYTE, filed(10, 2), 0),
        (6 * GIBIBYTE, filed(10, 2), 15),  # what is needed, and a tenth
        (0, filed(10, 0.9, ceiling=11), 11),
        (0, filed(10, 0.9, ceiling=9), 0),
        (0, filed(10, 0.9, limit=11 * GIBIBYTE), 11),
        (0, filed(10, 0.9, limit=8 * GIBIBYTE), 0),  # the limit is what is in the way, not the file
        (0, PoolState("/pool", Kind.BTRFS, "btrfs", 100, 99, 1), 0),
    ],
)
def test_a_size_on_demand(needed: int, now: PoolState, size: float) -> None:
    assert poolfile.size_on_demand(needed, now) == int(size * GIBIBYTE)


def test_what_a_directory_is() -> None:
    state = poolfile.state("/proc/self")
    assert (state.kind, state.file_system, state.file, state.limit) == (Kind.DIRECTORY, "proc", "", UNKNOWN)
    with pytest.raises(FileNotFoundError):
        poolfile.state("/nowhere")


# -- one at a time -----------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "pool.lock"
    monkeypatch.setattr(poolfile, "LOCK", path)
    return path


def test_who_moves_the_pool_is_alone(lock: Path) -> None:
    poolfile.check_idle()
    with poolfile.moving():
        for begin in (poolfile.check_idle, poolfile.moving().__enter__):
            with pytest.raises(MachineError, match="is being moved") as caught:
                begin()
            assert caught.value.problem is Problem.JOB_RUNNING
    poolfile.check_idle()
    assert not lock.exists()


def test_names_in_the_making(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "LOCKS", tmp_path / "locks")
    assert poolfile.names_in_the_making() == []
    (tmp_path / "locks").mkdir()
    (tmp_path / "locks/name-stale").touch()
    with FileLock.acquire(str(tmp_path / "locks/name-web")):
        assert locks.holder_conflict(str(tmp_path / "locks/name-web"))
        assert poolfile.names_in_the_making() == ["web"]


# -- moving it, by PID 1 -----------------------------------------------------------------------------------


async def test_it_is_moved_by_a_unit(host: World) -> None:
    work = asyncio.ensure_future(host.core.pool_file.create(GIBIBYTE))
    await turns()
    unit = host.systemd.transient[UNIT]
    assert unit["ExecStart"] == [["poolctl", ["poolctl", "create", str(GIBIBYTE)], False]]
    assert unit["ExecStopPost"] == [["poolctl", ["poolctl", "recover"], False]]
    assert unit["Type"] == "oneshot"
    with pytest.raises(MachineError, match="under way already") as caught:
        await host.core.pool_file.remove()
    assert caught.value.problem is Problem.JOB_RUNNING
    host.systemd.finish(host.systemd.last_job(), UNIT)
    await work
    assert host.systemd.called("reset_failed") == []


@pytest.mark.parametrize(
    ("said", "problem", "text"),
    [
        ("ImageBusy:Image 'x' is in use: by you.", Problem.IMAGE_BUSY, "Image 'x' is in use: by you."),
        ("", Problem.FAILED, "was ended before it was done"),
        ("Copying", Problem.FAILED, "was ended before it was done"),
    ],
)
async def test_what_it_had_to_say(host: World, said: str, problem: Problem, text: str) -> None:
    work = asyncio.ensure_future(host.core.pool_file.remove())
    await turns()
    host.systemd.known[UNIT] = Unit(UNIT, "failed", "failed", "exit-code", said)
    host.systemd.finish(host.systemd.last_job(), UNIT, "failed")
    with pytest.raises(MachineError, match=text) as caught:
        await work
    assert caught.value.problem is problem
    assert host.systemd.called("reset_failed") == [(UNIT,)]


async def test_a_unit_of_before(host: World) -> None:
    """One that runs is waited for by nobody else; one that failed is forgotten."""
    host.systemd.hooks["start_transient"] = raising(UNIT_EXISTS, times=1)
    host.systemd.known[UNIT] = Unit(UNIT, "activating", "start")
    with pytest.raises(MachineError, match="under way already"):
        await host.core.pool_file.create(0)
    host.systemd.hooks["start_transient"] = raising(UNIT_EXISTS, times=1)
    host.systemd.known[UNIT] = Unit(UNIT, "failed", "failed")
    work = asyncio.ensure_future(host.core.pool_file.create(0))
    await turns()
    assert host.systemd.called("reset_failed") == [(UNIT,)]
    host.systemd.finish(host.systemd.last_job(), UNIT)
    await work
    host.systemd.hooks["start_transient"] = raising(ServiceManagerError("x.y", "No room."))
    with pytest.raises(MachineError, match=r"PID 1 does not run .*: No room"):
        await host.core.pool_file.create(0)


async def test_not_while_something_runs(host: World) -> None:
    pool = host.sandbox.pool
    machine, _ = await host.register("web", root_directory=str(pool / "web"))
    with pytest.raises(MachineError, match="Machine 'web' runs from the pool") as caught:
        await host.core.pool_file.create(0)
    assert caught.value.problem is Problem.IMAGE_BUSY
    machine.root_directory = str(rootrecord.RUNTIME / "web")
    with pytest.raises(MachineError, match="Machine 'web' runs from the pool"):
        await host.core.pool_file.create(0)
    # What an unprivileged user claims, and what runs from elsewhere, is in nobody's way.
    machine.uid = 1000
    await host.register("other", root_directory=f"{pool}-other/web")
    work = asyncio.ensure_future(host.core.pool_file.create(0))
    await turns()
    host.systemd.finish(host.systemd.last_job(), UNIT)
    await work
    with poolfile.moving(), pytest.raises(MachineError, match="is being moved"):
        await host.core.pool_file.remove()
    for size in (2**63, 2**64 - 1):
        with pytest.raises(MachineError, match="out of range"):
            await host.core.pool_file.create(size)


async def test_leftovers_are_taken_away_at_the_start(host: World, monkeypatch: pytest.MonkeyPatch) -> None:
    service = host.core.pool_file
    service.begin_recovery()
    await turns()
    assert host.systemd.called("start_transient") == []
    (host.sandbox.root / ".pool.moving").mkdir()
    place = Place.of(str(host.sandbox.pool))
    monkeypatch.setattr(poolfile, "place", lambda: place)
    with poolfile.moving():  # somebody is at it
        service.begin_recovery()
        await turns()
    assert host.systemd.called("start_transient") == []
    service.begin_recovery()
    await turns()
    assert host.systemd.transient[UNIT]["ExecStart"] == [["poolctl", ["poolctl", "recover"], False]]


# -- growing -----------------------------------------------------------------------------------------------


class Grown:
    """In the place of a real file."""

    def __init__(self, host: World, monkeypatch: pytest.MonkeyPatch, now: PoolState) -> None:
        self.sizes: list[int] = []
        monkeypatch.setattr(poolfile, "state", lambda pool: now)
        monkeypatch.setattr(host.core.change_workers, "run", self._run)

    async def _run(self, operation: str, *args: Any) -> None:
        if operation == "machined.linux.loopfile:grow":
            assert args[0] == "/pool"
            self.sizes.append(args[1])


async def test_it_grows(host: World, monkeypatch: pytest.MonkeyPatch) -> None:
    grown = Grown(host, monkeypatch, filed(10, 0.5))
    service = host.core.pool_file
    await service.grow(11 * GIBIBYTE)
    await service.make_room()
    await service.make_room(20 * GIBIBYTE)
    assert grown.sizes == [int(size * GIBIBYTE) for size in (11, 12.5, 30.5)]
    with poolfile.moving():
        for work in (service.grow(12 * GIBIBYTE), service.make_room()):
            with pytest.raises(MachineError, match="is being moved"):
                await work


async def test_a_limit_makes_room_for_itself(host: World, monkeypatch: pytest.MonkeyPatch) -> None:
    grown = Grown(host, monkeypatch, filed(10, 5, ceiling=20))
    for limit in (UNKNOWN, 10 * GIBIBYTE, 0):
        await host.core.pool.set_limit(limit)
    assert grown.sizes == []
    await host.core.pool.set_limit(15 * GIBIBYTE)
    assert grown.sizes == [15 * GIBIBYTE]
    with pytest.raises(MachineError, match="too large: the pool may have 20"):
        await host.core.pool.set_limit(21 * GIBIBYTE)
    assert len(grown.sizes) == 1


async def test_no_room_is_no_reason_to_fail(host: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(pool: str) -> PoolState:
        raise FileNotFoundError(2, "No such file or directory", pool)

    monkeypatch.setattr(poolfile, "state", gone)
    await host.core.pool_file.make_room()
    await host.core.pool_file.fit(GIBIBYTE)
