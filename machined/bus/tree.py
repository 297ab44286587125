# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which objects there are, found when they are called.

Nothing is exported, so a machine costs nothing on the bus until somebody asks.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from machined.bus.call import Call
from machined.bus.vtable import Fallback, Fixed, Interface
from machined.linux.escape import bus_label_unescape


class Tree:
    """Objects at fixed paths, and whole directories of them that something is asked for by name."""

    def __init__(self) -> None:
        self._fixed: dict[str, Fixed] = {}
        self._fallbacks: list[Fallback] = []

    def add(self, entry: Fixed | Fallback) -> None:
        """Serve these objects from now on; the order of adding is the order in the introspection."""
        if isinstance(entry, Fixed):
            self._fixed[entry.path] = entry
        else:
            self._fallbacks.append(entry)

    def tables(self, path: str) -> Iterator[tuple[Interface, Any]]:
        """The tables that may apply at a path, each with a coroutine function for its target (or None)."""
        fixed = self._fixed.get(path)
        if fixed is not None:
            for table in fixed.interfaces:
                yield table, _finder(fixed)
        for fallback in self._fallbacks:
            label = path.removeprefix(fallback.prefix + "/")
            if label != path and "/" not in label:
                # An escaped NUL is the end of a name in C.
                yield fallback.interface, _searcher(fallback, bus_label_unescape(label).partition("\0")[0])

    async def targets(self, call: Call, path: str) -> list[tuple[Interface, Any]]:
        found = []
        for table, find in self.tables(path):
            target = await find(call)
            if target is not None:
                found.append((table, target))
        return found

    def children(self, path: str) -> list[str] | None:
        """The names below a path in the order sd-bus lists them; None when no such node exists."""
        below = path.rstrip("/") + "/"
        known = list(self._fixed) + [fallback.prefix for fallback in self._fallbacks]
        children = [
            known_path.removeprefix(below).split("/")[0]
            for known_path in known
            if known_path.startswith(below)
        ]
        exists = path in self._fixed or bool(children)
        for fallback in self._fallbacks:
            if fallback.prefix == path:
                exists = True
                children += fallback.enumerate()
        return list(dict.fromkeys(children)) if exists else None

    def is_prefix(self, path: str) -> bool:
        """Whether objects lie directly below; sd-bus takes such a path for an object without properties."""
        return any(fallback.prefix == path for fallback in self._fallbacks)


def _finder(fixed: Fixed) -> Any:
    async def find(_: Call) -> Any:
        return fixed.target

    return find


def _searcher(fallback: Fallback, label: str) -> Any:
    async def find(call: Call) -> Any:
        target = fallback.find(call, label)
        return await target if inspect.isawaitable(target) else target

    return find
