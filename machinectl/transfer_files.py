# SPDX-License-Identifier: LGPL-2.1-or-later
"""The local ends of transfers: what is imported, and where an export goes.

systemd-importd takes descriptors of regular files, pipes and directories, and refuses all others.
"""

from __future__ import annotations

import os
import stat
import sys
from types import TracebackType
from typing import Self

from .errors import CommandError
from .names import clean

_NEEDED = "systemd-importd takes regular files and pipes"


class Source:
    """Something to import: `fd`, and `size` in bytes where there is one (0: a pipe, a directory)."""

    def __init__(self, path: str, *, directory: bool = False) -> None:
        """ "" and "-" stand for standard input. Raises CommandError."""
        self.path = "" if path == "-" else path
        self.size = 0
        self._regular = False
        if not self.path:
            self.fd = os.dup(0)
        else:
            flags = os.O_RDONLY | os.O_CLOEXEC | (os.O_DIRECTORY if directory else os.O_NOCTTY)
            try:
                self.fd = os.open(self.path, flags)
            except OSError as error:
                what = "directory " if directory else ""
                raise CommandError(f"Failed to open {what}'{clean(path)}': {error.strerror}") from error
        try:
            self._check(directory)
        except BaseException:
            self.close()
            raise

    def position(self) -> int:
        """How much of a regular file has been read, in bytes: the offset is importd's too. Else 0."""
        return os.lseek(self.fd, 0, os.SEEK_CUR) if self._regular else 0

    def close(self) -> None:
        os.close(self.fd)

    def _check(self, directory: bool) -> None:
        found = os.fstat(self.fd)
        name = f"'{clean(self.path)}'" if self.path else "standard input"
        self._regular = stat.S_ISREG(found.st_mode)
        self.size = found.st_size if self._regular else 0
        if directory:
            if not stat.S_ISDIR(found.st_mode):
                raise CommandError(f"Cannot import {name}: it is not a directory.")
        elif stat.S_ISDIR(found.st_mode):
            raise CommandError(f"Cannot import {name}: it is a directory.", "'import-fs' takes those.")
        elif not self._regular and not stat.S_ISFIFO(found.st_mode):
            kind = "a terminal" if os.isatty(self.fd) else "neither a file nor a pipe"
            raise CommandError(
                f"Cannot import {name}: it is {kind}, and {_NEEDED}.",
                "Name a FILE, or send one through a pipe: 'zstd -dc FILE | machinectl import-tar - NAME'.",
            )


class Destination:
    """Where an export goes: `fd`. Used as a context manager; `keep` at the end, or nothing remains.

    A file grows under a hidden name beside the one it gets, and takes its place when it is whole: what
    was there before is there until then. Pipes and standard output are written to as they are.
    """

    def __init__(self, path: str, *, force: bool) -> None:
        """ "" and "-" stand for standard output. Raises CommandError, for a file that is there, too."""
        self.path = "" if path == "-" else path
        self._target = ""
        self._temporary = ""
        self._fresh = False  # nothing was there, and nothing may be replaced
        self._empty: os.stat_result | None = None  # what may be replaced for as long as it is that
        if not self.path:
            self._standard_output()
            return
        self._target = os.path.realpath(self.path)
        try:
            self._open(force)
        except OSError as error:
            raise CommandError(f"Failed to open '{clean(path)}' for writing: {error.strerror}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self.fd)
        if self._temporary:
            os.unlink(self._temporary)

    def written(self) -> int:
        """Bytes in it by now; 0 for a pipe."""
        found = os.fstat(self.fd)
        return found.st_size if stat.S_ISREG(found.st_mode) else 0

    def keep(self) -> None:
        """It is whole. Raises CommandError where it cannot take its place."""
        if not self._temporary:
            return
        try:
            if self._empty is not None and not self._is_still_empty(self._empty):
                raise self._is_there()
            if self._fresh:
                self._take_free_name()
            else:
                os.rename(self._temporary, self._target)
                self._temporary = ""
        except FileExistsError as error:
            raise self._is_there() from error
        except OSError as error:
            raise CommandError(
                f"Failed to put the export in place as '{clean(self.path)}': {error.strerror}"
            ) from error

    def _take_free_name(self) -> None:
        """What others have put there meanwhile is theirs: FileExistsError."""
        try:
            os.link(self._temporary, self._target, follow_symlinks=False)
        except FileExistsError:
            raise
        except OSError as error:  # a file system without links
            if os.path.lexists(self._target):
                raise FileExistsError(self._target) from error
            os.rename(self._temporary, self._target)
            self._temporary = ""

    def _is_still_empty(self, before: os.stat_result) -> bool:
        try:
            now = os.stat(self._target, follow_symlinks=False)
        except FileNotFoundError:
            return True
        return os.path.samestat(now, before) and not now.st_size

    def _is_there(self) -> CommandError:
        return CommandError(
            f"Cannot export to '{clean(self.path)}': that file is there already.", "--force replaces it."
        )

    def _standard_output(self) -> None:
        found = os.fstat(1)
        if os.isatty(1):
            raise CommandError(
                "Refusing to write an image to the terminal.",
                "Name a FILE, or redirect standard output: '> FILE', '| COMMAND'.",
            )
        if not stat.S_ISREG(found.st_mode) and not stat.S_ISFIFO(found.st_mode):
            raise CommandError(
                f"Cannot export to standard output: it is neither a file nor a pipe, and {_NEEDED}.",
                "Send it through a pipe: '… | cat'.",
            )
        sys.stdout.flush()
        self.fd = os.dup(1)

    def _open(self, force: bool) -> None:
        flags = os.O_WRONLY | os.O_CLOEXEC | os.O_NOCTTY
        try:
            before = os.stat(self._target)
        except FileNotFoundError:
            self._fresh = not force
            self._make_temporary(0o666)
            return
        if stat.S_ISFIFO(before.st_mode):
            self.fd = os.open(self._target, flags)
            return
        if not stat.S_ISREG(before.st_mode):
            kind = "a directory" if stat.S_ISDIR(before.st_mode) else "neither a file nor a pipe"
            raise CommandError(f"Cannot export to '{clean(self.path)}': it is {kind}.")
        # One of no size is what mktemp(1) makes to be written to.
        if before.st_size and not force:
            raise self._is_there()
        self._empty = None if force else before
        os.close(os.open(self._target, flags))  # may it be written to?
        self._make_temporary(0o600)
        try:
            if (before.st_uid, before.st_gid) != (os.geteuid(), os.getegid()):
                os.fchown(self.fd, before.st_uid, before.st_gid)
            os.fchmod(self.fd, stat.S_IMODE(before.st_mode))
        except BaseException:
            self.__exit__(None, None, None)
            raise

    def _make_temporary(self, mode: int) -> None:
        directory, name = os.path.split(self._target)
        path = os.path.join(directory, f".#{name[:200]}{os.urandom(8).hex()}")
        self.fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        self._temporary = path
