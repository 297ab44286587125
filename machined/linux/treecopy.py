# SPDX-License-Identifier: LGPL-2.1-or-later
"""Copies a file or a tree between two directories whose owners may be hostile and may change them meanwhile.

Every step is relative to a descriptor and never follows a symbolic link, so that nobody can lead it to a
third place. Needs /proc of the mount namespace it runs in.

Into a directory that is there already the copy is merged: what it lacks is added, what it has stays as it is
unless told to replace it. One entry that cannot be copied does not keep the others from it; the last error
is raised in the end. That is what systemd-machined does.
"""

from __future__ import annotations

import errno
import os
import resource
import stat
import sys
from collections.abc import Callable
from dataclasses import dataclass

from machined.linux.filedata import ACCESS_ACL, DEFAULT_ACL, copy_attributes, copy_data

DEPTH_MAX = 2048
"""Directories in each other; a path of PATH_MAX bytes cannot name more."""
LINKS_MAX = 1 << 20
"""So many files with several names are remembered; later ones are copied once for each name."""

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_NOCTTY | os.O_CLOEXEC
_PERMISSIONS = 0o7777
_SET_ID = stat.S_ISUID | stat.S_ISGID
# Whatever comes next would fail as well.
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_NOT_LINKABLE = frozenset({errno.EXDEV, errno.EMLINK, errno.EPERM, errno.ENOENT, errno.ELOOP, errno.ENOTDIR})

Inode = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Manner:
    """How to copy. `owner`: the user and group of everything (None: as in the source)."""

    owner: int | None = None
    replace: bool = False
    attributes: tuple[str, ...] = ("user.",)
    """Extended attributes that begin so."""

    @classmethod
    def plain(cls, owner: int | None, *, replace: bool) -> Manner:
        """That of copies between host and guest.

        Access control lists name users: they mean nothing where all files get one owner. Where owners are
        kept they have to be as well, or the bits of the group would grant what was the mask's to limit.
        """
        lists = () if owner is not None else (ACCESS_ACL, DEFAULT_ACL)
        return cls(owner, replace, ("user.", *lists))


def copy_tree(source: int, name: str, target: int, new_name: str, manner: Manner) -> None:
    """Copy `name` in one directory to `new_name` in another. The descriptors stay the caller's.

    OSError; EEXIST when something is at the target that is not to be replaced, ENOTDIR when a directory
    would have to be merged into something else.
    """
    _Copier(target, manner).entry(source, name, target, (new_name,))


def unlimit() -> None:
    """Let this process have the descriptors and the stack that DEPTH_MAX needs."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    sys.setrecursionlimit(8 * DEPTH_MAX)


class _Copier:
    def __init__(self, top: int, manner: Manner) -> None:
        self._top = top
        self._manner = manner
        self._made: Inode | None = None  # our own first directory: not to be copied into itself
        self._links: dict[Inode, tuple[tuple[str, ...], Inode]] = {}

    def entry(self, source: int, name: str, target: int, path: tuple[str, ...]) -> None:
        """Copy one entry. `path` is where it goes to below the top, its last part within `target`."""
        pinned = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=source)
        try:
            status = os.fstat(pinned)
            if stat.S_ISDIR(status.st_mode):
                self._directory(pinned, status, target, path)
            elif not self._link(status, target, path):
                self._leaf(pinned, status, target, path)
        finally:
            os.close(pinned)

    # -- directories ---------------------------------------------------------------------------------------

    def _directory(self, pinned: int, status: os.stat_result, target: int, path: tuple[str, ...]) -> None:
        if (status.st_dev, status.st_ino) == self._made:
            return
        if len(path) > DEPTH_MAX:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        inner = os.open(f"/proc/self/fd/{pinned}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            created = True
            try:
                os.mkdir(path[-1], 0o700, dir_fd=target)
            except FileExistsError:
                created = False
            outer = os.open(path[-1], _DIRECTORY, dir_fd=target)
            try:
                if self._made is None:
                    self._made = _inode(os.fstat(outer))
                failure = self._entries(inner, outer, path)
                if created:
                    self._finish(inner, outer, status)
            finally:
                os.close(outer)
        finally:
            os.close(inner)
        if failure is not None:
            raise failure

    def _entries(self, inner: int, outer: int, path: tuple[str, ...]) -> OSError | None:
        failure: OSError | None = None
        with os.scandir(inner) as entries:
            for entry in entries:
                try:
                    self.entry(inner, entry.name, outer, (*path, entry.name))
                except FileExistsError:
                    continue  # that is what merging means
                except OSError as error:
                    failure = error
                    if error.errno in _FULL:
                        break
        return failure

    # -- everything else -----------------------------------------------------------------------------------

    def _leaf(self, pinned: int, status: os.stat_result, target: int, path: tuple[str, ...]) -> None:
        kind = stat.S_IFMT(status.st_mode)
        if kind == stat.S_IFREG:

            def make(name: str) -> None:
                self._regular(pinned, status, target, name)
        elif kind == stat.S_IFLNK:

            def make(name: str) -> None:
                os.symlink(os.readlink("", dir_fd=pinned), name, dir_fd=target)
                self._finish_by_name(status, target, name)
        else:  # FIFOs, sockets, device nodes

            def make(name: str) -> None:
                os.mknod(name, status.st_mode & ~_PERMISSIONS, status.st_rdev, dir_fd=target)
                self._finish_by_name(status, target, name)

        made = self._place(make, target, path[-1])
        if status.st_nlink > 1 and len(self._links) < LINKS_MAX:
            self._links[_inode(status)] = path, made

    def _regular(self, pinned: int, status: os.stat_result, target: int, name: str) -> None:
        # By what is pinned: the name may have become a FIFO meanwhile, which would hang us.
        data = os.open(f"/proc/self/fd/{pinned}", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC)
        try:
            file = os.open(name, _CREATE, 0o600, dir_fd=target)
            try:
                copy_data(data, file, status.st_size)
                self._finish(data, file, status)
            except BaseException:
                os.unlink(name, dir_fd=target)
                raise
            finally:
                os.close(file)
        finally:
            os.close(data)

    def _place(self, make: Callable[[str], None], target: int, name: str) -> Inode:
        """Make an entry under its name, or beside it and then in place of what has the name."""
        try:
            there: os.stat_result | None = os.stat(name, dir_fd=target, follow_symlinks=False)
        except FileNotFoundError:
            there = None
        if there is None:
            make(name)
        elif not self._manner.replace or stat.S_ISDIR(there.st_mode):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        else:
            beside = f".#copy-{os.urandom(8).hex()}"
            make(beside)
            try:
                os.rename(beside, name, src_dir_fd=target, dst_dir_fd=target)
            except BaseException:
                os.unlink(beside, dir_fd=target)
                raise
        return _inode(os.stat(name, dir_fd=target, follow_symlinks=False))

    def _link(self, status: os.stat_result, target: int, path: tuple[str, ...]) -> bool:
        """Give a file that was copied already one more name; False if it was not, or that is impossible."""
        known = self._links.get(_inode(status)) if status.st_nlink > 1 else None
        if known is None:
            return False
        (*directories, name), made = known
        directory = os.dup(self._top)
        try:
            for part in directories:
                deeper = os.open(part, _DIRECTORY, dir_fd=directory)
                os.close(directory)
                directory = deeper
            if _inode(os.stat(name, dir_fd=directory, follow_symlinks=False)) != made:
                return False  # somebody has put another file there

            def make(new: str) -> None:
                os.link(name, new, src_dir_fd=directory, dst_dir_fd=target, follow_symlinks=False)

            self._place(make, target, path[-1])
        except OSError as error:
            if error.errno in _NOT_LINKABLE:
                return False
            raise
        finally:
            os.close(directory)
        return True

    # -- what belongs to an entry --------------------------------------------------------------------------

    def _finish(self, source: int, file: int, status: os.stat_result) -> None:
        """Owner, then mode (a new owner takes the set-id bits away), attributes, and times at last."""
        os.fchown(file, *self._owner(status))
        mode = status.st_mode & _PERMISSIONS
        if self._manner.owner == 0 and stat.S_ISREG(status.st_mode):
            # All becomes root's of the host, that of any guest user as well: with its set-id bits, whoever
            # ran it here would be root. (What goes to a guest with users of its own becomes its own root's,
            # who is never user 0: there they stay.)
            mode &= ~_SET_ID
        os.fchmod(file, mode)
        copy_attributes(source, file, self._manner.attributes)
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))

    def _finish_by_name(self, status: os.stat_result, target: int, name: str) -> None:
        """As above for what cannot be opened."""
        uid, gid = self._owner(status)
        os.chown(name, uid, gid, dir_fd=target, follow_symlinks=False)
        if not stat.S_ISLNK(status.st_mode):
            self._mode_of_node(status, target, name)
        times = status.st_atime_ns, status.st_mtime_ns
        os.utime(name, ns=times, dir_fd=target, follow_symlinks=False)

    def _mode_of_node(self, status: os.stat_result, target: int, name: str) -> None:
        # By a descriptor of the very node: a link put in its place would be followed by chmod.
        node = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=target)
        try:
            if stat.S_IFMT(os.fstat(node).st_mode) == stat.S_IFMT(status.st_mode):
                os.chmod(f"/proc/self/fd/{node}", status.st_mode & _PERMISSIONS)
        finally:
            os.close(node)

    def _owner(self, status: os.stat_result) -> tuple[int, int]:
        owner = self._manner.owner
        return (status.st_uid, status.st_gid) if owner is None else (owner, owner)


def _inode(status: os.stat_result) -> Inode:
    return status.st_dev, status.st_ino
