# SPDX-License-Identifier: LGPL-2.1-or-later
"""Each linter is a test, so that `make test` is the only thing to run."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import machined

ROOT = Path(__file__).resolve().parent.parent
SPDX = "SPDX-License-Identifier: LGPL-2.1-or-later"

# What belongs to the machine the work is done on (this very folder), and to the index it installs from.
FOREIGN = re.compile(
    rf"{re.escape(str(ROOT))}/|/\.pyenv"
    r"|pypi\.org|files\.pythonhosted|registry\.npmjs|(deb|snapshot|ftp)\.debian\.org",
    re.IGNORECASE,
)

TOOLS = {
    "ruff check": ["ruff", "check", "--no-fix", "--quiet", "."],
    "ruff format": ["ruff", "format", "--check", "--diff", "--quiet", "."],
    "mypy": ["mypy", "--no-error-summary"],
}


def tracked() -> list[Path]:
    """The files of the source tree: what git has or would add."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        if "CI" in os.environ:
            raise
        pytest.skip(f"no git here to list the files: {error}")
    return [path for name in done.stdout.split("\0") if name and (path := ROOT / name).is_file()]


@pytest.mark.parametrize("name", TOOLS)
def test_linter(name: str) -> None:
    tool, *arguments = TOOLS[name]
    if importlib.util.find_spec(tool) is None and "CI" not in os.environ:
        pytest.skip(f"{tool} is not installed: make venv")
    done = subprocess.run(
        [sys.executable, "-m", tool, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"\n{done.stdout}{done.stderr}"


def test_sources_name_their_license() -> None:
    """In the first line, or the second one after an interpreter's."""
    without = []
    for path in tracked():
        if path.suffix == ".py" or os.access(path, os.X_OK):
            lines = path.read_text(encoding="utf-8").splitlines()
            first = lines[1:2] if lines and lines[0].startswith("#!") else lines[:1]
            if first != [f"# {SPDX}"]:
                without.append(str(path.relative_to(ROOT)))
    assert without == []


def test_nothing_names_the_machine_it_was_made_on() -> None:
    found = []
    for path in tracked():
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            if match := FOREIGN.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {match[0]}")
    assert not found, "\n" + "\n".join(found)


def test_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert machined.__version__ == project["version"]


def test_lock_files_agree() -> None:
    """What is tested is what is installed."""
    pins = {
        name: set(re.findall(r"^[a-z].*==\S+", (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE))
        for name in ("requirements.lock", "requirements-dev.lock")
    }
    assert pins["requirements.lock"]
    assert pins["requirements.lock"] <= pins["requirements-dev.lock"]
