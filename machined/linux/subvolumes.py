# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a btrfs file system tells of many subvolumes at once, with some few questions. OSError everywhere.

It is what was written last: a change inside of a subvolume shows when the kernel has written it down, after
some seconds.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable, Iterator
from typing import Final, NamedTuple

from machined.linux import btrfs, btrfs_trees
from machined.linux.btrfs import Subvolume
from machined.linux.btrfs_trees import FEW, MANY, QUOTA_TREE, ROOT_TREE, Item, Range, Reader

# Numbers so near to each other are asked for together, with all that is between them.
_NEAR: Final = 64
_SHORT: Final = 239
"""The size of a root's item as it was before there were times in it (linux/btrfs_tree.h)."""


class Told(NamedTuple):
    """Bytes, referenced and exclusive. `used` is None where that is not counted or not to be believed."""

    subvolume: Subvolume
    used: tuple[int, int] | None = None
    limits: tuple[int, int] = btrfs.NO_LIMITS


class Subvolumes:
    """The subvolumes of one file system. Asked again for the same ones it is quick."""

    def __init__(self) -> None:
        self._reader = Reader()
        self._numbers: list[int] = []
        self._told: dict[int, Told] = {}

    def read(self, fd: int, numbers: Collection[int]) -> dict[int, Told]:
        """What there is of these; the same objects as long as that has not changed."""
        wanted, reader = sorted(numbers), self._reader
        reader.begin()
        room = MANY if len(wanted) > 8 else FEW
        found: dict[int, Subvolume] = {}
        for run in _runs(wanted):
            for page in reader.pages(fd, Range(ROOT_TREE, btrfs_trees.ROOT_ITEM, run), _roots, room):
                found.update(page)
        quotas = _Quotas(reader, fd, wanted, room)
        if wanted != self._numbers or not reader.same():
            self._numbers, before, self._told = wanted, self._told, {}
            for number in wanted:
                subvolume = found.get(number)
                if subvolume is not None:
                    used, limits = quotas.of(number)
                    told = before.get(number)
                    if told is None or not (
                        subvolume is told.subvolume and used is told.used and limits is told.limits
                    ):
                        told = Told(subvolume, used, limits)
                    self._told[number] = told
        return self._told


class _Quotas:
    """Usage and limits of subvolumes with what is below them; none where there are no quotas."""

    def __init__(self, reader: Reader, fd: int, numbers: list[int], room: int) -> None:
        self._groups: dict[int, int] = {}
        self._used: dict[int, tuple[int, int]] = {}
        self._limits: dict[int, tuple[int, int]] = {}
        try:
            if btrfs.is_rescanning(fd):
                return
            for run in _runs(numbers):
                wanted = Range(QUOTA_TREE, btrfs_trees.QGROUP_RELATION, run)
                for page in reader.pages(fd, wanted, _subtree_groups, room):
                    for number, group in page:
                        self._groups[number] = min(group, self._groups.get(number, group))
            for run in _runs(sorted(self._groups.get(number, number) for number in numbers)):
                wanted = Range(QUOTA_TREE, btrfs_trees.QGROUP_INFO, (0, 0), run)
                for page in reader.pages(fd, wanted, _usages, room):
                    self._used.update(page)
                wanted = Range(QUOTA_TREE, btrfs_trees.QGROUP_LIMIT, (0, 0), run)
                for page in reader.pages(fd, wanted, _limits, room):
                    self._limits.update(page)
        except OSError:
            self._used.clear()

    def of(self, number: int) -> tuple[tuple[int, int] | None, tuple[int, int]]:
        group = self._groups.get(number, number)
        return self._used.get(group), self._limits.get(group, btrfs.NO_LIMITS)


def _runs(numbers: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Ordered numbers as ranges of such that are near to each other: first and last."""
    first = last = -1
    for number in numbers:
        if first < 0:
            first = number
        elif number - last > _NEAR:
            yield first, last
            first = number
        last = number
    if first >= 0:
        yield first, last


def _roots(items: list[Item]) -> dict[int, Subvolume]:
    return {number: _root(number, data) for number, _, data in items}


def _root(number: int, data: bytes) -> Subvolume:
    """struct btrfs_root_item. Who is around it is told elsewhere, 0 here."""
    (generation,) = struct.unpack_from("=Q", data, 160)
    (flags,) = struct.unpack_from("=Q", data, 208)
    created = changed = 0
    # A kernel that knew only the short one leaves what is behind it as it was.
    if len(data) > _SHORT and struct.unpack_from("=Q", data, _SHORT) == (generation,):
        changed_s, changed_ns, created_s, created_ns = struct.unpack_from("=QIQI", data, 327)
        changed = changed_s * 1_000_000 + changed_ns // 1000
        created = created_s * 1_000_000 + created_ns // 1000
    return Subvolume(number, 0, bool(flags & 1), created, changed)


def _subtree_groups(items: list[Item]) -> list[tuple[int, int]]:
    """The groups that count a subvolume with what is below it."""
    return [(n, group) for n, group, _ in items if group > n and btrfs.id_of(group) == btrfs.id_of(n)]


def _usages(items: list[Item]) -> dict[int, tuple[int, int]]:
    return {group: btrfs.usage_of(data) for _, group, data in items}


def _limits(items: list[Item]) -> dict[int, tuple[int, int]]:
    return {group: btrfs.limits_of(data) for _, group, data in items}
