# SPDX-License-Identifier: LGPL-2.1-or-later
"""Builds the private environment: a virtual environment (PEP 405) that works where it is moved to."""

from __future__ import annotations

import compileall
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from .layout import ROOT, Layout

PACKAGES = ("machined", "machinectl")


class InstallError(Exception):
    """The sentence for whoever runs the installation."""


def base_python() -> Path:
    """The interpreter itself, should we run in a virtual environment."""
    return Path(getattr(sys, "_base_executable", sys.executable))


def build(layout: Layout, tree: Path, requirements: Path, wheels: Path | None) -> None:
    """Make the environment in the directory tree, which will lie at layout.tree in the end."""
    # Not with the venv module, which writes the path it works in into several files.
    python = base_python()
    (tree / "bin").mkdir()
    (tree / "bin/python3").symlink_to(python)
    (tree / "pyvenv.cfg").write_text(
        f"home = {python.parent}\n"
        "include-system-site-packages = true\n"
        f"version = {platform.python_version()}\n",
        encoding="utf-8",
    )
    site = tree / layout.site.relative_to(layout.tree)
    site.mkdir(parents=True)
    _install(site, requirements, wheels)
    for name in PACKAGES:
        shutil.copytree(ROOT / name, site / name, ignore=shutil.ignore_patterns("__pycache__"))
    # The tree is built beside its final place and renamed, which is why the paths are spelt out here.
    final = str(layout.site)
    if not compileall.compile_dir(site, quiet=1, workers=0, stripdir=os.fspath(site), prependdir=final):
        raise InstallError(f"some modules could not be compiled in '{site}': the messages above say why")


def _install(site: Path, requirements: Path, wheels: Path | None) -> None:
    with tempfile.TemporaryDirectory(prefix="machined-pip-") as scratch:
        command = [*_pip(Path(scratch)), "install", "-qq", "--disable-pip-version-check", "--no-compile"]
        command += ["--require-hashes", "--no-deps", "--only-binary=:all:", f"--target={site}"]
        command += ["--requirement", os.fspath(requirements)]
        if wheels is not None:
            command += ["--no-index", f"--find-links={wheels}"]
        env = os.environ | {"PIP_ROOT_USER_ACTION": "ignore"}
        if subprocess.run(command, env=env, check=False).returncode != 0:
            source = f"from '{wheels}'" if wheels is not None else "from the package index"
            raise InstallError(
                f"the packages of '{requirements.name}' could not be had {source}, pip says why above. "
                "Without a network, put their wheels into a directory: MACHINED_WHEELS=DIRECTORY"
            )
    # Console scripts of the dependencies, with the path of a staging area in their first line.
    shutil.rmtree(site / "bin", ignore_errors=True)


def _pip(scratch: Path) -> list[str]:
    """A command that is pip for this interpreter."""
    python = os.fspath(base_python())
    if subprocess.run([python, "-I", "-c", "import pip"], capture_output=True, check=False).returncode == 0:
        return [python, "-I", "-m", "pip"]
    # Debian ships ensurepip apart.
    if importlib.util.find_spec("ensurepip") is None:
        raise InstallError(f"'{python}' has no pip and cannot make one: apt install python3-venv")
    subprocess.run([python, "-I", "-m", "venv", os.fspath(scratch / "venv")], check=True)
    return [os.fspath(scratch / "venv/bin/python"), "-I", "-m", "pip"]
