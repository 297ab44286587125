# SPDX-License-Identifier: LGPL-2.1-or-later
"""`make install` and `make uninstall` on a host that is up: nobody in a machine notices."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.host import layer
from tests.host.boot import Host
from tests.integration.driver import OURS, UNIT, Driver

pytestmark = [pytest.mark.integration, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
SOURCE = "/root/machined"
SOCKET_UNIT = "systemd-machined.socket"
SOCKET = "/run/systemd/machine/io.systemd.Machine"
VENDOR_UNIT = f"/usr/lib/systemd/system/{UNIT}"
OUR_UNIT = f"/etc/systemd/system/{UNIT}"
# What an installation needs of the source tree.
PARTS = (
    "Makefile",
    "requirements.lock",
    "pyproject.toml",
    "scripts",
    "machined",
    "machinectl",
    "units",
    "dbus-policy",
)
# All that must not change from one daemon to the next.
FACTS = ("Name", "Id", "Timestamp", "Service", "Unit", "Leader", "Class", "RootDirectory", "State", "UID")


class Bare(Driver):
    """A host without machined, and the means to install it."""

    def make(self, *words: str) -> str:
        done = self.host.run(["make", "-C", SOURCE, *words, f"MACHINED_WHEELS={layer.WHEELS}"], timeout=180)
        return done.stdout + done.stderr

    def facts(self, name: str) -> dict[str, str]:
        """What systemd's own machinectl says of a machine, whoever answers it."""
        properties = [f"--property={fact}" for fact in FACTS]
        lines = self.stock("show", name, *properties).stdout.splitlines()
        return dict(line.split("=", 1) for line in lines)

    def files(self) -> dict[str, str]:
        """Path, and type, mode, size or target of all files where an installation may write."""
        places = ["/etc", "/usr", "/opt", "/srv", "/root", "/var/cache", "/var/lib/polkit-1"]
        command = ["find", *places, "-xdev", "-path", SOURCE, "-prune", "-o"]
        command += ["!", "-type", "d", "-printf", "%p\t%y %m %s %l\\n", "-o", "-printf", "%p\t%y %m\\n"]
        lines = self.host.run(command, check=False).stdout.splitlines()
        return dict(line.split("\t", 1) for line in lines)

    def start_stock(self, name: str) -> None:
        """A machine as the stock template runs it; its system is up when this returns."""
        self.host.add_guest(name)
        self.host.run(["systemctl", "start", f"systemd-nspawn@{name}.service"])
        self.until_up(name)

    def until_up(self, name: str) -> None:
        """Wait for the guest's system with nobody's help but its own."""
        # Not with --wait: asked early enough, it may wait for ever.
        state = f"systemctl -M {name} is-system-running 2>/dev/null"
        up = f"until {state} | grep -Eqx 'running|degraded'; do sleep 0.1; done"
        self.host.run(["timeout", "90", "sh", "-c", up], timeout=95)

    def until_gone(self, unit: str) -> None:
        """Wait for the end of a unit; one that is collected then is inactive too."""
        gone = f'until [ "$(systemctl is-active {unit})" = inactive ]; do sleep 0.05; done'
        self.host.run(["timeout", "60", "sh", "-c", gone], timeout=65)

    def is_ours(self) -> bool:
        """Whether the daemon that runs is machined; it has to be the one of the unit file."""
        ours = self.host.path("/usr/local/lib/machined").exists()
        assert self.unit_property(UNIT, "FragmentPath") == (OUR_UNIT if ours else VENDOR_UNIT)
        assert self.unit_property(UNIT, "ActiveState") == "active"
        interfaces = self.host.run(
            ["busctl", "introspect", "org.freedesktop.machine1", "/org/freedesktop/machine1"]
        )
        assert ("org.machined1.Manager" in interfaces.stdout) == ours
        return ours

    def varlink(self) -> list[str]:
        """The machines that the varlink service lists; checks what it is called and how it is activated."""
        if self.modern:
            assert self.unit_property(SOCKET_UNIT, "ActiveState") == "active"
            product = json.loads(self.host.run(["varlinkctl", "info", "--json=short", SOCKET]).stdout)[
                "product"
            ]
            # Whoever serves it: tools know it by that.
            assert product == "systemd (systemd-machined)"
        listed = self.host.run(
            ["varlinkctl", "call", "--more", "--json=short", SOCKET, "io.systemd.Machine.List", "{}"]
        )
        # A sequence of JSON texts (RFC 7464).
        return [json.loads(text)["name"] for text in listed.stdout.split("\x1e") if text.strip()]


@pytest.fixture
def bare(suite: str) -> Iterator[Bare]:
    """A booted host with the stock daemon, wheels and a copy of the sources."""
    with Host(suite, read_only={layer.WHEELS: layer.wheels(suite)}) as host:
        for name in PARTS:
            source, target = ROOT / name, host.path(f"{SOURCE}/{name}")
            target.parent.mkdir(exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", ".*_cache"))
            else:
                shutil.copy(source, target)
        yield Bare(host.boot())


def seen_by_all(bare: Bare, name: str) -> None:
    assert bare.is_ours()
    assert bare.listed()[name] == bare.listed(stock=True)[name] == "container"
    assert name in bare.varlink()
    assert bare.state(name) == "running"
    assert "State: running" in bare.ctl("status", name).stdout
    assert bare.guest(name, "echo", "works").stdout == "works\n"


def test_running_machines_go_back_and_forth(bare: Bare) -> None:
    """A machine of the stock daemon's is ours after the installation, and the stock one's again after it."""
    nothing, files = bare.host.snapshot(), bare.files()
    bare.start_stock("web")
    before = bare.facts("web")
    assert before["State"] == "running"
    for _ in range(2):
        said = bare.make("install")
        assert "adopted" in said
        seen_by_all(bare, "web")
        assert bare.facts("web") == before
        bare.make("uninstall")
        assert not bare.is_ours()
        assert bare.facts("web") == before
        assert bare.listed(stock=True) == {"web": "container"}
        assert "web" in bare.varlink()
        assert bare.files() == files
    assert f"Leader: {before['Leader']}" in bare.stock("status", "web").stdout
    bare.stock("poweroff", "web")
    bare.until_gone("systemd-nspawn@web.service")
    assert bare.listed(stock=True) == {}
    assert nothing.diff(bare.host.snapshot()) == []


def test_machine_of_ours_outlives_us(bare: Bare) -> None:
    """Started by us, powered off by the stock tool when nothing of ours is there any more."""
    nothing = bare.host.snapshot()
    bare.make("install")
    bare.host.add_guest("web")
    bare.start("web")
    before = bare.facts("web")
    bare.make("uninstall")
    assert not bare.is_ours()
    assert not bare.host.path(OURS).exists()
    assert bare.facts("web") == before
    assert bare.guest("web", "echo", "works").stdout == "works\n"
    bare.stock("poweroff", "web")
    bare.until_gone("machine-web.service")
    assert bare.unit_property("machine-web.service", "LoadState") == "not-found"
    assert bare.listed(stock=True) == {}
    assert nothing.diff(bare.host.snapshot()) == []


@pytest.mark.either("sid")
def test_upgrade(bare: Bare) -> None:
    """Installed over an installation: another daemon, the same machines."""
    bare.make("install")
    bare.host.add_guest("web")
    bare.start("web")
    bare.ctl("enable", "web")
    before, files, daemon = bare.facts("web"), bare.files(), bare.daemon_pid()
    # What an older one has had and the newer has not.
    site = next(bare.host.path("/usr/local/lib/machined/lib").glob("python3.*/site-packages"))
    (site / "machined/outdated.py").write_text("raise RuntimeError\n", encoding="utf-8")
    bare.make("install")
    assert bare.daemon_pid() != daemon
    seen_by_all(bare, "web")
    assert bare.facts("web") == before
    assert bare.files().keys() == files.keys()
    bare.ctl("poweroff", "web")
    assert bare.state("web") == "stopped"
    said = bare.make("uninstall", "PURGE=1")
    assert "machined@web.service" in said
    assert not [path for path in bare.files() if "machined@" in path]


@pytest.mark.either("trixie")
def test_uninstall_names_what_it_leaves(bare: Bare) -> None:
    """The wish to have a machine at boot is the user's, and kept for the next installation."""
    files = bare.files()
    bare.make("install")
    bare.host.add_guest("web")
    bare.ctl("enable", "web")
    link = "/etc/systemd/system/machines.target.wants/machined@web.service"
    assert link in bare.make("uninstall")
    assert bare.files().keys() - files.keys() == {link, str(Path(link).parent)}
    bare.make("install")
    bare.ctl("disable", "web")
    bare.make("uninstall")
    assert bare.files() == files
