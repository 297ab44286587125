# SPDX-License-Identifier: LGPL-2.1-or-later
"""Items in the trees of a btrfs file system, by BTRFS_IOC_TREE_SEARCH_V2 (linux/btrfs.h). Raises OSError.

What was read before is decoded once, for as long as the kernel says the same.
"""

from __future__ import annotations

import fcntl
import struct
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

LAST: Final = 0xFFFF_FFFF_FFFF_FFFF
ROOT_TREE, QUOTA_TREE = 1, 8
ROOT_ITEM, ROOT_REF, QGROUP_INFO, QGROUP_LIMIT, QGROUP_RELATION = 132, 156, 242, 244, 246
# _IOWR(0x94, 17, struct btrfs_ioctl_search_args_v2)
_TREE_SEARCH_V2: Final = 3 << 30 | 112 << 16 | 0x94 << 8 | 17
_KEY: Final = struct.Struct("=7Q4I4QQ")  # and the size of the room behind it
_HEADER: Final = struct.Struct("=QQQII")
_COUNT: Final = 9  # of the key: how many items are wanted, and were found
_ALL: Final = 0xFFFF_FFFF
# No item of these trees is larger: where there is room for one more, there are no more.
_LARGEST: Final = 1024
FEW, MANY = 4096, 65536
"""How much room an answer has."""

Item = tuple[int, int, bytes]
"""Object id, offset, data."""


class Range(NamedTuple):
    """Items of one kind in a tree, first and last number included."""

    tree: int
    kind: int
    objects: tuple[int, int]
    offsets: tuple[int, int] = (0, LAST)


class _Page(NamedTuple):
    answer: bytearray
    content: Any
    following: tuple[int, int] | None
    """Where the next page begins, None at the end."""


def search(fd: int, wanted: Range, room: int = FEW) -> Iterator[Item]:
    """The items, in their order."""
    position: tuple[int, int] | None = (wanted.objects[0], wanted.offsets[0])
    while position is not None:
        items, position = _parse(_ask(fd, wanted, position, room), wanted, room)
        yield from items


class Reader:
    """Reads pages of items, and knows those of the time before."""

    def __init__(self) -> None:
        self._before: dict[tuple[Range, tuple[int, int]], _Page] = {}
        self._now: dict[tuple[Range, tuple[int, int]], _Page] = {}

    def begin(self) -> None:
        """Read everything anew."""
        self._before, self._now = self._now, {}

    def same(self) -> bool:
        """Whether what has been read since is what was read the time before."""
        before, now = self._before, self._now
        return before.keys() == now.keys() and all(page is before[key] for key, page in now.items())

    def pages(self, fd: int, wanted: Range, decode: Callable[[list[Item]], Any], room: int) -> Iterator[Any]:
        """What `decode` makes of the items of each page."""
        position: tuple[int, int] | None = (wanted.objects[0], wanted.offsets[0])
        while position is not None:
            answer, key = _ask(fd, wanted, position, room), (wanted, position)
            page = self._before.get(key)
            if page is None or page.answer != answer:
                items, following = _parse(answer, wanted, room)
                page = _Page(answer, decode(items), following)
            self._now[key] = page
            yield page.content
            position = page.following


def _ask(fd: int, wanted: Range, position: tuple[int, int], room: int) -> bytearray:
    tree, kind, objects, offsets = wanted
    key = _KEY.pack(
        tree,
        position[0],
        objects[1],
        position[1],
        offsets[1],
        0,
        LAST,
        kind,
        kind,
        _ALL,
        0,
        0,
        0,
        0,
        0,
        room,
    )
    answer = bytearray(key.ljust(_KEY.size + room, b"\0"))
    fcntl.ioctl(fd, _TREE_SEARCH_V2, answer)
    return answer


def _parse(answer: bytearray, wanted: Range, room: int) -> tuple[list[Item], tuple[int, int] | None]:
    """The items of an answer, and where the next one begins."""
    (low, high), (first, last), kind = wanted.objects, wanted.offsets, wanted.kind
    items, place, found, offset, type_ = [], _KEY.size, 0, 0, 0
    count = _KEY.unpack_from(answer)[_COUNT]
    for _ in range(count):
        _, found, offset, type_, length = _HEADER.unpack_from(answer, place)
        place += _HEADER.size
        # The range is one of whole keys, so that there are other kinds between objects.
        if type_ == kind and low <= found <= high and first <= offset <= last:
            items.append((found, offset, bytes(answer[place : place + length])))
        place += length
    if not count or _KEY.size + room - place >= _LARGEST + _HEADER.size:
        return items, None
    # The next key in the order of (object, type, offset).
    if type_ < kind:
        following = found, first
    elif type_ > kind or offset >= LAST:
        following = found + 1, first
    else:
        following = found, offset + 1
    return items, following if following <= (high, last) else None
