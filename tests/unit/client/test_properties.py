# SPDX-License-Identifier: LGPL-2.1-or-later
"""`set-property`: the call it makes and what it says."""

from __future__ import annotations

from typing import Any

import pytest

from machinectl import keys, limits
from machinectl.completions import script
from machined.model.settings import section_service, table

from .conftest import Client
from .fakebus import DBUS_ERROR, OURS, FakeError, Peer

NOTHING: tuple[list[str], list[str], list[tuple[str, str, str]]] = ([], [], [])


def answers(manager: Peer, told: tuple[Any, ...]) -> None:
    manager.on(OURS, "SetMachineProperties", lambda *_: ("asasa(sss)", told))


def test_calls(manager: Peer, client: Client) -> None:
    answers(manager, NOTHING)
    assert client("set-property", "box", "MemoryMax=2G", "CPUQuota=") == (0, "", "")
    assert client("set-property", "--runtime", "box", "DeviceAllow+=/dev/kvm rw") == (0, "", "")
    assert manager.calls == [
        ("SetMachineProperties", ("box", ["MemoryMax=2G", "CPUQuota="], {})),
        ("SetMachineProperties", ("box", ["DeviceAllow+=/dev/kvm rw"], {"runtime": ("b", True)})),
    ]


def test_what_is_said(manager: Peer, client: Client) -> None:
    answers(manager, (["/f"], ["Nice", "Slice"], [("warning", "/etc/x:3", "This\x1b[0m.")]))
    done = client("set-property", "box", "Nice=5", "Slice=a.slice")
    assert done == (
        0, "", "/etc/x:3: This[0m.\nMachine 'box' runs without Nice=, Slice= until it is started again.\n"
    )  # fmt: skip
    assert client("set-property", "-q", "box", "Nice=5") == (0, "", "")


@pytest.mark.parametrize("line", ["box", "box MemoryMax", "box =5", "a/b TasksMax=5", ""])
def test_bad_arguments_get_nowhere(manager: Peer, client: Client, line: str) -> None:
    done = client("set-property", *line.split())
    assert (done.status, done.out, manager.calls) == (1, "", [])
    assert done.err


def test_failures(manager: Peer, client: Client) -> None:
    manager.fail(OURS, "SetMachineProperties", f"{DBUS_ERROR}InvalidArgs", "Nothing was done:\n  no")
    done = client("set-property", "box", "TasksMax=0")
    assert done == (1, "", "Could not set properties of machine 'box': Nothing was done:\n  no\n")

    def stock(*_: Any) -> None:
        raise FakeError(f"{DBUS_ERROR}UnknownInterface", "Unknown interface")

    manager.on(OURS, "SetMachineProperties", stock)
    done = client("set-property", "box", "TasksMax=5")
    assert done.status == 1
    assert "'systemctl set-property systemd-nspawn@box.service …'" in done.err


def test_completion_offers_what_there_is() -> None:
    assert set(limits.USUAL) <= set(section_service.BY_KEY)
    assert set(keys.KEYS) == {setting.key for setting in table.SETTINGS}
    for shell in ("bash", "zsh"):
        assert "MemoryMax=" in script(shell)
        assert "PrivateUsersOwnership=" in script(shell)
