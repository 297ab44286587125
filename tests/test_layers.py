# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who may import whom. The map is in ARCHITECTURE.md, and this is what keeps it true."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# A module imports from its own layer and from those below it. Within a row nobody knows the others.
LAYERS = (
    ("machined",),
    ("machined.linux",),
    ("machined.model",),
    ("machined.bus", "machined.varlink"),
    # Programs: the daemon, what a machine's unit runs after the machine's end, and what moves the pool.
    ("machined.daemon", "machined.cleanup", "machined.poolctl"),
    ("machined.__main__",),
)

# The only place where each of these may be imported.
CONFINED = {
    "ctypes": "machined.linux",
    "dbus_fast": "machined.bus",
    "jeepney": "machinectl.bus",
    "pyroute2": "machined.linux",
    "systemd": "machined.linux.sd",
}


def modules(package: str) -> Iterator[tuple[str, Path]]:
    """All modules of a package: (dotted name, file)."""
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def imports(name: str, path: Path) -> Iterator[tuple[int, str]]:
    """What a module imports, inside of functions too: (line, absolute dotted name)."""
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                # What is imported from a package is a module of it, or a name in it.
                yield node.lineno, f"{origin}.{alias.name}"


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def layer(name: str) -> tuple[int, str] | None:
    """The layer of a module of ours, as (height, entry of LAYERS); None when it has none."""
    entries = [(height, entry) for height, row in enumerate(LAYERS) for entry in row]
    # "machined" itself is __init__.py with the version: all else has to have an entry of its own.
    for height, entry in entries:
        if entry != "machined" and within(name, entry):
            return height, entry
    is_package = (ROOT / name.replace(".", "/")).is_dir() or (
        ROOT / f"{name.replace('.', '/')}.py"
    ).is_file()
    return None if is_package and name != "machined" else (0, "machined")


def complaints(name: str, path: Path) -> Iterator[str]:
    """What is wrong with the imports of one module."""
    own = layer(name) if within(name, "machined") else None
    if within(name, "machined") and own is None:
        yield f"{name}: in no layer; LAYERS in {Path(__file__).name} has to name it"
    for line, target in imports(name, path):
        where = f"{path.relative_to(ROOT)}:{line}"
        for library, home in CONFINED.items():
            if within(target, library) and not within(name, home):
                yield f"{where}: only {home} may import {library}"
        if within(name, "machinectl") and within(target, "machined"):
            yield f"{where}: machinectl imports nothing of machined, it speaks to it over the bus"
        if within(target, "machinectl") and not within(name, "machinectl"):
            yield f"{where}: nothing but machinectl imports machinectl"
        if own is not None and within(target, "machined"):
            other = layer(target)
            if other is None:
                yield f"{where}: {target} is in no layer"
            elif other[1] != own[1] and other[0] >= own[0] and other[1] != "machined":
                yield f"{where}: {own[1]} imports {target}, and {other[1]} is not below it"


@pytest.mark.parametrize("package", ["machined", "machinectl"])
def test_imports_point_down(package: str) -> None:
    found = [line for name, path in modules(package) for line in complaints(name, path)]
    assert not found, "\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("name", "source", "wrong"),
    [
        ("machined.linux.x", "from machined.model import machine", "machined.model is not below it"),
        ("machined.linux.x", "def f():\n    from ..bus.call import Call", "machined.bus is not below it"),
        ("machined.bus.x", "from .. import varlink", "machined.varlink is not below it"),
        ("machined.model.x", "from machined import daemon", "machined.daemon is not below it"),
        ("machined.model.x", "import dbus_fast.aio", "only machined.bus may import dbus_fast"),
        ("machined.model.x", "import ctypes", "only machined.linux may import ctypes"),
        (
            "machinectl.verbs.x",
            "from jeepney import new_method_call",
            "only machinectl.bus may import jeepney",
        ),
        ("machinectl.x", "import machined", "machinectl imports nothing of machined"),
        ("machined.unheard_of", "import os", "in no layer"),
        (
            "machined.bus.x",
            "from machined import __version__\nfrom ..linux import fds\nfrom . import call",
            None,
        ),
        ("machined.daemon", "from .bus import connection\nfrom .model.machine import Machine", None),
    ],
)
def test_the_rules_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, source: str, wrong: str | None
) -> None:
    """Each rule on an example."""
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    for package in ("linux", "model", "bus", "varlink"):
        (tmp_path / "machined" / package).mkdir(parents=True)
    for module in ("__init__", "daemon"):
        (tmp_path / "machined" / f"{module}.py").touch()
    path = tmp_path / f"{name.replace('.', '/')}.py"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source, encoding="utf-8")
    found = list(complaints(name, path))
    if wrong is None:
        assert found == []
    else:
        assert len(found) == 1
        assert wrong in found[0]
