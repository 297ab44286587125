# SPDX-License-Identifier: LGPL-2.1-or-later
"""One directory of the search path, with what is known of the images in it.

What an entry is stays as it was found for as long as no event names it, with these exceptions, which no
event tells of and which are looked at at each question:

- which directory the path means, and whether its file system is read-only;
- the immutable attribute of a tree: nobody has write access to what has it, so access(2) answers that;
- size, blocks and times of a disk image, and that it is changed by another of its names: stat(2);
- what subvolumes are and use: their file system tells of all together (linux/subvolumes.py);
- all that is elsewhere or told by ioctl(2): links, block devices, mounts, NAME.v/, NAME.mstack/, and trees
  that are immutable. Those are examined as if nothing were known.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
import time
from collections.abc import Iterable
from enum import Enum
from typing import Final, NamedTuple

from machined.linux import btrfs, statx
from machined.linux.dirwatch import DirectoryWatch
from machined.linux.fds import OwnedFd
from machined.linux.subvolumes import Subvolumes, Told
from machined.model import stacks
from machined.model.images import Image, Images, ImageType
from machined.model.names import is_image_name

log = logging.getLogger(__name__)

# A file that has been changed so lately may change once more and have the same time of change (ns).
YOUNG: Final = 100_000_000


class _How(Enum):
    """What keeps an entry right."""

    EVENTS = "events"
    ACCESS = "events, and that it can be written to"
    STATUS = "events, and its status"
    TOLD = "events, and what its file system tells of subvolumes"
    NOTHING = "nothing"


class _Entry:
    __slots__ = ("how", "image", "number", "path", "status", "told")

    def __init__(
        self, path: str, image: Image | None, how: _How, status: tuple[int, ...] = (), number: int = 0
    ) -> None:
        self.path = path
        self.image = image
        self.how = how
        self.status = status
        # A subvolume has its image when it has been told of.
        self.number = number
        self.told: Told | None = None

    def good(self) -> bool:
        """Whether the image is still right, as far as no event would tell."""
        if self.how is _How.ACCESS:
            return os.access(self.path, os.W_OK)
        if self.how is _How.STATUS:
            return bool(self.status) and _status(self.path) == self.status
        return self.how is _How.EVENTS


class _Identity(NamedTuple):
    """What the path of a directory means."""

    device: int
    inode: int
    real: str
    read_only: bool


class ImageDirectory:
    """The images of one directory: `current()` first, then what is asked."""

    def __init__(self, path: str, images: Images) -> None:
        self.path = path
        self._images = images
        self._watches: DirectoryWatch | None = None
        self.watch = -1
        """The number of its watch, -1 for none."""
        self._identity: _Identity | None = None
        self._lost = True
        self._changed: set[str] = set()
        self._mounts: frozenset[str] = frozenset()
        self._mounted: frozenset[str] = frozenset()
        self._entries: dict[str, _Entry] = {}
        # Made from the entries when there has been a change.
        self._listed: list[Image] | None = None
        self._unsure: dict[_How, list[str]] | None = None
        self._writable: list[bytes] = []
        # None where the file system has none, or does not tell us.
        self._subvolumes: Subvolumes | None = None

    # -- what has changed ----------------------------------------------------------------------------------

    def changed(self, names: Iterable[str] | None) -> None:
        """Something happened to these entries; None: to any."""
        if names is None:
            self._lost = True
        else:
            self._changed.update(names)

    def current(self, watches: DirectoryWatch, mounts: frozenset[str]) -> bool:
        """Take over what has happened; False when events do not tell of this directory. Raises OSError."""
        identity = self._look_at_directory()
        if identity is None:
            if self._identity is not None:
                self.let_go()
            return True  # and has no entries
        if identity != self._identity or self._lost or (self._changed and not self._entries):
            # A directory that was empty may have got another mind about upper and lower case.
            return self._scan(identity, watches, mounts)
        if mounts is not self._mounts:
            self._take_mounts(identity, mounts)
        if self._changed:
            changed, self._changed = self._changed, set()
            for name in changed:
                self._look(name)
        return self.watch >= 0

    def _look_at_directory(self) -> _Identity | None:
        try:
            status = os.stat(self.path)
            if not stat.S_ISDIR(status.st_mode):
                return None
            read_only = bool(os.statvfs(self.path).f_flag & os.ST_RDONLY)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return _Identity(status.st_dev, status.st_ino, os.path.realpath(self.path), read_only)

    def _take_mounts(self, identity: _Identity, mounts: frozenset[str]) -> None:
        inside = identity.real.rstrip("/") + "/"
        below = (target[len(inside) :] for target in mounts if target.startswith(inside))
        mounted = frozenset(name for name in below if "/" not in name)
        self._changed |= mounted ^ self._mounted
        self._mounts, self._mounted = mounts, mounted

    def _scan(self, identity: _Identity, watches: DirectoryWatch, mounts: frozenset[str]) -> bool:
        self.let_go()
        with OwnedFd(os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)) as fd:
            status = os.fstat(fd.fileno())
            if (status.st_dev, status.st_ino) != (identity.device, identity.inode):
                return False  # it has been replaced just now
            # The watch comes first: what changes from here on is told.
            watch = watches.add(fd.fileno())
            if watch is not None:
                self._watches, self.watch = watches, watch
            names = os.listdir(fd.fileno()) if watch is not None else []
        self._identity, self._lost = identity, False
        self._subvolumes = Subvolumes() if statx.is_btrfs(self.path) else None
        self._take_mounts(identity, mounts)
        self._changed.clear()
        for name in names:
            self._look(name)
        return watch is not None

    def let_go(self) -> None:
        """Forget everything."""
        if self._watches is not None:
            self._watches.remove(self.watch)
        self._watches, self.watch, self._identity, self._lost = None, -1, None, True
        self._mounts, self._mounted = frozenset(), frozenset()
        self._changed.clear()
        self._entries.clear()
        self._listed, self._unsure, self._writable, self._subvolumes = None, None, [], None

    # -- entries -------------------------------------------------------------------------------------------

    def _look(self, name: str) -> None:
        """Find out what an entry is now."""
        before, found = self._entries.get(name), self._examine(name)
        if found is None:
            self._entries.pop(name, None)
        else:
            self._entries[name] = found
        if before is None or found is None or before.image != found.image:
            self._listed = None
        if before is None or found is None or before.how is not found.how:
            self._unsure = None

    def _examine(self, name: str) -> _Entry | None:
        """None when there is no such entry."""
        assert self._identity is not None
        path = f"{self._identity.real}/{name}"
        try:
            status = os.lstat(path)
        except FileNotFoundError:
            return None
        except OSError:
            return _Entry(path, None, _How.NOTHING)
        kind = stat.S_IFMT(status.st_mode)
        plain = kind == stat.S_IFDIR and not name.endswith((".v", stacks.SUFFIX))
        if status.st_dev != self._identity.device or name in self._mounted:
            if plain and status.st_ino == btrfs.SUBVOLUME_INODE and name not in self._mounted:
                return self._subvolume(path, name)
            return self._afresh(path, name)
        if plain:
            return self._directory(path, name)
        if kind == stat.S_IFREG and name.endswith(".raw"):
            known = _settled(_status(path))
            return _Entry(path, self._images.entry(path, name, ()), _How.STATUS, known)
        if kind in {stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR}:
            return _Entry(path, None, _How.EVENTS)
        return self._afresh(path, name)

    def _afresh(self, path: str, name: str) -> _Entry:
        return _Entry(path, self._images.entry(path, name, ()), _How.NOTHING)

    def _subvolume(self, path: str, name: str) -> _Entry:
        """What is no mount and yet on another device."""
        if self._subvolumes is None:
            return self._afresh(path, name)
        if not is_image_name(name):
            return _Entry(path, None, _How.EVENTS)
        try:
            with btrfs.open_directory(path) as directory:
                number = btrfs.info(directory.fileno()).id
        except OSError:
            return self._afresh(path, name)
        return _Entry(path, None, _How.TOLD, number=number)

    def _directory(self, path: str, name: str) -> _Entry:
        assert self._identity is not None
        image = self._images.entry(path, name, ())
        how = _How.NOTHING
        if image is None:
            how = how if is_image_name(name) else _How.EVENTS
        elif image.type is ImageType.DIRECTORY:
            if not image.read_only:
                how = _How.ACCESS if os.access(path, os.W_OK) else how
            elif self._identity.read_only or self._images.is_fixed(image.path, name):
                how = _How.EVENTS
        return _Entry(path, image, how)

    # -- answers -------------------------------------------------------------------------------------------

    def find(self, name: str) -> Image | None:
        """The image of a name in this directory."""
        for entry, suffix, versioned in self._images.candidates(name):
            known = self._entries.get(entry)
            if known is None:
                continue
            image = known.image
            # A directory NAME.raw is found by a listing alone, and then by another name.
            same = image is not None and image.name == name and (suffix or not name.endswith(".raw"))
            if versioned or not same or not known.good():
                image = self._images.examine(known.path, name, suffix, versioned=versioned)
            if image is not None:
                return image
        return None

    def images(self) -> list[Image]:
        """All images, in order, a name that two entries have twice: the same list if nothing has changed.

        Raises OSError (the directory has gone just now).
        """
        unsure = self._unsure
        if unsure is None:
            unsure = self._unsure = {how: [] for how in _How}
            for name, entry in self._entries.items():
                unsure[entry.how].append(name)
            self._writable = [os.fsencode(name) for name in unsure[_How.ACCESS]]
        for name in self._unwritable():
            self._look(name)
        for name in unsure[_How.STATUS]:
            entry = self._entries[name]
            if not entry.status or entry.status != _status(entry.path):
                self._look(name)
        for name in unsure[_How.NOTHING]:
            self._look(name)
        told = unsure[_How.TOLD]
        if self._unsure is None:
            told = [name for name, entry in self._entries.items() if entry.how is _How.TOLD]
        if told:
            self._ask_file_system(told)
        if self._listed is None:
            inside = (self._entries[name].image for name in sorted(self._entries))
            self._listed = [image for image in inside if image is not None]
        return self._listed

    def _ask_file_system(self, names: list[str]) -> None:
        """What the subvolumes of these names are now."""
        assert self._identity is not None
        assert self._subvolumes is not None
        entries = [self._entries[name] for name in names]
        with OwnedFd(os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)) as fd:
            status = os.fstat(fd.fileno())
            if (status.st_dev, status.st_ino) != (self._identity.device, self._identity.inode):
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self.path)
            try:
                told = self._subvolumes.read(fd.fileno(), {entry.number for entry in entries})
            except OSError:  # not ours to ask
                self._subvolumes, told = None, {}
        for name, entry in zip(names, entries, strict=True):
            new = told.get(entry.number)
            if new is None:
                self._look_again(name)
            elif new is not entry.told:
                fixed = self._identity.read_only or self._images.is_fixed(entry.path, name)
                image = self._images.subvolume(entry.path, name, new, fixed=fixed)
                entry.told = new
                if image != entry.image:
                    entry.image, self._listed = image, None

    def _look_again(self, name: str) -> None:
        """At what is no more the subvolume that it was."""
        self._look(name)
        entry = self._entries.get(name)
        if entry is not None and entry.how is _How.TOLD:
            self._entries[name] = self._afresh(entry.path, name)
            self._listed = self._unsure = None

    def _unwritable(self) -> list[str]:
        """Which entries can be written to no more. Of thousands: nothing is quicker than this loop."""
        if not self._writable:
            return []
        access, wanted = os.access, os.W_OK
        with OwnedFd(os.open(self.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)) as fd:
            place = fd.fileno()
            return [os.fsdecode(n) for n in self._writable if not access(n, wanted, dir_fd=place)]


def _status(path: str) -> tuple[int, ...]:
    """What tells one state of a disk image from another; empty when it is gone."""
    try:
        s = os.stat(path)
    except OSError:
        return ()
    # Whatever else changes moves the time of change; blocks may be given out late.
    return s.st_ino, s.st_size, s.st_blocks, s.st_ctime_ns


def _settled(status: tuple[int, ...]) -> tuple[int, ...]:
    """The same, or nothing while another change could go unseen."""
    return status if status and time.time_ns() - status[-1] > YOUNG else ()
