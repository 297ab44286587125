# SPDX-License-Identifier: LGPL-2.1-or-later

from __future__ import annotations

import pytest

from machined.model.errors import MachineError, Problem
from machined.model.machine import Machine, MachineClass
from machined.model.names import HOST
from machined.model.registry import Registry
from tests.fakes.process import FakeProcess


def machine(name: str, **more: object) -> Machine:
    return Machine(name, MachineClass.CONTAINER, **more)  # type: ignore[arg-type]


@pytest.fixture
def registry() -> Registry:
    return Registry()


def test_find(registry: Registry) -> None:
    web = machine("web")
    registry.add(web)
    assert registry.find("web") is web
    assert registry.get("db") is None
    with pytest.raises(MachineError, match="No machine 'db' known") as raised:
        registry.find("db")
    assert raised.value.problem is Problem.NO_SUCH_MACHINE


def test_still(registry: Registry) -> None:
    web = machine("web")
    registry.add(web)
    assert registry.still(web) is web
    registry.remove(web)
    registry.add(machine("web"))
    with pytest.raises(MachineError, match="No machine 'web' known"):
        registry.still(web)


def test_by_unit(registry: Registry) -> None:
    first, second, host = (
        machine("a", unit="x.scope"),
        machine("b", unit="x.scope"),
        machine(HOST, unit="-.slice"),
    )
    for one in (first, second, host, machine("c")):
        registry.add(one)
    assert registry.by_unit("x.scope") == [first, second]
    assert registry.by_unit("-.slice") == []
    assert registry.by_unit("") == []


@pytest.mark.parametrize(
    ("leader_id", "asked", "found"), [(5, 5, True), (5, 6, False), (None, 6, True), (5, None, True)]
)
def test_by_leader(registry: Registry, leader_id: int | None, asked: int | None, found: bool) -> None:
    web = machine("web")
    web.set_leader(FakeProcess(10, leader_id))
    registry.add(web)
    gone = machine("gone", leader_pid=12)
    registry.add(gone)
    assert registry.by_leader(FakeProcess(12)) is None, "its leader has gone, this is another process"
    assert registry.by_leader(FakeProcess(10, asked)) is (web if found else None)
    assert registry.by_leader(FakeProcess(11, asked)) is None


def test_the_host_leads_nobody(registry: Registry) -> None:
    registry.add(machine(HOST, leader_pid=1))
    assert registry.by_leader(FakeProcess(1)) is None


def test_reserved(registry: Registry) -> None:
    with registry.reserved("web"):
        with pytest.raises(MachineError, match="Machine 'web' already exists"), registry.reserved("web"):
            pass
        registry.add(machine("web"))
    with pytest.raises(MachineError) as raised, registry.reserved("web"):
        pass
    assert raised.value.problem is Problem.MACHINE_EXISTS
    registry.remove(registry.find("web"))
    with registry.reserved("web"):
        pass


def test_listeners_in_order(registry: Registry) -> None:
    heard: list[str] = []
    registry.on_new += [lambda m: heard.append(f"1 {m.name}"), lambda m: heard.append(f"2 {m.name}")]
    registry.on_removed.append(lambda m: heard.append(f"gone {m.name}"))
    web = machine("web")
    registry.add(web)
    registry.announce(web)
    assert web.started
    registry.remove(web)
    registry.announce_removed(web)
    assert heard == ["1 web", "2 web", "gone web"]


def test_machines_may_go_while_they_are_walked(registry: Registry) -> None:
    for name in ("a", "b", "c"):
        registry.add(machine(name))
    for one in registry:
        registry.remove(one)
    assert len(registry) == 0
