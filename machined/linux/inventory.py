# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is in a tree, without its data: how much it takes, whether it changed, whether a copy is like it.

What a copy can bring along is compared: kinds, owners, modes, sizes, times, links, extended attributes. Data
is not read again: whoever copied it has said whether that went well.
"""

from __future__ import annotations

import collections
import errno
import hashlib
import itertools
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass

# security.selinux is what the policy of a place says, btrfs.* is a property of its file system.
_ATTRIBUTES = ("user.", "trusted.", "security.", "system.posix_acl_")
_NOT_COPIED = ("security.selinux",)
_BLOCK = 4096


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of a tree. `like` is what a copy has to have as well, `state` changes when the file does."""

    path: str
    first: str
    """The first path by which it was seen."""
    own: tuple[object, ...]
    state: tuple[int, ...]
    allocated: int
    """Bytes; 0 for a further name of what was seen already."""

    @property
    def like(self) -> tuple[object, ...]:
        return self.first, *self.own

    @property
    def top(self) -> str:
        return self.path.partition("/")[0]


@dataclass(frozen=True, slots=True)
class Summary:
    """Of a tree at one moment: equal digests are a tree that nobody has touched in between."""

    allocated: int
    digest: str
    parts: dict[str, str]
    """By the first names of the tree, digests that stay when some of them are moved or removed."""


def is_passing(name: str) -> bool:
    """Whether a file of a pool is there for a while only: a lock, or what an operation is making."""
    return name.startswith(".#machined-") or (name.startswith(".#") and name.endswith(".lck"))


def entries(top: str) -> Iterator[Entry]:
    """All of a pool in a fixed order, but for what is passing in it. Goes into what is mounted there."""
    with os.scandir(top) as found:
        first = sorted((entry for entry in found if not is_passing(entry.name)), key=_name)
    together: dict[tuple[int, int], str] = {}  # files that lie beside one another stay one if they are one
    for entry in first:
        links = {} if entry.is_dir(follow_symlinks=False) else together
        waiting = [(entry, entry.name)]  # not by recursion: a guest may have made its tree very deep
        while waiting:
            inner, path = waiting.pop()
            yield _entry(inner.path, path, links)
            if inner.is_dir(follow_symlinks=False):
                with os.scandir(inner.path) as found:
                    inside = sorted(found, key=_name, reverse=True)
                waiting += [(child, f"{path}/{child.name}") for child in inside]


def _name(entry: os.DirEntry[str]) -> str:
    return entry.name


def _entry(place: str, path: str, links: dict[tuple[int, int], str]) -> Entry:
    status = os.lstat(place)
    kind = stat.S_IFMT(status.st_mode)
    identity = status.st_dev, status.st_ino
    single = kind == stat.S_IFDIR or status.st_nlink == 1
    first = path if single else links.setdefault(identity, path)
    own = (
        status.st_mode,
        status.st_uid,
        status.st_gid,
        0 if kind == stat.S_IFDIR else status.st_size,
        status.st_mtime_ns,
        status.st_rdev if kind in {stat.S_IFBLK, stat.S_IFCHR} else 0,
        os.readlink(place) if kind == stat.S_IFLNK else "",
        _attributes(place),
    )
    state = *identity, status.st_ctime_ns, status.st_size
    return Entry(path, first, own, state, status.st_blocks * 512 + _BLOCK if first == path else 0)


def _attributes(place: str) -> tuple[tuple[str, bytes], ...]:
    try:
        names = os.listxattr(place, follow_symlinks=False)
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        return ()
    wanted = sorted(name for name in names if name.startswith(_ATTRIBUTES) and name not in _NOT_COPIED)
    return tuple((name, os.getxattr(place, name, follow_symlinks=False)) for name in wanted)


def summary(top: str) -> Summary:
    """OSError."""
    allocated, digest = 0, hashlib.sha256()
    parts: dict[str, hashlib._Hash] = collections.defaultdict(hashlib.sha256)
    for entry in entries(top):
        allocated += entry.allocated
        digest.update(_raw(entry.path, entry.like, entry.state))
        # No time of change, which a rename sets, nor to what else the file is linked outside of the part.
        inner = entry.path != entry.top
        inode = entry.state[1]
        parts[entry.top].update(_raw(entry.path, entry.first if inner else "", entry.own, inode))
    return Summary(allocated, digest.hexdigest(), {name: part.hexdigest() for name, part in parts.items()})


def _raw(*of: object) -> bytes:
    return repr(of).encode("utf-8", "surrogateescape")


def difference(original: str, copy: str) -> str:
    """The path of the first file of which a copy is not like the original; empty when it is all alike."""
    for one, other in itertools.zip_longest(entries(original), entries(copy)):
        if one is None or other is None or (one.path, one.like) != (other.path, other.like):
            return min(entry.path for entry in (one, other) if entry is not None)
    return ""
