# SPDX-License-Identifier: LGPL-2.1-or-later
"""The disk of a virtual machine: one ext4 file system without partitions, cached by what is on it."""

import dataclasses
import hashlib
import os
from pathlib import Path

from . import build, cache, recipe
from .cache import TestHostError
from .instance import Instance

SIZE = "6G"
GUEST = "guest"
"""The name of the container tree on the disk; `machinectl clone` or cp makes more of it."""


@dataclasses.dataclass(frozen=True, slots=True)
class Disk:
    """A disk, never written to, and what boots it."""

    image: Path
    kernel: Path
    initrd: Path


def ensure(suite: str, layer: Path | None = None) -> Disk:
    """The disk of a suite with the layer on it, built when missing."""
    trees = build.ensure(suite)
    tree = build.tree(recipe.virtual_machine(suite))
    lowers = [tree] if layer is None else [layer, tree]
    state = " ".join([*(path.name for path in lowers), trees.guest.name, SIZE])
    path = cache.directory("images") / f"{suite}-{hashlib.sha256(state.encode()).hexdigest()[:16]}.ext4"
    with cache.locked(f"{suite}-image"):
        if not path.exists():
            _make(lowers, trees.guest, path)
        os.utime(path)
        ages = sorted(path.parent.glob(f"{suite}-*.ext4"), key=lambda other: other.stat().st_mtime)
        cache.prune(ages[:-2])
    return Disk(path, _newest(tree, "vmlinuz-*"), _newest(tree, "initrd.img-*"))


def _make(lowers: list[Path], guest: Path, path: Path) -> None:
    build.install_tools({"mke2fs": "e2fsprogs"})
    partial = path.with_name(f".partial-{path.name}")
    partial.unlink(missing_ok=True)
    instance = Instance("image", lowers, {})
    try:
        copy = ["cp", "-a", os.fspath(guest), os.fspath(instance.tree / "var/lib/machines" / GUEST)]
        cache.run_step("copying the container tree", copy)
        cache.run_step(
            "making the disk of the virtual machine",
            ["mke2fs", "-q", "-t", "ext4", "-d", os.fspath(instance.tree), os.fspath(partial), SIZE],
        )
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    finally:
        instance.remove()
    partial.rename(path)


def _newest(tree: Path, pattern: str) -> Path:
    found = sorted((tree / "boot").glob(pattern))
    if not found:
        raise TestHostError(f"there is no '{pattern}' in '{tree}/boot'")
    return found[-1]
