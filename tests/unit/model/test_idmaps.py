# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which user of the host is which user of a machine."""

from __future__ import annotations

import errno

import pytest

from machined.linux import process
from machined.linux.process import IdMap
from machined.model.idmaps import Kind, is_id
from machined.model.machine import MachineClass
from tests.fakes.world import World

SHIFT = 600_000


class Proc:
    """What /proc says of the leaders: maps by pid, and the namespaces they are in."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.maps: dict[tuple[int, str], IdMap] = {}
        self.namespaces: dict[int, int] = {}
        self.reads = 0
        monkeypatch.setattr(process, "id_map", self._id_map)
        monkeypatch.setattr(process, "namespace_id", self._namespace_id)

    def give(self, pid: int, *lines: tuple[int, int, int]) -> None:
        self.maps[pid, "uid"] = list(lines)
        self.maps[pid, "gid"] = [(inner, outer + 5, count) for inner, outer, count in lines]
        self.namespaces[pid] = pid

    def _id_map(self, pid: int, kind: str) -> IdMap:
        self.reads += 1
        return self.maps[pid, kind]

    def _namespace_id(self, pid: int, kind: str) -> tuple[int, int]:
        if pid not in self.namespaces:
            raise ProcessLookupError(errno.ESRCH, "gone")
        return 4, self.namespaces[pid]


@pytest.fixture
def proc(monkeypatch: pytest.MonkeyPatch) -> Proc:
    return Proc(monkeypatch)


@pytest.mark.parametrize(
    ("number", "good"),
    [
        (0, True),
        (65534, True),
        (65535, False),
        (65536, True),
        (2**32 - 1, False),
        (2**32, False),
        (-1, False),
    ],
)
def test_ids(number: int, good: bool) -> None:
    assert is_id(number) is good


async def test_both_ways(host: World, proc: Proc) -> None:
    machine, leader = await host.register("web")
    proc.give(leader.pid, (0, SHIFT, 1000), (5000, 900_000, 10))
    maps = host.core.idmaps
    assert [maps.outside(machine, Kind.USER, inner) for inner in (0, 999, 1000, 4999, 5000, 5009, 5010)] == [
        SHIFT, SHIFT + 999, None, None, 900_000, 900_009, None,
    ]  # fmt: skip
    assert maps.outside(machine, Kind.GROUP, 7) == SHIFT + 12
    assert maps.inside(Kind.USER, SHIFT + 3) == (machine, 3)
    assert maps.inside(Kind.USER, 900_009) == (machine, 5009)
    assert maps.inside(Kind.GROUP, SHIFT + 3) is None
    assert maps.inside(Kind.USER, SHIFT + 1000) is None


async def test_without_a_namespace_of_its_own(host: World, proc: Proc) -> None:
    machine, leader = await host.register("web")
    proc.give(leader.pid, (0, 0, 2**32 - 1))
    assert host.core.idmaps.outside(machine, Kind.USER, 7) == 7
    assert host.core.idmaps.inside(Kind.USER, 70_000) is None


async def test_what_is_nobodys_number(host: World, proc: Proc) -> None:
    machine, leader = await host.register("web")
    proc.give(leader.pid, (0, 65_000, 70_000))
    with pytest.raises(OSError, match="Invalid argument"):
        host.core.idmaps.outside(machine, Kind.USER, 535)
    with pytest.raises(OSError, match="Invalid argument"):
        host.core.idmaps.inside(Kind.USER, 65_000 + 65_535)


async def test_only_containers_own_users(host: World, proc: Proc) -> None:
    _, leader = await host.register("vm", cls=MachineClass.VM)
    proc.give(leader.pid, (0, SHIFT, 1000))
    assert host.core.idmaps.inside(Kind.USER, SHIFT) is None


async def test_a_map_is_read_once(host: World, proc: Proc) -> None:
    machine, leader = await host.register("web")
    proc.give(leader.pid, (0, SHIFT, 1000))
    for _ in range(5):
        assert host.core.idmaps.inside(Kind.USER, SHIFT) == (machine, 0)
    assert proc.reads == 1


async def test_another_namespace_has_another_map(host: World, proc: Proc) -> None:
    machine, leader = await host.register("web")
    proc.give(leader.pid, (0, SHIFT, 1000))
    assert host.core.idmaps.outside(machine, Kind.USER, 0) == SHIFT
    proc.give(leader.pid, (0, 2 * SHIFT, 1000))
    proc.namespaces[leader.pid] = 1
    assert host.core.idmaps.outside(machine, Kind.USER, 0) == 2 * SHIFT


async def test_a_map_that_is_still_to_be_written(host: World, proc: Proc) -> None:
    machine, leader = await host.register("web")
    proc.give(leader.pid)
    assert host.core.idmaps.outside(machine, Kind.USER, 0) is None
    proc.maps[leader.pid, "uid"] = [(0, SHIFT, 1000)]
    assert host.core.idmaps.outside(machine, Kind.USER, 0) == SHIFT


async def test_a_leader_that_has_gone(host: World, proc: Proc) -> None:
    """It is not asked any more, and does not keep others from being found."""
    gone, leader = await host.register("gone")
    web, other = await host.register("web")
    for process_ in (leader, other):
        proc.give(process_.pid, (0, SHIFT, 1000))
    leader.dead = True
    with pytest.raises(ProcessLookupError):
        host.core.idmaps.outside(gone, Kind.USER, 0)
    assert host.core.idmaps.inside(Kind.USER, SHIFT) == (web, 0)


async def test_nothing_is_kept_of_a_machine_that_is_over(host: World, proc: Proc) -> None:
    machine, leader = await host.register("web")
    proc.give(leader.pid, (0, SHIFT, 1000))
    host.core.idmaps.inside(Kind.USER, SHIFT)
    host.core.registrar.unregister(machine)
    assert host.core.idmaps._known == {}
    assert host.core.idmaps.inside(Kind.USER, SHIFT) is None


async def test_all_that_machines_have(host: World, proc: Proc) -> None:
    """But what begins with the host's root, and what is no container's."""
    one, leader = await host.register("one")
    proc.give(leader.pid, (0, SHIFT, 65536), (65536, SHIFT * 3, 7))
    _, leader = await host.register("two")
    proc.give(leader.pid, (0, 0, 65536))
    await host.register("gone")
    _, leader = await host.register("vm", cls=MachineClass.VM)
    proc.give(leader.pid, (0, SHIFT * 2, 65536))
    expected = [(one, SHIFT, 65536), (one, SHIFT * 3, 7)]
    assert list(host.core.idmaps.ranges(Kind.USER)) == expected
