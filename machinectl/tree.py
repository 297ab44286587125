# SPDX-License-Identifier: LGPL-2.1-or-later
"""The process tree of a unit's control groups, drawn from what systemd's manager says."""

from __future__ import annotations

from .names import clean
from .output import is_utf8

Process = tuple[str, int, str]
"""control group, process id, command line: an element of GetUnitProcesses"""


class _Group:
    __slots__ = ("children", "processes")

    def __init__(self) -> None:
        self.processes: list[tuple[int, str]] = []
        self.children: dict[str, _Group] = {}


def draw(processes: list[Process], root: str) -> list[str]:
    """Lines of the tree below `root`. Groups outside of it are left out."""
    top = _Group()
    for path, pid, command in processes:
        if path != root and not path.startswith(root.rstrip("/") + "/"):
            continue
        group = top
        for part in filter(None, path[len(root) :].split("/")):
            group = group.children.setdefault(part, _Group())
        group.processes.append((pid, command))
    lines: list[str] = []
    _draw(top, "", lines)
    return lines


def _draw(group: _Group, prefix: str, lines: list[str]) -> None:
    branch, last, vertical = ("├─", "└─", "│ ") if is_utf8() else ("|-", "`-", "| ")
    group.processes.sort()
    digits = max((len(str(pid)) for pid, _ in group.processes), default=0)
    left = len(group.processes) + len(group.children)
    for pid, command in group.processes:
        left -= 1
        lines.append(f"{prefix}{branch if left else last}{pid:>{digits}} {clean(command)}")
    for name, child in sorted(group.children.items()):
        left -= 1
        lines.append(f"{prefix}{branch if left else last}{clean(name)}")
        _draw(child, prefix + (vertical if left else "  "), lines)
