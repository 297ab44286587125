# SPDX-License-Identifier: LGPL-2.1-or-later
"""Users, groups and names of machines, and the rest of varlink: answered as the stock daemon does."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final

from tests.host.boot import Host
from tests.integration.driver import Driver

CALLS: Final = Path(__file__).with_name("name_calls.py")
# What is of one run: processes, the boot, times, and where a machine is of the host's.
_OF_A_RUN: Final = {"pidfdId", "bootId", "timestamp", "supervisor", "id", "pid"}


def answers(host: Host) -> dict[str, Any]:
    """What the calls are answered in a host."""
    host.run(["systemctl", "start", "systemd-machined.service"])
    version = "262" if host.suite == "sid" else "257"
    done = host.run(["python3", "-", version], input=CALLS.read_text(encoding="utf-8"), timeout=300)
    found: dict[str, Any] = json.loads(re.sub(r"\b(N1|PLAIN|VM1|SPARE)\b(?![^\"]*\": )", "0", done.stdout))
    return {call: _plain(answer) for call, answer in found.items()}


def _plain(answer: Any) -> Any:
    if isinstance(answer, dict):
        return {key: _plain(value) for key, value in answer.items() if key not in _OF_A_RUN}
    if isinstance(answer, list):
        return [_plain(item) for item in answer]
    return answer


def test_as_stock(host: Host, managed: Driver) -> None:
    stock, ours = answers(host), answers(managed.host)
    assert len(ours) > 150
    different = {
        call: (stock.get(call), ours.get(call))
        for call in {**stock, **ours}
        if stock.get(call) != ours.get(call)
    }
    assert different == {}


def test_a_guest_with_private_users(managed: Driver, machine: str) -> None:
    """By nss-systemd, which asks our socket, for all programs of the host."""
    managed.ctl("start", machine)
    host = managed.host
    leader = host.run(["machinectl", "show", "-P", "Leader", machine]).stdout.strip()
    shift = int(host.run(["cat", f"/proc/{leader}/uid_map"]).stdout.split()[1])
    assert shift >= 65_536
    passwd = f"vu-{machine}-0:x:{shift}:65534:UID 0 of Container {machine}:/:/usr/sbin/nologin\n"
    for key in (f"vu-{machine}-0", str(shift)):
        assert host.run(["getent", "passwd", key]).stdout == passwd
    for key in (f"vg-{machine}-0", str(shift)):
        assert host.run(["getent", "group", key]).stdout == f"vg-{machine}-0:x:{shift}:\n"
    assert host.run(["ps", "-o", "user:32=", "-p", leader]).stdout.strip() == f"vu-{machine}-0"
    assert host.run(["getent", "passwd", f"vu-{machine}-65536"], check=False).returncode == 2
    manager = ["org.freedesktop.machine1", "/org/freedesktop/machine1", "org.freedesktop.machine1.Manager"]
    shown = host.run(["busctl", "call", *manager, "MapToMachineUser", "u", str(shift + 7)], user="tester")
    path = "/org/freedesktop/machine1/machine/" + machine.replace("-", "_2d")
    assert shown.stdout == f'sou "{machine}" "{path}" 7\n'
    managed.ctl("terminate", machine)
