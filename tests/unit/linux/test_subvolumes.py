# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is read of the trees of a btrfs, with how many questions. The kernel is played."""

from __future__ import annotations

import fcntl
import struct
from typing import Any, Final

import pytest

from machined.linux import btrfs, btrfs_trees
from machined.linux.btrfs_trees import QUOTA_TREE, ROOT_TREE, Range
from machined.linux.subvolumes import Subvolumes

SEARCH: Final = 3 << 30 | 112 << 16 | 0x94 << 8 | 17
RESCAN_STATUS: Final = 2 << 30 | 64 << 16 | 0x94 << 8 | 45
RELATION, INFO, LIMIT = btrfs_trees.QGROUP_RELATION, btrfs_trees.QGROUP_INFO, btrfs_trees.QGROUP_LIMIT


class Kernel:
    """Trees of items by key (object, type, offset), and searches in them as Linux has them."""

    def __init__(self) -> None:
        self.trees: dict[int, dict[tuple[int, int, int], bytes]] = {ROOT_TREE: {}, QUOTA_TREE: {}}
        self.rescanning = 0
        self.questions = 0

    def ioctl(self, fd: int, request: int, argument: Any) -> Any:
        self.questions += 1
        if request == RESCAN_STATUS:
            return struct.pack("=Q56x", self.rescanning)
        assert request == SEARCH
        key = struct.unpack_from("=7Q4I4QQ", argument)
        (tree, low, high, first, last), (least, most, wanted) = key[:5], key[7:10]
        room = key[15]
        assert len(argument) == 112 + room
        if tree not in self.trees:
            raise FileNotFoundError
        answer = b""
        count = 0
        for place, data in sorted(self.trees[tree].items()):
            if (low, least, first) <= place <= (high, most, last) and count < wanted:
                if len(answer) + 32 + len(data) > room:
                    assert count, "EOVERFLOW"
                    break
                answer += struct.pack("=QQQII", 1, place[0], place[2], place[1], len(data)) + data
                count += 1
        argument[112 : 112 + len(answer)] = answer
        struct.pack_into("=I", argument, 64, count)
        return 0

    def subvolume(self, number: int, *, read_only: bool = False, changed: int = 2) -> None:
        data = bytearray(439)
        struct.pack_into("=Q", data, 160, 7)
        struct.pack_into("=Q", data, 208, read_only)
        struct.pack_into("=Q", data, 239, 7)
        struct.pack_into("=QIQI", data, 327, changed, 5000, 1, 3000)
        self.trees[ROOT_TREE][number, btrfs_trees.ROOT_ITEM, number % 3] = bytes(data)
        self.trees[ROOT_TREE][number, btrfs_trees.ROOT_ITEM + 12, 5] = bytes(40)  # its way back

    def count(self, group: int, used: int, limit: int = 0) -> None:
        self.trees[QUOTA_TREE][0, INFO, group] = struct.pack("=5Q", 1, used, 0, used // 2, 0)
        self.trees[QUOTA_TREE][0, LIMIT, group] = struct.pack("=5Q", limit and 1, limit, 0, 0, 0)

    def relate(self, one: int, other: int) -> None:
        self.trees[QUOTA_TREE][one, RELATION, other] = b""
        self.trees[QUOTA_TREE][other, RELATION, one] = b""


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    played = Kernel()
    monkeypatch.setattr(fcntl, "ioctl", played.ioctl)
    return played


@pytest.mark.parametrize("count", [0, 1, 5, 8, 9, 10, 300])
def test_a_search_finds_all_of_its_kind_and_stops(kernel: Kernel, count: int) -> None:
    tree = kernel.trees[ROOT_TREE]
    for number in range(256, 256 + 5 * count, 5):
        kernel.subvolume(number)
    tree[255, 156, 1] = tree[2000, 132, 0] = tree[2001, 132, 0] = bytes(30)
    wanted = Range(ROOT_TREE, btrfs_trees.ROOT_ITEM, (256, 1999))
    found = [number for number, _, data in btrfs_trees.search(0, wanted) if len(data) == 439]
    assert found == [number for number in range(256, 256 + 5 * count, 5) if number < 2000]
    # Seven of them with what is between them go into an answer. Nothing is asked where there was room left.
    assert kernel.questions <= len(found) // 7 + 1 + (len(found) % 7 == 6)


def test_a_single_one_is_one_question(kernel: Kernel) -> None:
    kernel.count(300, 10, 20)
    kernel.count(301, 10)
    assert btrfs.parents(0, 300) == []
    assert kernel.questions == 1
    assert btrfs.quota(0, 300) == btrfs.Quota(10, 5, 20, btrfs.UNLIMITED)
    assert kernel.questions == 3
    del kernel.trees[QUOTA_TREE]
    assert btrfs.parents(0, 300) == []
    with pytest.raises(OSError):
        btrfs.quota(0, 300)


def test_many_are_read_with_few_questions_and_decoded_once(kernel: Kernel) -> None:
    numbers = [*range(300, 1100), *range(9000, 9200)]
    for number in numbers:
        kernel.subvolume(number, read_only=number % 7 == 0)
        kernel.count(number, number)
        if number % 2:
            kernel.count(btrfs.group(254, number), 10 * number, 10**6)
            kernel.relate(number, btrfs.group(255, number))
            kernel.relate(number, btrfs.group(254, number))  # the lower one counts
            kernel.relate(number, btrfs.group(255, 5))
    subvolumes = Subvolumes()
    told = subvolumes.read(0, {*numbers, 800_000})
    assert [*told] == numbers
    assert kernel.questions < len(numbers) / 20
    assert (told[302].used, told[302].limits) == ((302, 151), btrfs.NO_LIMITS)
    assert (told[303].used, told[303].limits) == ((3030, 1515), (10**6, btrfs.UNLIMITED))
    assert told[303].subvolume == btrfs.Subvolume(303, 0, False, 1_000_003, 2_000_005)
    assert [n for n in numbers if told[n].subvolume.read_only] == [n for n in numbers if n % 7 == 0]
    assert subvolumes.read(0, {*numbers, 800_000}) is told
    kernel.subvolume(400, changed=3)
    kernel.count(btrfs.group(254, 9001), 1)
    again = subvolumes.read(0, {*numbers, 800_000})
    changed = [number for number in numbers if again[number] != told[number]]
    assert changed == [400, 9001]
    # What is far from there was not even decoded.
    assert again[1000] is told[1000]
    del kernel.trees[ROOT_TREE][400, btrfs_trees.ROOT_ITEM, 400 % 3]
    assert [*subvolumes.read(0, numbers)] == [number for number in numbers if number != 400]


def test_what_is_not_to_be_believed(kernel: Kernel) -> None:
    kernel.subvolume(300)
    kernel.count(300, 10)
    subvolumes = Subvolumes()
    assert subvolumes.read(0, [300])[300].used == (10, 5)
    kernel.rescanning = 1
    assert subvolumes.read(0, [300])[300].used is None
    kernel.rescanning = 0
    assert subvolumes.read(0, [300])[300].used == (10, 5)
    del kernel.trees[QUOTA_TREE]
    assert subvolumes.read(0, [300])[300].used is None
    # Written by a kernel that did not know of times.
    item = kernel.trees[ROOT_TREE][300, btrfs_trees.ROOT_ITEM, 0]
    for data in (item[:239], item[:239] + bytes(200)):
        kernel.trees[ROOT_TREE][300, btrfs_trees.ROOT_ITEM, 0] = data
        found = subvolumes.read(0, [300])[300].subvolume
        assert (found.created, found.changed) == (0, 0)
