# SPDX-License-Identifier: LGPL-2.1-or-later
"""Images by the stock programs: what they are answered is what systemd-machined of the same host answers."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.host.boot import Host
from tests.integration import image_calls
from tests.integration.driver import NAME, ROOT, Driver
from tests.integration.image_steps import BTRFS, BTRFS_SETUP, PLAIN, PLAIN_SETUP

VARLINK = "/run/systemd/machine/io.systemd.Machine"


@pytest.fixture(params=["directories", "btrfs"])
def script(request: pytest.FixtureRequest) -> tuple[str, str]:
    """What is there, and what is asked."""
    if request.param == "directories":
        return PLAIN_SETUP, PLAIN
    if "\tbtrfs" not in Path("/proc/filesystems").read_text(encoding="ascii"):
        pytest.skip("no btrfs in this kernel")
    return BTRFS_SETUP, BTRFS


def test_every_answer_is_that_of_the_stock_daemon(
    own_host: Host, own_managed: Driver, script: tuple[str, str]
) -> None:
    own_host.boot()
    # 257's own daemon makes its varlink socket when it starts, and nothing else starts it.
    own_host.run(["systemctl", "start", "systemd-machined.service"])
    expected = image_calls.run(own_host, *script)
    own_host.stop()
    own_managed.host.boot()
    found = image_calls.run(own_managed.host, *script)
    differences = {
        label: (answer, found.get(label)) for label, answer in expected.items() if found.get(label) != answer
    }
    assert differences == {}
    assert not any("died, see the log" in answer for answer in found.values())


def _symbols(host: Host) -> list[str]:
    done = host.run(["varlinkctl", "introspect", VARLINK, "io.systemd.MachineImage"])
    return [line.strip() for line in done.stdout.splitlines() if line.strip() and "#" not in line]


def test_the_varlink_interface_is_the_stock_one(host: Host, managed: Driver) -> None:
    for machine in (host, managed.host):
        machine.run(["systemctl", "start", "systemd-machined.service"])
    assert sorted(_symbols(managed.host)) == sorted(_symbols(host))
    info = managed.host.run(["varlinkctl", "info", VARLINK]).stdout
    assert "io.systemd.MachineImage" in info
    sockets = (VARLINK, "/run/systemd/machine/io.systemd.MachineImage")
    for socket in sockets:
        answer = managed.host.run(
            ["varlinkctl", "call", socket, "io.systemd.MachineImage.List", '{"name": ".host"}']
        )
        assert '".host"' in answer.stdout


def test_the_bus_interface_has_the_stock_members(host: Host, managed: Driver) -> None:
    image = f"{ROOT}/image/_2ehost"

    def members(machine: Host) -> list[str]:
        done = machine.run(["busctl", "introspect", NAME, image, f"{NAME}.Image"])
        return [" ".join(line.split()[:4]) for line in done.stdout.splitlines() if "Timestamp" not in line]

    assert members(managed.host) == members(host)


def test_a_raw_image_tells_what_is_in_it(managed: Driver) -> None:
    """Dissection needs loop devices, which a host of the tests has."""
    if not os.path.exists("/dev/loop-control"):
        pytest.skip("no loop devices here")
    pool = "/var/lib/machines"
    made = managed.host.run(
        [
            "sh",
            "-ec",
            f"""
            mkdir -p /tmp/os/usr/lib /tmp/os/etc
            echo ID=disk >/tmp/os/usr/lib/os-release
            echo in-a-disk >/tmp/os/etc/hostname
            mkfs.ext4 -q -d /tmp/os {pool}/t-disk.raw 8M
            mkfs.ext4 -q {pool}/t-blank.raw 8M
            """,
        ],
        check=False,
    )
    assert made.returncode == 0, made.stderr

    def ask(method: str, name: str) -> str:
        done = managed.host.run(
            ["busctl", "--json=short", "call", NAME, ROOT, f"{NAME}.Manager", method, "s", name], check=False
        )
        return done.stdout or done.stderr

    try:
        assert json.loads(ask("GetImageHostname", "t-disk"))["data"] == ["in-a-disk"]
        assert json.loads(ask("GetImageOSRelease", "t-disk"))["data"] == [{"ID": "disk"}]
        assert "No medium found" in ask("GetImageHostname", "t-blank")
    finally:
        managed.host.run(["sh", "-c", f"rm -rf {pool}/t-disk.raw {pool}/t-blank.raw /tmp/os"])


def test_others_need_permission(managed: Driver) -> None:
    """polkit asks a person, who is not there."""
    managed.host.run(["mkdir", "-p", "/var/lib/machines/t-guarded"])
    try:
        for call in (
            ["RemoveImage", "s", "t-guarded"],
            ["RenameImage", "ss", "t-guarded", "t-other"],
            ["CloneImage", "ssb", "t-guarded", "t-other", "false"],
            ["MarkImageReadOnly", "sb", "t-guarded", "true"],
            ["SetImageLimit", "st", "t-guarded", "1000000"],
            ["SetPoolLimit", "t", "1000000"],
            ["CleanPool", "s", "all"],
        ):
            done = managed.host.run(
                ["busctl", "call", NAME, ROOT, f"{NAME}.Manager", *call], check=False, user="tester"
            )
            assert done.returncode != 0, call
            assert "nteractive authentication required" in done.stderr or "denied" in done.stderr, (
                done.stderr
            )
        assert managed.host.path("/var/lib/machines/t-guarded").is_dir()
    finally:
        managed.host.run(["rm", "-rf", "/var/lib/machines/t-guarded"])


def test_what_a_killed_daemon_began_is_gone(own_managed: Driver) -> None:
    host = own_managed.host.boot()
    partial = host.path("/var/lib/machines/.#machined-0123456789abcdef")
    partial.mkdir()
    (partial / "file").write_text("half", encoding="ascii")
    host.run(["systemctl", "restart", "systemd-machined.service"])
    wait = "for i in $(seq 100); do [ -e /var/lib/machines/.#machined-* ] || exit 0; sleep 0.1; done; exit 1"
    host.run(["bash", "-c", wait])
