# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the cold start of a verb may import: that decides how long it takes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import jeepney
import pytest

from machinectl.table import VERBS

from .fakebus import OURS, Peer

ROOT = Path(__file__).parents[3]
HEAVY = {
    "asyncio",
    "pydantic",
    "pyroute2",
    "dbus_fast",
    "dataclasses",
    "inspect",
    "argparse",
    "subprocess",
    "logging",
}
MADE_OF = {
    "autostart": {"machinectl.power"},
    "ssh": {"machinectl.show", "machinectl.list_machines"},
    "image_status": {"machinectl.show"},
    "status": {"machinectl.show", "machinectl.list_machines"},
    "volumes": {"machinectl.control"},
}
ROWS = [
    (
        f"m{n}",
        "container",
        "machined",
        "running",
        "debian",
        "13",
        ["10.0.0.5"],
        True,
        f"machine-m{n}.service",
    )
    for n in range(3)
]
# As the installed launcher does it: isolated, without site.
LAUNCH = (
    f"import sys; sys.path[:0] = [{os.fspath(ROOT)!r}, {os.fspath(Path(jeepney.__file__).parents[1])!r}]\n"
)


def run(code: str, *argv: str) -> str:
    done = subprocess.run(
        [sys.executable, "-IS", "-c", LAUNCH + code, *argv],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    return done.stdout


def imported(*argv: str) -> set[str]:
    code = "from machinectl.cli import main; main(); print('|', *sys.modules)"
    return set(run(code, *argv).rpartition("|")[2].split())


@pytest.fixture
def running(manager: Peer) -> Peer:
    manager.answer(OURS, "ListAll", "a(ssssssasbs)", ROWS)
    return manager


def test_list_imports_nothing_heavy(running: Peer) -> None:
    modules = imported("list")
    assert "jeepney" in modules
    assert not modules & (
        HEAVY | {"json", "termios", "machinectl.ptyforward", "machinectl.completions", "machined"}
    )


def test_help_needs_no_bus() -> None:
    assert not imported("--help") & (HEAVY | {"jeepney", "socket", "machinectl.bus"})


def test_every_verb_begins_with_its_own_module_alone() -> None:
    """No verb needs what is slow to load, and none loads another verb's work but what it is made of."""
    modules = sorted({verb.function.partition(":")[0] for verb in VERBS})
    for module in modules:
        code = f"import machinectl.{module}; print('|', *sys.modules)"
        loaded = set(run(code).rpartition("|")[2].split())
        assert not loaded & HEAVY, module
        others = {f"machinectl.{other}" for other in modules} & loaded - {f"machinectl.{module}"}
        assert others <= MADE_OF.get(module, set()), module


def test_poweroff_loads_no_varlink_where_nobody_listens() -> None:
    assert not set(run("import machinectl.power, machinectl.control; print('|', *sys.modules)").split()) & {
        "json", "machinectl.varlink"
    }  # fmt: skip


def test_login_imports_nothing_heavy() -> None:
    code = "import machinectl.session, machinectl.status, machinectl.autostart; print('|', *sys.modules)"
    assert not set(run(code).rpartition("|")[2].split()) & HEAVY
