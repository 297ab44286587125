# SPDX-License-Identifier: LGPL-2.1-or-later
"""The images of the host, kept right by events: each answer is the one that Images would give just then.

Events are read when somebody asks (linux/dirwatch.py), so that a change of a microsecond ago counts, and no
event loop is needed. What they do not tell of is looked at (image_directory.py); a directory whose file
system tells nothing is examined in full, and so is everything where there are no watches to be had.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from machined.linux.dirwatch import DirectoryWatch
from machined.linux.mountwatch import OwnMounts
from machined.model.image_directory import ImageDirectory
from machined.model.images import SEARCH_PATH, Image, Images
from machined.model.names import HOST, is_image_name

log = logging.getLogger(__name__)

# Within the class, `list` is its method.
Listing = list[Image]


class ImageCache(Images):
    """Images that remembers. Close it."""

    def __init__(self, search_path: tuple[Path, ...] = SEARCH_PATH, version: int = 257) -> None:
        super().__init__(search_path, version)
        self._watches: DirectoryWatch | None = None
        self._mounts: OwnMounts | None = None
        self._directories: dict[str, ImageDirectory] = {}
        self._closed = self._complained = False
        # What the last listing was made of, and itself.
        self._parts: Sequence[Listing] = []
        self._listed: Listing = []
        self.generation = 0
        """Counts listings that were not the same as those before."""

    def find(self, name: str) -> Image | None:
        """As Images.find()."""
        if not is_image_name(name):
            return None
        watches = self._catch_up()
        if watches is None:
            return super().find(name)
        for path in self._search_path:
            directory = self._directory(os.fspath(path))
            known = self._is_current(directory, watches)
            image = directory.find(name) if known else self.find_in(directory.path, name)
            if image is not None:
                return image
        return self._host() if name == HOST else None

    def list(self) -> Listing:
        """As Images.list(). The list belongs to the caller."""
        watches = self._catch_up()
        if watches is None:
            return self._remember([super().list()])
        parts = []
        for place, path in enumerate(self._search_path):
            directory = self._directory(os.fspath(path))
            part = self._known(directory, watches)
            if part is None:
                found: dict[str, Image] = {}
                self.list_in(directory.path, found)
                part = self._as_before(place, [*found.values()])
            parts.append(part)
        parts.append(self._as_before(len(parts), [self._host()]))
        return self._remember(parts)

    def _as_before(self, place: int, part: Listing) -> Listing:
        """The part of the last listing if it says the same."""
        return self._parts[place] if [*self._parts[place : place + 1]] == [part] else part

    def _remember(self, parts: Sequence[Listing]) -> Listing:
        if [*map(id, parts)] != [*map(id, self._parts)]:
            found: dict[str, Image] = {}
            for part in parts:
                for image in part:
                    found.setdefault(image.name, image)
            listed = [*found.values()]
            if listed != self._listed:
                self._listed = listed
                self.generation += 1
            self._parts = parts
        return self._listed.copy()

    # -- events --------------------------------------------------------------------------------------------

    def _directory(self, path: str) -> ImageDirectory:
        found = self._directories.get(path)
        if found is None:
            found = self._directories[path] = ImageDirectory(path, self)
        return found

    def _catch_up(self) -> DirectoryWatch | None:
        """Hear of what has happened until now; None where nobody tells."""
        if self._closed:
            return None
        try:
            if self._watches is None:
                self._mounts = OwnMounts()
                self._watches = DirectoryWatch()
            changes = self._watches.changes()
        except OSError as error:
            self._give_up(error)
            return None
        for directory in self._directories.values():
            if changes is None:
                directory.changed(None)
            elif directory.watch in changes:
                directory.changed(changes[directory.watch])
        return self._watches

    def _is_current(self, directory: ImageDirectory, watches: DirectoryWatch) -> bool:
        assert self._mounts is not None
        try:
            return directory.current(watches, self._mounts.targets())
        except OSError as error:
            self._lose(directory, error)
            return False

    def _known(self, directory: ImageDirectory, watches: DirectoryWatch) -> Listing | None:
        """The images of a directory, None where it has to be examined."""
        if not self._is_current(directory, watches):
            return None
        try:
            return directory.images()
        except OSError as error:
            self._lose(directory, error)
            return None

    def _lose(self, directory: ImageDirectory, error: OSError) -> None:
        directory.let_go()
        self._complain(f"the image directory {directory.path}", error)

    def _give_up(self, error: OSError) -> None:
        self._let_go()
        self._complain("the image directories", error)

    def _complain(self, what: str, error: OSError) -> None:
        if not self._complained:
            self._complained = True
            log.warning("Cannot watch %s, looking at all images each time instead: %s", what, error)

    def _let_go(self) -> None:
        for directory in self._directories.values():
            directory.let_go()
        if self._watches is not None:
            self._watches.close()
        if self._mounts is not None:
            self._mounts.close()
        self._watches = self._mounts = None

    def close(self) -> None:
        """Let go of all watches; what is asked from then on is looked at. Idempotent."""
        self._closed = True
        self._let_go()
