# SPDX-License-Identifier: LGPL-2.1-or-later
"""A directory moved into a btrfs file that is mounted over it, and back.

Whoever is killed on the way leaves one of both whole, and `recover` finds out which: what is seen at the
directory is what counts, always. What is under way lies in a hidden directory beside it.

The steps that change what is seen are one system call each: to make, mount(2) over the directory, then
rename(2) of the file to the name by which it is mounted at boot; to remove, rename(2) away from that name,
then umount(2). What the other side held is removed only after that.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from machined.linux import btrfs, inventory, loopfile, mounts, poolcopy, quotas, trees

# What is below the mount, or comes to be, is ours. Without this note it may be anybody's.
_OURS: Final = "ours"


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
    _copy(place.directory, pool)
    mounts.unmount(pool)
    _sync(place.raw)
    _take(place)
    loopfile.mount(place.raw, place.directory)
    os.rename(place.raw, place.file)
    _sync(place.parent)
    _finish(place, ours=True)


def remove(place: Place) -> None:
    """Put what is in a file that is mounted over a directory back into the directory. As make().

    ENOTEMPTY when something lies below the mount, EBUSY when the mount is in use.
    """
    os.mkdir(place.staging, 0o700)
    with _uncovered(place) as hidden:
        if found := os.listdir(hidden):
            raise OSError(errno.ENOTEMPTY, f"'{found[0]}' lies below what is mounted there", place.directory)
    _take(place)
    tree = place.staged("tree")
    os.mkdir(tree, 0o700)
    _copy(place.directory, tree)
    with _uncovered(place) as hidden:
        inside = os.path.join(os.path.dirname(hidden), os.path.basename(place.staging), "tree")
        for name in os.listdir(inside):
            trees.rename(os.path.join(inside, name), os.path.join(hidden, name))
        poolcopy.be_like(place.directory, hidden)
    _sync_all(place.parent)
    os.rename(place.file, place.raw)
    _sync(place.parent)
    mounts.unmount(place.directory)
    _finish(place, ours=True)


def recover(place: Place) -> None:
    """Take away what somebody who was killed, or who failed, has left. OSError; harmless at any time.

    Only one may be at it, and nobody else at make() or remove().
    """
    if not place.has_leftovers:
        return
    for mount in reversed(mounts.below(place.staging)):
        mounts.unmount(mount.target)
    ours = os.path.lexists(place.staged(_OURS))
    if ours:
        _settle(place)
    _finish(place, ours=ours)


def _settle(place: Place) -> None:
    """See that the file has its name if it is what is seen at the directory."""
    mounted = loopfile.find(place.directory)
    if mounted is None and place.is_mounted:
        raise OSError(errno.EBUSY, "something that is not ours is mounted over it", place.directory)
    if mounted is not None and os.path.lexists(place.raw) and os.path.samefile(mounted.path, place.raw):
        os.rename(place.raw, place.file)
        _sync(place.parent)
    elif mounted is None and os.path.lexists(place.file):
        # It is what counted last, and somebody unmounted it, or it did not come up with the host.
        loopfile.mount(place.file, place.directory)


def user_of(directory: str) -> str:
    """A process that is in a directory or has something open there, for people; empty when there is none.

    Who hides in a mount namespace of its own is not found.
    """
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        if int(pid) == os.getpid():
            continue
        with contextlib.suppress(OSError):  # it has ended meanwhile
            links = [f"/proc/{pid}/{name}" for name in ("cwd", "root", "exe")]
            links += [f"/proc/{pid}/fd/{fd}" for fd in os.listdir(f"/proc/{pid}/fd")]
            for link in links:
                with contextlib.suppress(OSError):  # a kernel thread has no program
                    if f"{os.readlink(link)}/".startswith(f"{directory}/"):
                        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
                            return f"process '{file.read().strip()}' (PID {pid})"
    return ""


# -- parts of both -----------------------------------------------------------------------------------------


def _take(place: Place) -> None:
    """Note that what is below the mount is ours to remove, so that it is known after a loss of power too."""
    os.mkdir(place.staged(_OURS), 0o700)
    _sync(place.staging)


def _copy(source: str, target: str) -> None:
    before = inventory.summary(source)
    poolcopy.copy(source, target)
    if path := inventory.difference(source, target):
        raise OSError(errno.EBUSY, f"'{path}' was changed while it was copied, or cannot be copied", source)
    if inventory.summary(source) != before:
        raise OSError(errno.EBUSY, "something in it was changed while it was copied", source)


def _finish(place: Place, *, ours: bool) -> None:
    """Remove the side that is not seen, and all that is in the staging directory."""
    # A file that never got its name is not what is mounted there.
    if ours and not os.path.lexists(place.raw) and loopfile.find(place.directory) is not None:
        with _uncovered(place) as hidden:
            for name in os.listdir(hidden):
                _discard(os.path.join(hidden, name))
    with contextlib.suppress(FileNotFoundError):
        os.unlink(place.raw)
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(place.staged("tree")):
            _discard(os.path.join(place.staged("tree"), name))
    for name in ("tree", "pool", "under", _OURS):  # the note goes last
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(place.staged(name))
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


def _sync(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _sync_all(path: str) -> None:
    """All of the file system that a path is on."""
    trees.run("sync", "--file-system", "--", path)
