# SPDX-License-Identifier: LGPL-2.1-or-later
"""Each way to get it wrong: a clear sentence on standard error, an exit status, and nothing changed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from tests.host.snapshot import Snapshot
from tests.integration.driver import Driver, unique_name

pytestmark = pytest.mark.integration


class Refused:
    """Runs our client and expects a refusal that names what it is about."""

    def __init__(self, managed: Driver) -> None:
        self._managed = managed

    def __call__(self, *args: str, says: str, user: str | None = None) -> str:
        before = self._look()
        done = self._managed.ctl(*args, check=False, user=user)
        assert done.returncode == 1, done
        assert done.stdout == ""
        assert says in done.stderr, done.stderr
        assert "Traceback" not in done.stderr
        assert self._look() == before
        return done.stderr

    def _look(self) -> tuple[Snapshot, str]:
        etc = self._managed.host.run(["find", "/etc/systemd", "/var/lib/machines", "-maxdepth", "3"]).stdout
        return self._managed.host.snapshot(), etc


@pytest.fixture
def refused(managed: Driver) -> Refused:
    return Refused(managed)


VERBS_ON_A_MACHINE = ("status", "show", "poweroff", "reboot", "terminate", "kill", "login", "shell")


@pytest.mark.parametrize("verb", VERBS_ON_A_MACHINE)
def test_unknown_machine(refused: Refused, verb: str) -> None:
    name = unique_name()
    refused(verb, name, says=name)


@pytest.mark.parametrize("verb", ["start", "enable", "disable"])
def test_unknown_image(refused: Refused, verb: str) -> None:
    name = unique_name()
    refused(verb, name, says=name)


@pytest.mark.parametrize("verb", ["start", "enable", "poweroff", "reboot"])
def test_invalid_name(refused: Refused, verb: str) -> None:
    """S86."""
    message = refused(verb, "my_box", says="'my_box'")
    assert "my-box" in message
    assert "letters, digits" in message


def test_image_runs_already(managed: Driver, refused: Refused, machine: str) -> None:
    managed.host.run(["systemctl", "start", f"systemd-nspawn@{machine}"])
    managed.wait(machine, "running")  # or what ends it finds nobody who listens
    refused("start", machine, says=f"systemd-nspawn@{machine}.service")


def test_image_is_locked(managed: Driver, refused: Refused, machine: str) -> None:
    """Used under another name and without registration: only the lock tells."""
    command = ["systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "-M", unique_name()]
    tree = f"/var/lib/machines/{machine}"
    with managed.background(
        [
            *("systemd-run", "--quiet", "--pipe", "--wait", "--collect", *command, "-D", tree),
            *("sh", "-c", "echo ready; exec sleep 300"),
        ]
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "ready\n"
        refused("start", machine, says="in use")
        managed.host.run(["pkill", "--full", "exec sleep 300|^sleep 300"], check=False)
        holder.communicate(timeout=30)


@pytest.fixture
def tree(managed: Driver) -> Iterator[str]:
    """An image that is nothing but a directory with an os-release."""
    name = unique_name()
    path = managed.host.path(f"/var/lib/machines/{name}")
    (path / "etc").mkdir(parents=True)
    (path / "etc/os-release").write_text("ID=test\n", encoding="utf-8")
    yield name
    shutil.rmtree(path)


def test_image_without_an_init(managed: Driver, refused: Refused, tree: str) -> None:
    for verb in ("start", "enable"):
        assert tree in refused(verb, tree, says="no init")


def test_init_that_points_out_of_the_tree(managed: Driver, refused: Refused, tree: str) -> None:
    """A link in the tree means what it means to the guest: the host's own init does not count."""
    path = managed.host.path(f"/var/lib/machines/{tree}/sbin")
    path.mkdir()
    (path / "init").symlink_to("/usr/lib/systemd/systemd")
    refused("start", tree, says="no init")


def test_image_without_a_system(managed: Driver, refused: Refused, tree: str) -> None:
    managed.host.path(f"/var/lib/machines/{tree}/etc/os-release").unlink()
    refused("start", tree, says="os-release")


def test_noexec_mount(managed: Driver, refused: Refused, machine: str) -> None:
    tree = f"/var/lib/machines/{machine}"
    managed.host.run(["mount", "--bind", tree, tree])
    managed.host.run(["mount", "-o", "remount,bind,noexec", tree])
    try:
        message = refused("start", machine, says="noexec")
        assert tree in message
    finally:
        managed.host.run(["umount", tree])


def test_not_permitted(managed: Driver, refused: Refused, machine: str) -> None:
    for verb in ("start", "enable", "disable"):
        refused("--no-ask-password", verb, machine, says=machine, user="tester")
    managed.start(machine)
    for verb in ("poweroff", "reboot", "terminate", "kill", "login", "shell"):
        refused("--no-ask-password", verb, machine, says=machine, user="tester")
    assert managed.wait(machine, "running") == "running"


def test_anybody_may_look(managed: Driver, machine: str) -> None:
    managed.start(machine)
    assert machine in managed.ctl("list", user="tester").stdout
    assert machine in managed.ctl("status", machine, user="tester").stdout
    assert managed.ctl("wait", machine, user="tester").returncode == 0


def test_daemon_does_not_run(own_managed: Driver) -> None:
    managed = own_managed
    # Masked by hand: `systemctl mask` does not replace a unit that lies in /etc.
    unit = managed.host.path("/etc/systemd/system/systemd-machined.service")
    unit.unlink()
    unit.symlink_to("/dev/null")
    managed.host.boot()
    done = managed.ctl("list", check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert "systemctl start systemd-machined" in done.stderr


def test_guest_without_a_bus(managed: Driver, refused: Refused, machine: str) -> None:
    managed.start(machine)
    managed.guest(machine, "rm", "/run/dbus/system_bus_socket")
    for verb in ("login", "shell"):
        refused(verb, machine, says="no system bus")


def test_failing_start_says_why(managed: Driver, machine: str) -> None:
    settings = managed.host.path(f"/etc/systemd/nspawn/{machine}.nspawn")
    settings.parent.mkdir(exist_ok=True)
    settings.write_text("[Files]\nBind=+/does/not/exist:/mnt\n", encoding="utf-8")
    done = managed.ctl("start", machine, check=False)
    assert done.returncode == 1
    assert "/does/not/exist" in done.stderr
    assert f"machine-{machine}.service" in done.stderr
    assert managed.state(machine) == "failed"
    settings.unlink()
    managed.start(machine)
    assert managed.state(machine) == "running"
