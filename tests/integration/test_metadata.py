# SPDX-License-Identifier: LGPL-2.1-or-later
"""What guests tell of themselves is kept, and shows up as soon as it changes in there."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests.integration.driver import UNIT, Driver

pytestmark = pytest.mark.integration


def eventually(says: Callable[[], str], expected: Callable[[str], bool]) -> None:
    """The event is on its way when the command in the guest has ended, and takes no time worth naming."""
    deadline = time.monotonic() + 10
    while not expected(said := says()):
        assert time.monotonic() < deadline, said
        time.sleep(0.05)


def test_changes_in_a_guest_show_up(managed: Driver, fresh_machine: str) -> None:
    name = fresh_machine
    managed.start(name)

    def ours() -> str:
        return managed.ctl("list", "--no-legend", "--max-addresses=all").stdout

    def stock() -> str:
        return managed.stock("list", "--no-legend", "--max-addresses=all").stdout

    assert "debian" in ours()
    managed.guest(name, "ip", "address", "add", "192.0.2.77/24", "dev", "host0")
    for client in (ours, stock):
        eventually(client, lambda said: "192.0.2.77" in said)
    managed.guest(name, "ip", "address", "del", "192.0.2.77/24", "dev", "host0")
    for client in (ours, stock):
        eventually(client, lambda said: "192.0.2.77" not in said)
    managed.guest(
        name, "sh", "-c", "printf 'ID=changed\\nVERSION_ID=7\\n' >/etc/new && mv /etc/new /etc/os-release"
    )
    for client in (ours, stock):
        eventually(client, lambda said: "changed" in said)
    managed.host.run(["systemctl", "restart", UNIT])
    for client in (ours, stock):
        eventually(client, lambda said: "changed" in said and name in said)


def test_a_kept_answer_forks_nobody(managed: Driver, machine: str) -> None:
    managed.start(machine)
    managed.stock("list")
    zygote = managed.host.run(["pgrep", "-P", str(managed.daemon_pid())]).stdout.split()
    assert len(zygote) == 1

    def forks() -> int:
        """The kernel's count of processes, ever."""
        stat = managed.host.run(["cat", "/proc/stat"]).stdout
        return int(next(line for line in stat.splitlines() if line.startswith("processes ")).split()[1])

    before = managed.host.run(["cat", f"/proc/{zygote[0]}/stat"]).stdout.split()
    for _ in range(5):
        managed.stock("list")
    after = managed.host.run(["cat", f"/proc/{zygote[0]}/stat"]).stdout.split()
    # User and system time of the process and of the children it has reaped: nothing was done.
    assert before[13:17] == after[13:17]
    assert forks() > 0


def test_the_end_of_a_machine_gives_everything_back(managed: Driver, machine: str) -> None:
    def held() -> list[str]:
        pid = managed.daemon_pid()
        links = managed.host.run(["sh", "-c", f"readlink /proc/{pid}/fd/*; true"]).stdout.splitlines()
        watches = managed.host.run(
            ["sh", "-c", f"cat /proc/{pid}/fdinfo/* | grep '^inotify wd'"], check=False
        )
        return [*(link.split(":")[0] for link in links), *(["watch"] * len(watches.stdout.splitlines()))]

    managed.start(machine)
    managed.ctl("list")
    running = held()
    assert "watch" in running
    managed.ctl("poweroff", machine)
    managed.wait(machine, "stopped")
    left = held()
    assert left.count("watch") == running.count("watch") - 2
    assert left.count("socket") < running.count("socket")
