# SPDX-License-Identifier: LGPL-2.1-or-later
"""What tests of layers have in common: a small tree, and work that is done as the daemon has it done."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from machined.linux import filesystem
from machined.linux.worker import Workers


def _can_mount() -> bool:
    probe = "import os; from machined.linux import syscalls; syscalls.unshare(syscalls.CLONE_NEWNS)"
    return subprocess.run([sys.executable, "-c", probe], check=False, capture_output=True).returncode == 0


needs_overlays = pytest.mark.skipif(
    os.geteuid() != 0 or not _can_mount(), reason="overlays need root and mount namespaces"
)


def make_tree(tree: Path) -> Path:
    """The least that looks like a system; returns its path."""
    (tree / "etc").mkdir(parents=True)
    (tree / "etc/machine-id").write_text("0" * 31 + "1\n", encoding="ascii")
    (tree / "etc/passwd").write_text("root\n", encoding="ascii")
    os.chown(tree / "etc/passwd", 7, 8)
    os.chmod(tree, 0o751)
    return tree


async def work(function: Callable[..., Any], *arguments: object) -> Any:
    """Have a function of the plumbing done as the daemon has it done."""
    workers = Workers()
    try:
        return await workers.run(f"{function.__module__}:{function.__name__}", *arguments)
    finally:
        await workers.close()


def is_immutable(path: Path) -> bool:
    return bool(filesystem.attributes(str(path)) & filesystem.IMMUTABLE)
