# SPDX-License-Identifier: LGPL-2.1-or-later

from __future__ import annotations

import pytest

from machined.model import autostart
from machined.model.errors import MachineError, Problem
from tests.fakes.sandbox import Sandbox
from tests.fakes.systemd import NO_REPLY, FakeServiceManager, raising

OURS = ("symlink", "/etc/systemd/system/machines.target.wants/machined@web.service", "/x")
TARGET = ("symlink", "/etc/systemd/system/multi-user.target.wants/machines.target", "/y")
GONE = ("unlink", "/etc/systemd/system/machines.target.wants/machined@web.service", "")


@pytest.fixture
def systemd() -> FakeServiceManager:
    return FakeServiceManager()


def want(sandbox: Sandbox, unit: str, place: int = 0) -> None:
    (sandbox.wants[place] / unit).symlink_to("/nowhere")


def test_who_is_enabled(sandbox: Sandbox) -> None:
    want(sandbox, "machined@web.service")
    want(sandbox, "machined@db.service", 1)
    want(sandbox, "systemd-nspawn@other.service")
    assert autostart.enabled_names() == {"web", "db"}
    assert autostart.is_enabled("web")
    assert not autostart.is_enabled("other")


async def test_enable(sandbox: Sandbox, systemd: FakeServiceManager) -> None:
    systemd.changes = [OURS]
    assert await autostart.enable("web", systemd) == [OURS]
    assert systemd.calls == [("enable_units", ("machines.target", "machined@web.service")), ("reload",)]
    assert not sandbox.mark.exists(), "the target was enabled before us"


async def test_the_target_is_marked_when_it_was_us(sandbox: Sandbox, systemd: FakeServiceManager) -> None:
    systemd.changes = [TARGET, OURS]
    await autostart.enable("web", systemd)
    assert sandbox.mark.exists()


async def test_enabled_already(sandbox: Sandbox, systemd: FakeServiceManager) -> None:
    assert await autostart.enable("web", systemd) == []
    assert systemd.called("reload") == [], "nothing has changed"


async def test_enabled_with_the_stock_template(sandbox: Sandbox, systemd: FakeServiceManager) -> None:
    """Both would start the same image at boot."""
    want(sandbox, "systemd-nspawn@web.service")
    with pytest.raises(MachineError, match=r"systemctl disable systemd-nspawn@web\.service") as raised:
        await autostart.enable("web", systemd)
    assert raised.value.problem is Problem.FILE_EXISTS
    assert systemd.calls == []


async def test_disable_takes_back_what_enable_did(sandbox: Sandbox, systemd: FakeServiceManager) -> None:
    systemd.changes = [TARGET, OURS]
    await autostart.enable("web", systemd)
    want(sandbox, "machined@web.service")
    systemd.changes = [GONE]
    assert await autostart.disable("web", systemd) == [GONE]
    assert systemd.called("disable_units") == [(("machined@web.service", "machines.target"),)]
    assert not sandbox.mark.exists()
    assert len(systemd.called("reload")) == 2


@pytest.mark.parametrize("other", ["machined@db.service", "systemd-nspawn@db.service"])
async def test_the_target_stays_while_others_want_it(
    sandbox: Sandbox, systemd: FakeServiceManager, other: str
) -> None:
    sandbox.mark.parent.mkdir()
    sandbox.mark.touch()
    want(sandbox, "machined@web.service")
    want(sandbox, other)
    await autostart.disable("web", systemd)
    assert systemd.called("disable_units") == [(("machined@web.service",),)]
    assert sandbox.mark.exists()


async def test_a_target_that_was_enabled_before_us_stays(
    sandbox: Sandbox, systemd: FakeServiceManager
) -> None:
    want(sandbox, "machined@web.service")
    await autostart.disable("web", systemd)
    assert systemd.called("disable_units") == [(("machined@web.service",),)]


async def test_the_mark_stays_when_pid_1_refuses(sandbox: Sandbox, systemd: FakeServiceManager) -> None:
    sandbox.mark.parent.mkdir()
    sandbox.mark.touch()
    systemd.hooks["disable_units"] = raising(NO_REPLY)
    with pytest.raises(type(NO_REPLY)):
        await autostart.disable("web", systemd)
    assert sandbox.mark.exists()
