# SPDX-License-Identifier: LGPL-2.1-or-later
"""A directory moved into a btrfs file that is mounted over it, and back.

Whoever is killed on the way leaves one of both whole, and `recover` finds out which: what is seen at the
directory is what counts, always. What is under way lies in a hidden directory beside it.

The steps that change what is seen are one system call each: to make, mount(2) over the directory, then
rename(2) of the file to the name by which it is mounted at boot; to remove, rename(2) away from that name,
then umount(2). What the other side held is removed only after that, and only what has been noted before as
what was copied: whatever else comes to be below the mount is somebody's who has it nowhere else.

Nobody is to write to the side that is copied, unseen. To make, all of it is looked at once more when it is
covered and cannot be had any more; to remove, it is read-only from the beginning.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from machined.linux import btrfs, inventory, loopfile, mounts, poolcopy, quotas, trees, treeusers

# What is below the mount, or comes to be, is ours if this file says so: by names, with their digests.
_OURS: Final = "ours"
# It was we who made the pool read-only.
_FROZEN: Final = "frozen"


@dataclass(frozen=True, slots=True)
class Place:
    """A directory, the file that is mounted over it, and where work is under way: all in one directory."""

    directory: str
    file: str
    staging: str

    @classmethod
    def of(cls, directory: str) -> Place:
        """/var/lib/machines, /var/lib/machines.raw and /var/lib/.machines.moving."""
        parent, name = os.path.split(directory)
        return cls(directory, f"{directory}.raw", os.path.join(parent, f".{name}.moving"))

    def staged(self, name: str) -> str:
        return os.path.join(self.staging, name)

    @property
    def raw(self) -> str:
        """The file before it has its name, or when it has it no more."""
        return self.staged("raw")

    @property
    def parent(self) -> str:
        return os.path.dirname(self.directory)

    @property
    def is_mounted(self) -> bool:
        return any(mount.target == self.directory for mount in mounts.mount_points())

    @property
    def has_leftovers(self) -> bool:
        return os.path.lexists(self.staging)


# -- to and fro --------------------------------------------------------------------------------------------


def make(place: Place, size: int) -> None:
    """Put what is in a directory into a file of this size, mounted over it. The directory is no mount point.

    OSError: after it, `recover` is to be called. EBUSY when somebody changed something meanwhile.
    """
    os.mkdir(place.staging, 0o700)
    loopfile.make(place.raw, size)
    pool = place.staged("pool")
    os.mkdir(pool, 0o700)
    loopfile.mount(place.raw, pool)
    with btrfs.open_directory(pool) as top:
        btrfs.enable_quota(top.fileno())
        quotas.set_up(top.fileno())
    before = inventory.summary(place.directory)
    poolcopy.copy(place.directory, pool)
    # Here, since an unmount tells nobody when not all of it came to the disk.
    _sync_all(pool)
    mounts.unmount(pool)
    _sync(place.raw)
    loopfile.mount(place.raw, pool, read_only=True)
    _compare(place.directory, pool)
    mounts.unmount(pool)
    _note(place, before.parts)
    loopfile.mount(place.raw, place.directory)
    if why := _changed_below(place, before):
        mounts.unmount(place.directory)
        raise OSError(errno.EBUSY, why, place.directory)
    os.rename(place.raw, place.file)
    _sync(place.parent)
    _finish(place, before.parts, looked=True)


def remove(place: Place) -> None:
    """Put what is in a file that is mounted over a directory back into the directory. As make().

    ENOTEMPTY when something lies below the mount, EBUSY when the mount is in use.
    """
    os.mkdir(place.staging, 0o700)
    with _uncovered(place) as hidden:
        if found := os.listdir(hidden):
            raise OSError(errno.ENOTEMPTY, f"'{found[0]}' lies below what is mounted there", place.directory)
    if "ro" not in mounts.flags_of(place.directory):
        os.mkdir(place.staged(_FROZEN), 0o700)
        loopfile.set_read_only(place.directory, True)
    tree = place.staged("tree")
    os.mkdir(tree, 0o700)
    poolcopy.copy(place.directory, tree)
    _compare(place.directory, tree)
    ours = inventory.summary(tree).parts
    _note(place, ours)
    with _uncovered(place) as hidden:
        inside = _beside(hidden, place, "tree")
        for name in os.listdir(inside):
            trees.rename(os.path.join(inside, name), os.path.join(hidden, name))
        poolcopy.be_like(place.directory, hidden)
    _sync_all(place.parent)
    os.rename(place.file, place.raw)
    _sync(place.parent)
    mounts.unmount(place.directory)
    _finish(place, ours)


def recover(place: Place) -> None:
    """Take away what somebody who was killed, or who failed, has left. OSError; harmless at any time.

    EEXIST when something is in the way that would be lost, and then it stays. Only one may be at it, and
    nobody else at make() or remove().
    """
    if not place.has_leftovers:
        return
    for mount in reversed(mounts.below(place.staging)):
        mounts.unmount(mount.target)
    ours = _noted(place)
    try:
        if ours is not None:
            _settle(place, ours)
    finally:
        _thaw(place)
    _finish(place, ours)


def _settle(place: Place, ours: dict[str, str]) -> None:
    """See that the file has its name if it is what is seen at the directory."""
    mounted = loopfile.find(place.directory)
    if mounted is None and place.is_mounted:
        raise OSError(errno.EBUSY, "something that is not ours is mounted over it", place.directory)
    if mounted is not None and os.path.lexists(place.raw) and os.path.samefile(mounted.path, place.raw):
        with _uncovered(place) as hidden:
            used = treeusers.user_of(place.directory, covered=True)
            alike = not used and inventory.summary(hidden).parts == ours
        if alike:
            os.rename(place.raw, place.file)
            _sync(place.parent)
        else:  # nobody has looked whether it may be covered, and it may not
            mounts.unmount(place.directory)
    elif mounted is None and os.path.lexists(place.file):
        # It is what counted last, and somebody unmounted it, or it did not come up with the host.
        if user := treeusers.user_of(place.directory):
            raise OSError(
                errno.EBUSY,
                f"{place.file} is not mounted, and what is there is used by {user}",
                place.directory,
            )
        _check(place, place.directory, ours, f"in the directory, over which {place.file} was not mounted,")
        loopfile.mount(place.file, place.directory)


def _thaw(place: Place) -> None:
    """Let the pool be written to again if we forbade it."""
    if os.path.lexists(place.staged(_FROZEN)):
        if loopfile.find(place.directory) is not None:
            loopfile.set_read_only(place.directory, False)
        os.rmdir(place.staged(_FROZEN))


# -- parts of both -----------------------------------------------------------------------------------------


def _note(place: Place, parts: dict[str, str]) -> None:
    """Note what is ours to remove below the mount, so that it is known after a loss of power too."""
    new = place.staged(f"{_OURS}.new")
    with open(new, "w", encoding="ascii") as file:
        json.dump(parts, file)
        file.flush()
        os.fsync(file.fileno())
    os.rename(new, place.staged(_OURS))
    _sync(place.staging)


def _noted(place: Place) -> dict[str, str] | None:
    try:
        with open(place.staged(_OURS), encoding="ascii") as file:
            return {str(name): str(digest) for name, digest in json.load(file).items()}
    except FileNotFoundError:
        return None


def _compare(source: str, target: str) -> None:
    if path := inventory.difference(source, target):
        raise OSError(errno.EBUSY, f"'{path}' was changed while it was copied, or cannot be copied", source)


def _changed_below(place: Place, before: inventory.Summary) -> str:
    """What became of the directory until it was covered, for people; empty when it is as it was."""
    if user := treeusers.user_of(place.directory, covered=True):  # first: who has it open may write later
        return f"it is used by {user}"
    with _uncovered(place) as hidden:
        changed = inventory.summary(hidden).digest != before.digest  # the disk's blocks come and go
    return "something in it was changed while it was copied" if changed else ""


def _check(place: Place, tree: str, ours: dict[str, str], where: str) -> None:
    """Raises OSError (EEXIST) when there is something in a tree that was not noted."""
    for name, digest in inventory.summary(tree).parts.items():
        if ours.get(name) != digest:
            why = f"'{name}' {where} is new, or was changed meanwhile: move it away"
            raise OSError(errno.EEXIST, why, place.directory)


def _finish(place: Place, ours: dict[str, str] | None, *, looked: bool = False) -> None:
    """Remove the side that is not seen, and all that is in the staging directory.

    `looked`: it is known that below the mount is only what was noted.
    """
    # A file that never got its name is not what is mounted there.
    if ours is not None and not os.path.lexists(place.raw) and loopfile.find(place.directory) is not None:
        with _uncovered(place) as hidden:
            if not looked:
                _check(place, hidden, ours, "below what is mounted there")
            # At once, so that whoever is killed leaves there what was noted, or nothing.
            aside = _beside(hidden, place, "old")
            with contextlib.suppress(FileExistsError):
                os.mkdir(aside, 0o700)
            for name in os.listdir(hidden):
                trees.rename(os.path.join(hidden, name), os.path.join(aside, name))
    if os.path.lexists(place.raw):
        # The directory counts. Before the file goes that says so, nothing in there is ours any more.
        with contextlib.suppress(FileNotFoundError):
            os.unlink(place.staged(_OURS))
            _sync(place.staging)
        os.unlink(place.raw)
    for tree in (place.staged("tree"), place.staged("old")):
        with contextlib.suppress(FileNotFoundError):
            for name in os.listdir(tree):
                _discard(os.path.join(tree, name))
    for name in ("tree", "old", "pool", "under", _FROZEN):
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(place.staged(name))
    for name in (f"{_OURS}.new", _OURS):  # the note goes last
        with contextlib.suppress(FileNotFoundError):
            os.unlink(place.staged(name))
    os.rmdir(place.staging)
    _sync(place.parent)


def _discard(path: str) -> None:
    kind = "tree" if os.path.isdir(path) and not os.path.islink(path) else "file"
    try:
        trees.remove(path, kind)
    except OSError as error:
        if error.errno not in {errno.EPERM, errno.EACCES}:
            raise
        trees.run("chattr", "-R", "-f", "-i", "-a", "--", path, ignore="chattr")
        trees.remove(path, kind)


@contextmanager
def _uncovered(place: Place) -> Iterator[str]:
    """The directory as it is below what is mounted over it."""
    under = place.staged("under")
    with contextlib.suppress(FileExistsError):
        os.mkdir(under, 0o700)
    trees.run("mount", "--bind", "--", place.parent, under)
    try:
        hidden = os.path.join(under, os.path.basename(place.directory))
        if os.path.samefile(hidden, place.directory):
            raise OSError(errno.ESTALE, "nothing is mounted over it", place.directory)
        yield hidden
    finally:
        mounts.unmount(under)


def _beside(hidden: str, place: Place, name: str) -> str:
    """A place in the staging directory, by the mount that _uncovered() yields: one can rename to there."""
    return os.path.join(os.path.dirname(hidden), os.path.basename(place.staging), name)


def _sync(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _sync_all(path: str) -> None:
    """All of the file system that a path is on."""
    trees.run("sync", "--file-system", "--", path)
