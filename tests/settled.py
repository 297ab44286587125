# SPDX-License-Identifier: LGPL-2.1-or-later
"""A fixture that fails a test which leaves file descriptors or child processes behind.

A conftest makes it apply to its tests with `from tests.settled import settled  # noqa: F401`.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest


def descriptors() -> dict[int, str]:
    """What this process has open: number and what it leads to."""
    found = {}
    for entry in os.listdir("/proc/self/fd"):
        try:
            found[int(entry)] = os.readlink(f"/proc/self/fd/{entry}")
        except FileNotFoundError:
            continue  # the one the listing was read through
    return found


def children() -> dict[int, str]:
    """The processes this one has to reap: number and command."""
    while True:
        try:
            return {
                pid: _command(pid) for task in os.listdir("/proc/self/task") for pid in _children_of(task)
            }
        except (FileNotFoundError, ProcessLookupError):
            continue  # a thread has ended meanwhile, and its children are another's; or a child was reaped


def _children_of(task: str) -> list[int]:
    return [*map(int, Path(f"/proc/self/task/{task}/children").read_text(encoding="ascii").split())]


def _command(pid: int) -> str:
    command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return command or "a zombie"


@pytest.fixture(autouse=True)
def settled() -> Iterator[None]:
    fds, processes = descriptors(), children()
    yield
    gc.collect()
    left = {fd: target for fd, target in descriptors().items() if fds.get(fd) != target}
    assert not left, f"the test left these file descriptors open: {left}"
    remaining = {pid: command for pid, command in children().items() if pid not in processes}
    assert not remaining, f"the test left these child processes behind: {remaining}"
