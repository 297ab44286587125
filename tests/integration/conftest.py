# SPDX-License-Identifier: LGPL-2.1-or-later
"""Fixtures of the integration tests: booted hosts, or the reason why there is none."""

import os
from collections.abc import Iterator

import pytest

from tests.host import layer, recipe, vm
from tests.host.boot import Host
from tests.host.client import client_host
from tests.host.probe import why_not
from tests.host.vm import VirtualMachine
from tests.integration.both_clients import DAEMONS, BothClients
from tests.integration.configured import Configured
from tests.integration.driver import Driver, unique_name
from tests.integration.pair import Pair, Side
from tests.integration.turns import turn  # noqa: F401


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Of what hardly makes a difference one is tried, unless $MACHINED_BOTH wants more."""
    if os.environ.get("MACHINED_BOTH"):
        return
    left_out = [item for item in items if _is_left_out(item)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if not _is_left_out(item)]


def _is_left_out(item: pytest.Item) -> bool:
    if item.get_closest_marker("variation") is not None:
        return True
    mark, call = item.get_closest_marker("either"), getattr(item, "callspec", None)
    return mark is not None and call is not None and call.params.get("suite", mark.args[0]) != mark.args[0]


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


@pytest.fixture(scope="session")
def machined_host(suite: str) -> Iterator[Host]:
    """A booted host of the suite with machined installed from this source tree, shared by the session."""
    with layer.machined_host(suite) as host:
        yield host.boot()


@pytest.fixture(scope="session")
def managed(machined_host: Host) -> Driver:
    """The session's host with machined, with a driver in front."""
    return Driver(machined_host)


@pytest.fixture(scope="session")
def virtual() -> Iterator[VirtualMachine]:
    """A virtual machine with machined installed, and a network card; its boot takes minutes."""
    if (reason := why_not() or vm.why_not()) is not None:
        pytest.skip(reason)
    with VirtualMachine("trixie", layer=layer.with_machined("trixie"), nic=True) as machine:
        yield machine.boot()
        machine.shutdown()


@pytest.fixture(scope="session", params=DAEMONS)
def clients(suite: str, request: pytest.FixtureRequest) -> Iterator[BothClients]:
    """Our client and systemd's in front of one daemon, with a guest that runs and settings for three."""
    ours_serves = request.param == "machined"
    with layer.machined_host(suite) if ours_serves else client_host(suite) as host:
        both = BothClients(host.boot(), ours_serves=ours_serves)
        both.prepare()
        yield both


@pytest.fixture
def own_managed(suite: str) -> Iterator[Driver]:
    """A host with machined installed for one test alone, not booted."""
    with layer.machined_host(suite) as host:
        yield Driver(host)


@pytest.fixture
def machine(managed: Driver) -> Iterator[str]:
    """The name of a bootable image; nothing of what the test does may be left.

    The tree goes from test to test: a test that changes what is in it takes `fresh_machine`.
    """
    name = unique_name()
    before = managed.host.snapshot()
    managed.take_guest(name)
    yield name
    managed.clear(name)
    managed.give_back_guest(name)
    assert managed.host.left_behind(before) == []


@pytest.fixture
def fresh_machine(managed: Driver) -> Iterator[str]:
    """As `machine`, with a tree of its own."""
    name = unique_name()
    before = managed.host.snapshot()
    managed.host.add_guest(name)
    yield name
    managed.remove(name)
    assert managed.host.left_behind(before) == []


@pytest.fixture
def box(managed: Driver, machine: str) -> Iterator[Configured]:
    yield from Configured(managed, machine).lifetime()


@pytest.fixture(scope="session")
def pair(suite: str) -> Iterator[Pair]:
    """Two booted hosts of the suite, stock and ours, each with the guest running; of the session."""
    with Host(suite) as plain, layer.machined_host(suite) as installed:
        pair = Pair(Side(plain, ours=False), Side(installed, ours=True))
        for side in pair:
            side.host.boot()
            side.add_common_guest()
            side.sh("networkctl reload")
            side.up()
        yield pair


@pytest.fixture(params=["stock", "ours"])
def side(pair: Pair, request: pytest.FixtureRequest) -> Side:
    """Either of them: what is asserted has to hold on both."""
    return pair.ours if request.param == "ours" else pair.stock
