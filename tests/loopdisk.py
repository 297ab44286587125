# SPDX-License-Identifier: LGPL-2.1-or-later
"""File systems in a file, mounted for a test, or the reason why there is none."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

MIB = 1024 * 1024


@contextmanager
def mounted_btrfs(directory: Path, size: int) -> Iterator[Path]:
    """A new btrfs of so many bytes, mounted below a directory. Skips the test where there can be none."""
    if os.geteuid() != 0 or shutil.which("mkfs.btrfs") is None or shutil.which("mount") is None:
        pytest.skip("needs root and mkfs.btrfs")
    if "btrfs" not in Path("/proc/filesystems").read_text(encoding="ascii"):
        pytest.skip("no btrfs in this kernel")
    disk, where = directory / "disk", directory / "pool"
    disk.touch()
    os.truncate(disk, size)
    where.mkdir()
    subprocess.run(["mkfs.btrfs", "-q", disk], check=True, capture_output=True)
    done = subprocess.run(["mount", "-o", "loop", disk, where], check=False, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"no loop devices here: {done.stderr}")
    try:
        yield where
    finally:
        subprocess.run(["umount", "-R", where], check=True, capture_output=True)
