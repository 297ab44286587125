# SPDX-License-Identifier: LGPL-2.1-or-later
"""Small files of a tree that is not to be trusted, changed without ever leaving it.

Links in directories are followed inside the tree, as the tree's own system would; a link in the place of a
file is replaced. A file appears whole or not at all, owned as the one that was there or as its directory.
"""

from __future__ import annotations

import contextlib
import os
import stat
from typing import Final, Self

from machined.linux.fds import OwnedFd
from machined.linux.syscalls import RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS, openat2

LIMIT: Final = 4 * 1024 * 1024
_INSIDE: Final = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS


class Root:
    """The top of a tree, for a with block. Paths are relative to it."""

    def __init__(self, path: str) -> None:
        self._fd = OwnedFd(os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._fd.close()

    def read(self, path: str) -> bytes | None:
        """A regular file of at most LIMIT bytes; None when it is missing, or is something else."""
        data = self.begin(path, LIMIT + 1)
        return data if data is not None and len(data) <= LIMIT else None

    def begin(self, path: str, limit: int) -> bytes | None:
        """The first bytes of a regular file; None when it is missing, or is something else."""
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY
        try:
            fd = openat2(self._fd.fileno(), path, flags, resolve=_INSIDE)
        except OSError:
            return None
        with OwnedFd(fd):
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                return None
            with open(fd, "rb", closefd=False) as file:
                return file.read(limit)

    def is_directory(self, path: str) -> bool:
        with contextlib.suppress(OSError), self._directory(path):
            return True
        return False

    def make_directory(self, path: str, mode: int) -> None:
        """Make a directory that may be there. OSError when something else is, or its parent is missing."""
        parent, name = os.path.split(path)
        with self._directory(parent) as directory:
            try:
                os.mkdir(name, mode, dir_fd=directory.fileno())
            except FileExistsError:
                self._directory(path).close()
                return
            owner = os.fstat(directory.fileno())
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            with OwnedFd(os.open(name, flags, dir_fd=directory.fileno())) as made:
                os.fchown(made.fileno(), owner.st_uid, owner.st_gid)
                os.fchmod(made.fileno(), mode)

    def write(self, path: str, data: bytes, mode: int) -> None:
        """Put a file there; one that was there keeps its owner and mode. OSError."""
        parent, name = os.path.split(path)
        with self._directory(parent) as directory:
            where = directory.fileno()
            owner = os.fstat(where)
            with contextlib.suppress(FileNotFoundError):
                before = os.stat(name, dir_fd=where, follow_symlinks=False)
                if stat.S_ISREG(before.st_mode):
                    owner, mode = before, stat.S_IMODE(before.st_mode)
            temporary = _temporary()
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            with OwnedFd(os.open(temporary, flags, 0o600, dir_fd=where)) as fd:
                try:
                    os.fchown(fd.fileno(), owner.st_uid, owner.st_gid)
                    os.fchmod(fd.fileno(), mode)
                    with open(fd.fileno(), "wb", closefd=False) as file:
                        file.write(data)
                    os.fsync(fd.fileno())
                    os.rename(temporary, name, src_dir_fd=where, dst_dir_fd=where)
                except BaseException:
                    with contextlib.suppress(OSError):
                        os.unlink(temporary, dir_fd=where)
                    raise

    def link(self, path: str, target: str) -> None:
        """Put a symbolic link there, in the place of a file or link. OSError."""
        parent, name = os.path.split(path)
        with self._directory(parent) as directory:
            where = directory.fileno()
            temporary = _temporary()
            os.symlink(target, temporary, dir_fd=where)
            try:
                owner = os.fstat(where)
                os.chown(temporary, owner.st_uid, owner.st_gid, dir_fd=where, follow_symlinks=False)
                os.rename(temporary, name, src_dir_fd=where, dst_dir_fd=where)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(temporary, dir_fd=where)
                raise

    def remove(self, path: str) -> None:
        """Remove a file or link that may be missing. OSError for a directory."""
        parent, name = os.path.split(path)
        with (
            contextlib.suppress(FileNotFoundError, NotADirectoryError),
            self._directory(parent) as directory,
        ):
            os.unlink(name, dir_fd=directory.fileno())

    def names(self, path: str, limit: int) -> list[str]:
        """What is in a directory, so many at most; nothing where there is none."""
        found: list[str] = []
        try:
            fd = openat2(self._fd.fileno(), path, os.O_RDONLY | os.O_DIRECTORY, resolve=_INSIDE)
        except OSError:
            return found
        with OwnedFd(fd), os.scandir(fd) as entries:
            for entry in entries:
                found.append(entry.name)
                if len(found) >= limit:
                    break
        return found

    def kind(self, path: str) -> str:
        """ "program", "file", "directory", "other", "" for nothing, and "null" for a link to /dev/null."""
        parent, name = os.path.split(path)
        with contextlib.suppress(OSError), self._directory(parent) as directory:
            if os.readlink(name, dir_fd=directory.fileno()) == "/dev/null":
                return "null"
        try:
            fd = openat2(self._fd.fileno(), path, os.O_PATH, resolve=_INSIDE)
        except OSError:
            return ""
        with OwnedFd(fd):
            mode = os.fstat(fd).st_mode
        if stat.S_ISREG(mode):
            return "program" if mode & 0o111 else "file"
        return "directory" if stat.S_ISDIR(mode) else "other"

    def _directory(self, path: str) -> OwnedFd:
        flags = os.O_PATH | os.O_DIRECTORY
        return OwnedFd(openat2(self._fd.fileno(), path or ".", flags, resolve=_INSIDE))


def inside_of(mount: OwnedFd) -> str:
    """The path of a Root for a mount that is shown nowhere. For this process."""
    return f"/proc/self/fd/{mount.fileno()}/."


def _temporary() -> str:
    return f".#machined-{os.urandom(8).hex()}"
