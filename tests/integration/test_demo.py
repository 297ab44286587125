# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a visitor tries first: `make demo` and `make host-shell`, to the last line."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.demo import TEMPLATE, Here
from tests.host import build, layer
from tests.host.boot import Host
from tests.host.probe import why_not
from tests.screen import Screen, Session

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
# Where a test host finds this source tree.
SOURCE = "/srv/machined"


def demo(*args: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.demo", *args],
        cwd=ROOT, env=os.environ | dict(env or {}), capture_output=True, text=True, check=False, timeout=900,
    )  # fmt: skip


@pytest.mark.slow
def test_demo() -> None:
    if (reason := why_not()) is not None:
        pytest.skip(f"no test host on this machine: {reason}")
    done = demo()
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) < 120
    assert "\x1b" not in done.stdout
    for command in ("start", "list", "status", "shell", "login", "enable", "poweroff", "disable"):
        assert any(line.startswith(f"# machinectl {command}") for line in lines), command
    assert "# systemctl reboot" in lines
    assert lines[-2] == "Mounts, network links, cgroups, units and files of the host are as before."
    assert lines[-1].startswith("Shown: start, list, ")
    assert "a reboot of the host" in lines[-1]
    assert lines[-1].endswith("make host-shell")


@pytest.mark.slow
def test_demo_on_a_host_of_ones_own(suite: str) -> None:
    mounts = {SOURCE: ROOT, TEMPLATE: build.ensure(suite).guest}
    with Host(suite, layer=layer.with_machined(suite), read_only=mounts) as host:
        host.boot()

        def here(*args: str) -> subprocess.CompletedProcess[str]:
            command = ["python3", "-B", "-m", "tests.demo", "--here", *args]
            return host.run(["env", f"--chdir={SOURCE}", *command], unit=True, check=False, timeout=600)

        refused = here()
        assert refused.returncode == 1
        assert "--image DIRECTORY" in refused.stdout + refused.stderr
        refused = here("--image", "/srv")
        assert refused.returncode == 1
        assert "no system in '/srv'" in refused.stdout + refused.stderr
        done = here("--image", TEMPLATE)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.splitlines()[-1] == (
            "Shown: start, list, status, shell, login, enable, poweroff, disable."
        )
        # An image of that name is somebody's.
        host.add_guest("demo")
        refused = here("--image", TEMPLATE)
        assert refused.returncode == 1
        assert "'/var/lib/machines/demo'" in refused.stdout + refused.stderr
        assert host.path("/var/lib/machines/demo/usr").is_dir()


@pytest.mark.either("trixie")
def test_demo_tells_what_went_wrong(suite: str) -> None:
    """A tree that is no system: the demo says so, and what it has begun is taken back."""
    mounts = {SOURCE: ROOT, TEMPLATE: build.ensure(suite).guest}
    with Host(suite, layer=layer.with_machined(suite), read_only=mounts) as host:
        host.boot()
        before = host.snapshot()
        host.run(["sh", "-ec", f"cp -a {TEMPLATE} /srv/broken; rm /srv/broken/usr/lib/os-release"])
        command = ["python3", "-B", "-m", "tests.demo", "--here", "--image", "/srv/broken"]
        done = host.run(["env", f"--chdir={SOURCE}", *command], unit=True, check=False, timeout=300)
        assert done.returncode == 1
        assert "demo: failed: the exit status of 'machinectl start demo' is 1" in done.stdout + done.stderr
        assert not host.path("/var/lib/machines/demo").exists()
        assert before.diff(host.snapshot()) == []


def test_demo_where_no_host_boots() -> None:
    done = demo(env={"MACHINED_TEST_CACHE": "/proc/no-such-place"})
    assert done.returncode == 77
    assert "no test host on this machine: " in done.stderr
    assert done.stdout == ""


@pytest.mark.either("trixie")
def test_shell_to_play_in(suite: str) -> None:
    """What `make host-shell` runs."""
    variables = [f"{name}={value}" for name, value in os.environ.items() if name.startswith("MACHINED_")]
    command = ["env", f"--chdir={ROOT}", *variables, sys.executable, "-m", "tests.host", "shell", suite]
    shell = Session(Here(os.devnull), command, Screen())
    try:
        shell.expect("# ")
        shell.type("machinectl list-images\r")
        assert "No images." in shell.expect("# ")
        shell.type("tty; echo $TERM\r")
        assert "/dev/pts/" in shell.expect("# ")
        shell.type("exit\r")
        shell.finish()
    finally:
        shell.close()
