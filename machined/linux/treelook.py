# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is in a tree that is not to be trusted, as plain facts: for machined.linux.worker."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Final

from machined.linux import overlay
from machined.linux.rootwrite import Root, inside_of

# Of a directory no more names than these are looked at.
NAMES: Final = 10_000

Facts = tuple[dict[str, str], dict[str, bytes], dict[str, list[str]]]
"""Kinds of paths (machined.linux.rootwrite:Root.kind), beginnings of files, names in directories."""


def look(
    trees: Sequence[str], paths: Sequence[str], files: Sequence[str], directories: Sequence[str], limit: int
) -> Facts:
    """Facts of a tree, or of layers with the topmost first: of each path what it is, of each file the first
    `limit` bytes, of each directory the names in it. What is missing is "", or not in the answer. OSError.
    """
    with contextlib.ExitStack() as held:
        root = trees[0]
        if len(trees) > 1:
            root = inside_of(held.enter_context(overlay.assemble(trees, None)))
        top = held.enter_context(Root(root))
        contents = {path: data for path in files if (data := top.begin(path, limit)) is not None}
        return (
            {path: top.kind(path) for path in paths},
            contents,
            {path: found for path in directories if (found := top.names(path, NAMES))},
        )
