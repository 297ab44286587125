# SPDX-License-Identifier: LGPL-2.1-or-later

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Network
from pathlib import Path

import pytest

from machined.model.errors import MachineError, Problem
from machined.model.network import configuration, store
from machined.model.network.addresses import Plan
from machined.model.network.configuration import Configuration
from machined.model.network.ports import Port
from machined.model.network.store import Leases, Nic, Record
from tests.fakes.sandbox import Sandbox

PLAN = Plan(IPv4Network("10.20.30.0/24"), IPv6Network("fd12:3456:789a::/64"))
FULL = Record(
    "one", "02:00:00:00:00:01", "10.20.30.5", "fd12:3456:789a::5", ("10.20.30.9",), ("9.9.9.9",),
    (Port("tcp", 8080, 80), Port("udp", 53, 53, live=True)),
    (Nic("lan0", "vl-1", "br0", 7, "02:00:00:00:00:09", ("10.1.1.1/24",)),),
)  # fmt: skip


@pytest.fixture(autouse=True)
def _sandbox(sandbox: Sandbox) -> None:
    """Nothing of this is the host's."""


def test_records_come_back() -> None:
    assert store.records() == []
    store.write(FULL)
    assert store.read("one") == FULL
    assert store.records() == [FULL]
    store.forget("one")
    store.forget("one")
    assert store.read("one") is None


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"machine": 1}', "\0"])
def test_what_is_broken_is_passed_over(text: str) -> None:
    store.RUNTIME.mkdir(parents=True)
    (store.RUNTIME / "one.machine").write_text(text, encoding="ascii")
    assert store.read("one") is None
    assert store.records() == []
    store.STATE.mkdir(parents=True)
    (store.STATE / "network.json").write_text(text, encoding="ascii")
    assert store.load_leases() == Leases()


def test_leases_come_back() -> None:
    assert store.load_leases() == Leases()
    leases = Leases(PLAN, {"one": IPv4Address("10.20.30.5"), "taken": IPv4Address("10.20.30.6")})
    store.save_leases(leases)
    assert store.load_leases() == leases


def test_what_was_taken_is_forgotten_last() -> None:
    assert store.taken() is None
    store.take({"subnet": "x"})
    store.write(FULL)
    assert store.taken() == {"subnet": "x"}
    store.forget_taken()
    assert store.taken() is None
    assert not store.RUNTIME.exists()


def write(text: str) -> Path:
    configuration.FILE.parent.mkdir(parents=True, exist_ok=True)
    configuration.FILE.write_text(text, encoding="ascii")
    return configuration.FILE


class TestConfiguration:
    def test_none(self) -> None:
        assert configuration.load() == Configuration()

    def test_all(self) -> None:
        write("[Network]\nSubnet=10.1.2.0/24\nPool=10.0.0.0/8\nSubnet6=fd00:1::/64\nFirewall=no\n")
        assert configuration.load() == Configuration(
            IPv4Network("10.1.2.0/24"), IPv4Network("10.0.0.0/8"), IPv6Network("fd00:1::/64"), False
        )

    @pytest.mark.parametrize(
        ("line", "why"),
        [
            ("Subnet=10.1.2.3/24", "must be an IPv4 network"),
            ("Subnet=10.1.2.0/31", "a prefix from /8 to /29"),
            ("Subnet=fd00::/64", "must be an IPv4 network"),
            ("Subnet=127.0.0.0/24", "a network of hosts"),
            ("Pool=10.0.0.0/25", "a prefix from /8 to /24"),
            ("Subnet6=fd00::/48", "a prefix of /64"),
            ("Subnet6=fe80::/64", "a network of hosts"),
            ("Firewall=perhaps", "'yes' or 'no'"),
            ("Colour=red", "unknown '[Network] Colour='"),
        ],
    )
    def test_bad(self, line: str, why: str) -> None:
        path = write(f"# a remark\n[Network]\n{line}\n")
        with pytest.raises(MachineError) as failure:
            configuration.load()
        assert failure.value.problem is Problem.INVALID_SETTINGS
        assert failure.value.text.startswith(f"{path}:3: ")
        assert why in failure.value.text
