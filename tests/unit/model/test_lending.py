# SPDX-License-Identifier: LGPL-2.1-or-later
"""Interfaces that are lent: what is noted, held and seen to; how they are fetched is tests/unit/linux's."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from machined.linux import lending as plumbing
from machined.linux import process
from machined.linux.fds import OwnedFd
from machined.linux.lending import Lent
from machined.model import lending
from machined.model.machine import Machine
from machined.model.settings import layers, merge
from machined.model.settings.merge import Effective
from machined.model.stopping import StopLimits, StopMode
from tests.fakes.world import World
from tests.until import until


class Kernel:
    """Instead of the real one: what is looked for, and found."""

    def __init__(self) -> None:
        self.host = {"eth0", "eth1"}
        self.log: list[str] = []

    def look(self, pairs: Sequence[tuple[str, str]]) -> list[Lent]:
        return [Lent(host, inside, 7) for host, inside in pairs if host in self.host]

    def seen(self, namespace: int, lent: Sequence[Lent]) -> list[Lent]:
        os.fstat(namespace)
        return [*lent]

    def left(self, namespace: int, lent: Sequence[Lent]) -> list[Lent]:
        os.fstat(namespace)
        return [link for link in lent if link.host not in self.host]

    def fetch(self, namespace: int, link: Lent) -> str:
        os.fstat(namespace)
        self.log.append(f"fetch {link.host}")
        return link.host

    def recover(self, link: Lent) -> str:
        self.log.append(f"recover {link.host}")
        return link.host


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    made = Kernel()
    for name in ("look", "seen", "left", "fetch", "recover"):
        monkeypatch.setattr(plumbing, name, getattr(made, name))

    def network_of(machine: Machine) -> OwnedFd:
        return OwnedFd(os.open("/", os.O_RDONLY | os.O_CLOEXEC))

    monkeypatch.setattr(lending, "_network_of", network_of)
    return made


def settings(*said: str) -> Effective:
    return merge.merge([layers.from_command_line(said, 257)])


def records() -> list[str]:
    return sorted(os.listdir(lending.RUNTIME)) if lending.RUNTIME.exists() else []


async def test_most_machines_have_none(host: World, kernel: Kernel) -> None:
    await host.core.lending.prepare("web", settings("Boot=yes"))
    assert not host.core.lending.holds("web")
    assert records() == []


async def test_a_machine_that_is_killed(host: World, kernel: Kernel) -> None:
    await host.core.lending.prepare("web", settings("Interface=eth0:lan", "Interface=eth1", "Interface=no"))
    machine, _ = await host.run("web")
    loan = host.core.lending.get("web")
    assert loan is not None
    assert [(link.host, link.inside) for link in loan.links] == [("eth0", "lan"), ("eth1", "eth1")]
    namespace = loan.namespace
    assert namespace is not None
    kernel.host.clear()
    host.ends(machine, failed=True)
    await until(lambda: not host.core.lending.holds("web"))
    assert kernel.log == ["fetch eth0", "fetch eth1"]
    assert namespace.closed
    assert records() == []


async def test_an_end_in_good_order(host: World, kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stop is over when they are looked after."""
    monkeypatch.setattr(process, "handles_signal", lambda pid, signo: True)
    await host.core.lending.prepare("web", settings("Interface=eth0"))
    machine, leader = await host.run("web")
    leader.on_kill = lambda _: host.ends(machine)
    await host.core.lifecycle.stop("web", StopMode.POWEROFF, StopLimits())
    await until(lambda: host.core.jobs.of_machine("web") is None)
    assert not host.core.lending.holds("web")
    assert kernel.log == ["recover eth0"]


async def test_a_reboot_is_another_namespace(host: World, kernel: Kernel) -> None:
    await host.core.lending.prepare("web", settings("Interface=eth0"))
    machine, _ = await host.run("web")
    loan = host.core.lending.get("web")
    assert loan is not None
    before = loan.namespace
    host.core.registrar.unregister(machine)
    await host.register("web")
    assert before is not None
    assert before.closed
    assert loan.namespace is not None


async def test_a_machine_that_does_not_start(host: World, kernel: Kernel) -> None:
    host.sandbox.image("web")
    host.systemd.hooks["start_transient"] = lambda unit, *_: host.systemd.finish(
        host.systemd.last_job(), unit, "failed"
    )
    await host.core.lifecycle.start("web", words=["Interface=lo:lan"])
    await until(lambda: host.core.jobs.of_machine("web") is None)
    assert not host.core.lending.holds("web")
    assert records() == []


@pytest.mark.parametrize("up", [True, False])
async def test_a_daemon_that_starts(host: World, kernel: Kernel, up: bool) -> None:
    if up:
        await host.run("web")
    lending.RUNTIME.mkdir(parents=True)
    link = {"host": "eth0", "inside": "lan", "index": 7, "kind": "", "permanent": "02"}
    (lending.RUNTIME / "web.json").write_text(json.dumps({"links": [link], "seen": True}), encoding="utf-8")
    for name, text in (("bad", "{"), ("worse", '{"links": [1]}'), ("..odd", "{}")):
        (lending.RUNTIME / f"{name}.json").write_text(text, encoding="utf-8")
    host.core.lending.adopt(host.core.registry, lambda name: up)
    if up:
        loan = host.core.lending.get("web")
        await until(lambda: loan is not None and loan.namespace is not None)
        assert kernel.log == []
    else:
        await until(lambda: not host.core.lending.holds("web"))
        assert kernel.log == ["recover eth0"]
        assert "web.json" not in records()


async def test_what_cannot_be_noted_hinders_nobody(
    host: World, kernel: Kernel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(lending, "RUNTIME", tmp_path / "file" / "lent")
    await host.core.lending.prepare("web", settings("Interface=eth0"))
    assert not host.core.lending.holds("web")
