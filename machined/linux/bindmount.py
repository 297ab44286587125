# SPDX-License-Identifier: LGPL-2.1-or-later
"""A file or directory of the host made visible in a guest: what the namespace helper does for that.

The source is pinned and cloned as a detached mount while we are on the host. In the guest's mount namespace
it is attached to what its path leads to within the guest's tree, wherever symbolic links point.
"""

from __future__ import annotations

import errno
import os
import stat

from machined.linux import syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from machined.linux.nshelper import Answer, Target

# /proc/PID/cwd of a process that came from the host leads to the host.
_WITHIN = syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_MAGICLINKS
# Modes of what is made for the mount to lie on; the first for what is above it.
_PARENT, _DIRECTORY, _FILE = 0o755, 0o700, 0o600


def clone(source: str, read_only: bool) -> tuple[int, bool]:
    """A detached mount of a path of ours, its symbolic links followed, and whether it is a directory.

    What is mounted below it does not come along.
    """
    try:
        pinned = syscalls.openat2(
            syscalls.AT_FDCWD, source, os.O_PATH, resolve=syscalls.RESOLVE_NO_MAGICLINKS
        )
    except OSError as error:
        if error.errno == errno.ELOOP:
            os.path.realpath(source, strict=True)  # says what a magic link leads to: nothing that has a name
        raise
    try:
        directory = stat.S_ISDIR(os.fstat(pinned).st_mode)
        flags = syscalls.OPEN_TREE_CLONE | syscalls.OPEN_TREE_CLOEXEC | syscalls.AT_EMPTY_PATH
        mount = syscalls.open_tree(pinned, "", flags)
    finally:
        os.close(pinned)
    if read_only:
        read = syscalls.MOUNT_ATTR_RDONLY
        syscalls.mount_setattr(mount, "", syscalls.AT_EMPTY_PATH, set_attributes=read)
    return mount, directory


def _make_parents(root: int, parts: list[str]) -> None:
    """Make the directories that are missing on the way, each found anew from the root."""
    for depth in range(1, len(parts)):
        path = "/".join(parts[:depth])
        try:
            os.close(syscalls.openat2(root, path, os.O_PATH | os.O_DIRECTORY, resolve=_WITHIN))
        except FileNotFoundError:
            above = syscalls.openat2(
                root, "/".join(parts[: depth - 1]) or ".", os.O_PATH | os.O_DIRECTORY, resolve=_WITHIN
            )
            try:
                os.mkdir(parts[depth - 1], _PARENT, dir_fd=above)
            finally:
                os.close(above)


def make_target(root: int, path: str, directory: bool) -> None:
    """Make what a mount can lie on, a directory or a file, unless something is there. Raises OSError."""
    parts = [part for part in path.split("/") if part]
    if not parts:
        return
    _make_parents(root, parts)
    above = syscalls.openat2(root, "/".join(parts[:-1]) or ".", os.O_PATH | os.O_DIRECTORY, resolve=_WITHIN)
    try:
        if directory:
            os.mkdir(parts[-1], _DIRECTORY, dir_fd=above)
        else:
            os.mknod(parts[-1], stat.S_IFREG | _FILE, dir_fd=above)
    except FileExistsError:
        pass  # that will do, whatever it is: mounting says what does not fit
    finally:
        os.close(above)


def _try_to_make_target(root: int, path: str, directory: bool) -> None:
    """As above; when it fails, to open the target will say what is missing, as systemd-machined does."""
    try:
        make_target(root, path, directory)
    except OSError:
        return


def _attach(mount: int, place: int, path: str, directory: bool) -> None:
    """Put a mount where another one is, or just there. Raises OSError, EINVAL when they do not fit."""
    flags = syscalls.MOVE_MOUNT_F_EMPTY_PATH | syscalls.MOVE_MOUNT_T_EMPTY_PATH
    try:
        # Nobody sees a moment with neither of them.
        syscalls.move_mount(mount, "", place, "", flags | syscalls.MOVE_MOUNT_BENEATH)
    except OSError as error:
        if error.errno != errno.EINVAL:  # nothing is mounted there, or a kernel before 6.5
            raise
        syscalls.move_mount(mount, "", place, "", flags)
        return
    if directory:
        os.fchdir(place)
        path = "."
    syscalls.umount2(path, syscalls.UMOUNT_NOFOLLOW | syscalls.MNT_DETACH)


def perform(target: Target, arguments: dict[str, Any], _fds: list[int]) -> Answer:
    """Bind arguments["source"] of ours to arguments["destination"] of the target. Raises OSError."""
    if target.shares("mnt"):  # it would be a mount on the host
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    mount, directory = clone(arguments["source"], arguments["read_only"])
    target.enter(("mnt",), root=True)
    if "mnt" not in target.entered:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    os.umask(0)
    root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    if arguments["mkdir"]:
        _try_to_make_target(root, arguments["destination"], directory)
    place = syscalls.openat2(root, arguments["destination"], os.O_PATH | os.O_NOFOLLOW, resolve=_WITHIN)
    _attach(mount, place, arguments["destination"], directory)
    return {}, []
