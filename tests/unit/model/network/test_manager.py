# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who gets what when, and gives it back, over a host that is a list of what was done to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from machined.linux import commands, links, listening
from machined.model.errors import MachineError, Problem
from machined.model.images import Image, ImageType
from machined.model.network import dnsmasq, draft, host, store
from machined.model.network.addresses import Plan
from machined.model.network.manager import Networks
from machined.model.network.store import Record
from machined.model.settings import layers, merge
from machined.model.settings.merge import Effective
from tests.fakes.sandbox import Sandbox
from tests.fakes.systemd import FakeServiceManager

SETTINGS = ("Network=managed",)


class FakeHost:
    def __init__(self) -> None:
        self.done: list[str] = []
        self.applied: list[Record] = []
        self.failing = False

    def set_up(self, plan: Plan, server: str) -> None:
        self.done.append("set up")
        store.take({"subnet": str(plan.subnet), "prefix": str(plan.prefix), "server": server})

    def apply(self, plan: Plan, records: Sequence[Record], *, open_firewall: bool) -> list[str]:
        if self.failing:
            raise OSError(5, "nft: no")
        self.applied = list(records)
        self.done.append(f"apply {' '.join(record.machine for record in records)}")
        return []

    def tear_down(self) -> None:
        self.done.append("tear down")
        store.forget_taken()


@pytest.fixture
def fake(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> FakeHost:
    made = FakeHost()
    for name in ("set_up", "apply", "tear_down"):
        monkeypatch.setattr(host, name, getattr(made, name))
    monkeypatch.setattr(draft, "machine_id", lambda: bytes(16))
    monkeypatch.setattr(links, "used_networks", list)
    monkeypatch.setattr(listening, "ports", lambda protocol: {22})
    monkeypatch.setattr(dnsmasq, "program", lambda: "/usr/sbin/dnsmasq")
    monkeypatch.setattr(commands, "is_installed", lambda program: True)
    return made


@pytest.fixture
def systemd() -> FakeServiceManager:
    made = FakeServiceManager()

    def ends(name: str, *_: Any) -> None:
        made.finish(made.last_job(), name)
        made.emit(name, ActiveState="active", SubState="running")

    def stops(name: str, *_: Any) -> None:
        made.finish(made.last_job(), name)
        made.remove(name)

    made.hooks |= {"start_transient": ends, "stop_unit": stops}
    return made


@pytest.fixture
def networks(fake: FakeHost, systemd: FakeServiceManager) -> Networks:
    return Networks(systemd)


def settings(*words: str) -> Effective:
    return merge.merge([layers.from_command_line((*SETTINGS, *words), 257)])


async def prepare(networks: Networks, name: str, *words: str) -> Any:
    image = Image(name, f"/var/lib/machines/{name}", ImageType.DIRECTORY, read_only=False)
    return await networks.prepare(name, image, settings(*words))


async def test_a_start_and_an_end(networks: Networks, fake: FakeHost, systemd: FakeServiceManager) -> None:
    made = await prepare(networks, "web", "Port=8080:80")
    assert made.settings.get("Network", "Bridge") == "machined0"
    assert made.settings.all("Network", "Port") == (), "which are not systemd-nspawn's"
    assert made.settings.get("Network", "MACAddress") == networks.record("web").mac
    assert {"machined-dnsmasq.service", "machined-port-tcp-8080.socket"} <= set(systemd.transient)
    assert networks.holds("web")
    await prepare(networks, "mail")
    assert fake.done[-1] == "apply mail web"
    await networks.release("web")
    assert not networks.holds("web")
    assert fake.done[-1] == "apply mail"
    assert "machined-port-tcp-8080.socket" not in systemd.known
    await networks.release("mail")
    assert fake.done[-1] == "tear down"
    assert "machined-dnsmasq.service" not in systemd.known
    await networks.release("mail")  # nothing more
    assert not store.RUNTIME.exists()


async def test_a_start_that_fails_leaves_nothing(networks: Networks, fake: FakeHost) -> None:
    fake.failing = True
    with pytest.raises(MachineError, match="nft: no"):
        await prepare(networks, "web")
    assert not networks.holds("web")
    assert fake.done[-1] == "tear down"
    assert not store.RUNTIME.exists()


async def test_dnsmasq_that_fails(
    networks: Networks, systemd: FakeServiceManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def words(*_: Any, **__: Any) -> str:
        return "address in use"

    monkeypatch.setattr("machined.model.network.services.last_words", words)
    systemd.hooks["start_transient"] = lambda name, *_: systemd.finish(systemd.last_job(), name, "failed")
    with pytest.raises(MachineError, match="dnsmasq does not serve the managed network: address in use"):
        await prepare(networks, "web")
    assert not networks.holds("web")


async def test_nobody_gives_addresses(networks: Networks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dnsmasq, "program", lambda: None)
    with pytest.raises(MachineError, match="dnsmasq-base") as failure:
        await networks.check("web", settings())
    assert failure.value.problem is Problem.NOT_SUPPORTED
    monkeypatch.setattr(commands, "is_installed", lambda program: False)
    with pytest.raises(MachineError, match="package nftables"):
        await networks.check("web", settings())


async def test_an_old_run_takes_nothing_from_a_new_one(networks: Networks) -> None:
    await prepare(networks, "web")
    old = networks.run("web")
    await networks.release("web")
    await prepare(networks, "web")
    await networks.release("web", old)
    assert networks.holds("web")
    await networks.release("web", networks.run("web"))
    assert networks.run("web") == 0


async def test_publishing(networks: Networks, fake: FakeHost) -> None:
    with pytest.raises(MachineError) as failure:
        await networks.publish("web", "8080:80")
    assert failure.value.problem is Problem.NOT_RUNNING
    await prepare(networks, "web", "Port=8080:80")
    await prepare(networks, "mail")
    assert str(await networks.publish("web", "9000")) == "tcp:9000:9000"
    assert [port.live for port in networks.record("web").ports] == [False, True]
    await networks.publish("web", "tcp:9000:9000")
    assert len(networks.record("web").ports) == 2
    assert store.read("web") == networks.record("web")
    for name, port, why in (
        ("mail", "9000:80", "leads to machine 'web' already"),
        ("mail", "22", "a program of this host"),
        ("mail", "http", "ports from 1 to 65535"),
    ):
        with pytest.raises(MachineError, match=why):
            await networks.publish(name, port)
    # What cannot be done changes nothing.
    before = networks.record("web")
    fake.failing = True
    with pytest.raises(MachineError, match="nft: no"):
        await networks.publish("web", "9001")
    fake.failing = False
    assert networks.record("web") == store.read("web") == before
    with pytest.raises(MachineError, match="it has: tcp:8080:80, tcp:9000:9000"):
        await networks.unpublish("web", "9001")
    with pytest.raises(MachineError):
        await networks.unpublish("web", "9000:1")
    await networks.unpublish("web", "9000")
    assert fake.applied[-1].ports == before.ports[:1]
    await networks.release("web")
    await networks.release("mail")


async def test_after_a_crash(networks: Networks, fake: FakeHost, systemd: FakeServiceManager) -> None:
    await prepare(networks, "web", "Port=8080:80")
    await prepare(networks, "gone", "Port=8081:80")
    await networks.close()
    fake.done.clear()
    again = Networks(systemd)
    again.adopt(lambda name: name == "web")
    assert again.holds("web")
    assert again._adopting is not None
    await again._adopting
    assert fake.done == ["set up", "apply web"]
    assert store.read("gone") is None
    assert "machined-port-tcp-8081.socket" not in systemd.known
    await again.close()
    last = Networks(systemd)
    last.adopt(lambda name: False)
    assert last._adopting is not None
    await last._adopting
    assert fake.done[-1] == "tear down"
    assert not store.RUNTIME.exists()


async def test_nothing_to_take_over(networks: Networks, fake: FakeHost) -> None:
    networks.adopt(lambda name: True)
    await networks.close()
    assert fake.done == []
