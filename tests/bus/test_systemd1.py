# SPDX-License-Identifier: LGPL-2.1-or-later
"""How PID 1 is spoken to and listened to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from machined.bus import systemd1 as module
from machined.bus.connection import DBUS, DBUS_PATH, Bus
from machined.bus.systemd1 import NAME, Systemd1
from machined.model.errors import ServiceManagerError
from machined.model.ports import Unit, UnitProperty
from tests.fakes.systemd1 import FakeSystemd1


@pytest.fixture
async def pid1(private_bus: str) -> AsyncIterator[FakeSystemd1]:
    fake = FakeSystemd1(await Bus.connect_to(private_bus), 257)
    await fake.own()
    yield fake
    await fake.close()


@pytest.fixture
async def systemd(private_bus: str, pid1: FakeSystemd1) -> AsyncIterator[Systemd1]:
    bus = await Bus.connect_to(private_bus)
    systemd = Systemd1(bus)
    bus.on_signal = systemd.handle_signal
    await systemd.start()
    yield systemd
    bus.close()


async def test_start(pid1: FakeSystemd1, systemd: Systemd1) -> None:
    assert systemd.version == 257
    assert pid1.called("Subscribe") == [()]


async def test_no_pid_1(private_bus: str) -> None:
    bus = await Bus.connect_to(private_bus)
    with pytest.raises(ServiceManagerError):
        await Systemd1(bus).start()
    bus.close()


async def test_unit(pid1: FakeSystemd1, systemd: Systemd1) -> None:
    assert await systemd.unit("a-b.service") == Unit("a-b.service", result="success")
    pid1.emit(
        "a-b.service", ActiveState="activating", SubState="auto-restart", StatusText="x", ExecMainStatus=133
    )
    unit = await systemd.unit("a-b.service")
    assert unit == Unit("a-b.service", "activating", "auto-restart", "success", "x", 133)
    assert unit.is_up
    pid1.emit("a.scope", ActiveState="failed")
    assert not (await systemd.unit("a.scope")).is_up
    assert [u.name for u in await systemd.units(["*"])] == ["a-b.service", "a.scope"]


async def test_events(pid1: FakeSystemd1, systemd: Systemd1) -> None:
    heard: asyncio.Queue[tuple[object, ...]] = asyncio.Queue()
    systemd.on_unit_changed = lambda unit, changed: heard.put_nowait(("changed", unit, changed))
    systemd.on_unit_removed = lambda unit: heard.put_nowait(("removed", unit))
    systemd.on_job_removed = lambda *args: heard.put_nowait(("job", *args))
    systemd.on_reloaded = lambda: heard.put_nowait(("reloaded",))
    pid1.emit("a-b.service", ActiveState="active", StatusText="x")
    pid1.remove("a-b.service")
    pid1.finish("a-b.service", "canceled", f"{module.PATH}/job/9")
    pid1.dispatcher.emit(module.PATH, pid1.manager, "Reloading", True)
    pid1.dispatcher.emit(module.PATH, pid1.manager, "Reloading", False)
    async with asyncio.timeout(10):
        assert [await heard.get() for _ in range(5)] == [
            ("changed", "a-b.service", {"ActiveState": "active"}),
            ("changed", "a-b.service", {"StatusText": "x"}),
            ("removed", "a-b.service"),
            ("job", f"{module.PATH}/job/9", "a-b.service", "canceled"),
            ("reloaded",),
        ]


async def test_jobs(pid1: FakeSystemd1, systemd: Systemd1) -> None:
    pid1.emit("a.service", ActiveState="active")
    job = await systemd.stop_unit("a.service", "replace")
    assert await systemd.job_exists(job)
    waiting = asyncio.ensure_future(systemd.job_result(job))
    pid1.finish("a.service")
    assert await waiting == "done"
    assert not await systemd.job_exists(job)
    assert await systemd.job_result(job) == "done", "known afterwards too"


async def test_two_wait_and_one_gives_up(pid1: FakeSystemd1, systemd: Systemd1) -> None:
    job = await systemd.start_unit("a.service", "replace")
    first, second = (asyncio.ensure_future(systemd.job_result(job)) for _ in "ab")
    await asyncio.sleep(0)
    first.cancel()
    pid1.finish("a.service", "failed")
    assert await second == "failed"


async def test_results_are_not_kept_for_ever(
    pid1: FakeSystemd1, systemd: Systemd1, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "KEPT_RESULTS", 2)
    over = asyncio.Event()
    systemd.on_job_removed = lambda job, unit, result: over.set() if job.endswith("/5") else None
    for number in range(1, 6):
        pid1.finish("a.service", job=f"{module.PATH}/job/{number}")
    await over.wait()
    assert [job.rpartition("/")[2] for job in systemd._results] == ["4", "5"]


async def test_transient(pid1: FakeSystemd1, systemd: Systemd1) -> None:
    with open("/dev/null", "rb") as null:  # noqa: ASYNC230 - not a file that could block
        await systemd.start_transient(
            "a.scope",
            [UnitProperty("PIDFDs", "ah", [0]), UnitProperty("Delegate", "b", True)],
            [null.fileno()],
        )
    assert pid1.called("StartTransientUnit") == [
        ("a.scope", "fail", [("PIDFDs", "ah", [0]), ("Delegate", "b", True)])
    ]
    assert pid1.fd_targets == ["/dev/null"]


async def test_errors_keep_their_names(pid1: FakeSystemd1, systemd: Systemd1) -> None:
    with pytest.raises(ServiceManagerError) as raised:
        await systemd.stop_unit("gone.service", "fail")
    assert raised.value.name == "org.freedesktop.systemd1.NoSuchUnit"
    assert raised.value.is_missing_unit()


async def test_no_answer(pid1: FakeSystemd1, systemd: Systemd1, monkeypatch: pytest.MonkeyPatch) -> None:
    async def request(*args: object, **more: object) -> None:
        raise TimeoutError

    monkeypatch.setattr(systemd._bus, "request", request)
    with pytest.raises(ServiceManagerError) as raised:
        await systemd.unit("a.service")
    assert raised.value.is_no_answer()


async def test_pid_1_executes_itself_anew(private_bus: str, pid1: FakeSystemd1, systemd: Systemd1) -> None:
    """A new connection owns the name: subscribe again, look at everything, and listen to it alone."""
    reloaded = asyncio.Event()
    systemd.on_reloaded = reloaded.set
    await pid1.bus.request(DBUS, DBUS_PATH, DBUS, "ReleaseName", "s", [NAME])
    again = FakeSystemd1(await Bus.connect_to(private_bus), 257)
    await again.own()
    async with asyncio.timeout(10):
        await reloaded.wait()
    assert again.called("Subscribe") == [()]
    heard: asyncio.Queue[str] = asyncio.Queue()
    systemd.on_unit_removed = heard.put_nowait
    pid1.remove("old.service")
    again.remove("new.service")
    assert await heard.get() == "new.service"
    assert heard.empty()
    await again.close()
