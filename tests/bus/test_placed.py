# SPDX-License-Identifier: LGPL-2.1-or-later
"""Machines whose tree is named by their settings: known before they run, and to whom what is told."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from dbus_fast import Variant

from machined.bus.connection import RemoteError
from machined.bus.names import ROOT
from tests.fakes.polkit import NO
from tests.fakes.service import OWN_MACHINE, OWN_MANAGER, Served
from tests.until import until

UNIT = "machine-away.service"
UNKNOWN = "org.freedesktop.machine1.NoSuchImage"
MISSING = "org.freedesktop.DBus.Error.FileNotFound"
DENIED = "org.freedesktop.DBus.Error.AccessDenied"


async def do(service: Served, member: str, signature: str = "", *body: Any) -> Any:
    return await service.client.call(member, signature, *body, interface=OWN_MANAGER)


async def refused(service: Served, member: str, signature: str, *body: Any) -> tuple[str, str]:
    with pytest.raises(RemoteError) as raised:
        await do(service, member, signature, *body)
    return raised.value.name, raised.value.text


def write(service: Served, text: str, name: str = "away", file: str = "") -> Path:
    path = service.sandbox.configuration / "machines" / (f"{name}.conf.d/{file}" if file else f"{name}.conf")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def tree(service: Served) -> str:
    """A tree that can be booted, outside of all image directories."""
    image = service.sandbox.image("away")
    return os.fspath(image.rename(service.sandbox.root / "elsewhere"))


async def listed(service: Served) -> list[str]:
    rows = await do(service, "ListAll", "a{sv}", {})
    return [row[0] for row in rows if row[3] == "stopped"]


async def test_it_is_known_before_it_runs(service: Served, tree: str) -> None:
    assert await listed(service) == []
    write(service, f"[Image]\nDirectory={tree}\n")
    assert await listed(service) == ["away"]
    assert await do(service, "GetMachineState", "s", "away") == "stopped"
    assert await do(service, "WaitMachine", "sst", "away", "stopped", 0) == "stopped"
    assert await service.client.get(f"{ROOT}/machine/away", OWN_MACHINE, "State") == "stopped"
    assert await do(service, "DisableMachine", "sa{sv}", "away", {}) == []
    name, text = await refused(service, "StopMachine", "sa{sv}", "away", {})
    assert "not running" in text
    await do(service, "EnableMachine", "sa{sv}", "away", {})
    assert service.pid1.called("EnableUnitFiles")[0][0] == ["machines.target", "machined@away.service"]
    await do(service, "StartMachine", "sa{sv}", "away", {})
    await until(lambda: bool(service.pid1.called("StartTransientUnit")))
    [(name, _, properties)] = service.pid1.called("StartTransientUnit")
    assert name == UNIT
    (command,) = [value for key, _, value in properties if key == "ExecStart"]
    assert f"--directory={tree}" in command[0][1]


async def test_a_change_is_seen(service: Served, tree: str) -> None:
    """In the file and in drop-ins, there and gone again."""
    file = write(service, "[Exec]\nHostname=a\n")
    assert await listed(service) == []
    drop_in = write(service, f"[Image]\nDirectory={tree}\n", file="50-set.conf")
    assert await listed(service) == ["away"]
    drop_in.write_text("[Exec]\nHostname=b\n", encoding="utf-8")
    assert await listed(service) == []
    file.write_text("[Image]\nImage=/dev/nothing\n", encoding="utf-8")
    assert await listed(service) == ["away"]
    file.unlink()
    assert await listed(service) == []
    assert (await refused(service, "WaitMachine", "sst", "away", "running", 1))[0].endswith("NoSuchMachine")


async def test_an_image_counts_once(service: Served) -> None:
    service.sandbox.image("away")
    write(service, "[Image]\nDirectory=/\n")
    assert await listed(service) == ["away"]


async def test_no_image_and_a_tree_on_the_command_line(service: Served, tree: str) -> None:
    for word in ("Hostname=a", "Directory=", "Files.Bind=/:/x", "Director=/"):
        given = {"settings": Variant("as", [word])}
        assert (await refused(service, "StartMachine", "sa{sv}", "away", given))[0] == UNKNOWN
    given = {"settings": Variant("as", [f"Directory={tree}"])}
    await do(service, "StartMachine", "sa{sv}", "away", given)
    await until(lambda: len(service.pid1.called("StartTransientUnit")) == 1)


@pytest.mark.parametrize("there", [True, False])
async def test_others_learn_nothing_of_files(service: Served, tree: str, there: bool) -> None:
    """Whoever may not start it is told just that, whatever is at the place that is named."""
    place = tree if there else "/nowhere"
    given = {"settings": Variant("as", [f"Image.Directory={place}"])}
    service.pretend(1000)
    service.polkit.answer = NO
    assert (await refused(service, "StartMachine", "sa{sv}", "away", given))[0] == DENIED
    write(service, f"[Image]\nDirectory={place}\n")
    assert (await refused(service, "StartMachine", "sa{sv}", "away", {}))[0] == DENIED
    assert (await refused(service, "EnableMachine", "sa{sv}", "away", {}))[0] == DENIED
    assert await listed(service) == ["away"]


async def test_what_is_not_there_is_said_to_who_may(service: Served) -> None:
    write(service, "[Image]\nDirectory=/nowhere\n")
    for member in ("StartMachine", "EnableMachine"):
        name, text = await refused(service, member, "sa{sv}", "away", {})
        assert name == MISSING
        assert "away.conf:2" in text
    assert service.pid1.called("EnableUnitFiles") == []
