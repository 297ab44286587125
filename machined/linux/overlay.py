# SPDX-License-Identifier: LGPL-2.1-or-later
"""Overlay mounts whose layers are seen with their owners shifted into a range of users.

An overlay cannot be mapped itself, its layers can (mount_setattr(2), MOUNT_ATTR_IDMAP). So the base stays
as it is and is shared by any number of mounts with ranges of their own, and what is written is stored with
the owners it has inside. The kernel works in the upper layer as root, who needs a place in the map as well.

Trees whose owners somebody has shifted on the disk (systemd-nspawn does so where it cannot map) are told by
their root's: all layers of a mount are shifted as the lowest one is.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from machined.linux import syscalls
from machined.linux.fds import OwnedFd

RANGE: Final = 65536
"""Users in a range, as systemd-nspawn has them."""
# What root of the host is in a mapped layer: no guest has that user, so nothing of its is taken for root's.
_ROOT_INSIDE: Final = 0xFFFF_0000
SHIFT: Final = 0xFFFF_0000
"""Which bits of a root's owner say how far a tree is shifted (--private-users= of systemd-nspawn(1))."""
_BENEATH: Final = (
    syscalls.RESOLVE_BENEATH
    | syscalls.RESOLVE_NO_SYMLINKS
    | syscalls.RESOLVE_NO_MAGICLINKS
    | syscalls.RESOLVE_NO_XDEV
)
# A directory that is everywhere: what is mounted there is seen by nobody else.
_SCRATCH: Final = "/run"


@contextmanager
def _child() -> Iterator[int]:
    """A process in a user namespace of its own that does nothing; its pid."""
    ready, done = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            syscalls.unshare(syscalls.CLONE_NEWUSER)
            os.write(done, b"1")
            signal.pause()
        finally:
            os._exit(1)
    try:
        os.close(done)
        if not os.read(ready, 1):
            raise OSError(os.EX_OSERR, "no user namespace to be had")
        yield pid
    finally:
        os.close(ready)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def user_namespace(base: int, *, root: bool, first: int = 0) -> OwnedFd:
    """A user namespace that maps `first`… to base…, and with `root` also root of the host. OSError.

    Needs CAP_SETUID, CAP_SETGID and CAP_SETFCAP (user_namespaces(7)).
    """
    text = f"{first} {base} {RANGE}\n"
    if root and not base:
        text += f"0 {_ROOT_INSIDE} 1\n"  # he is in the range himself, and has to see what is his on the disk
    elif root:
        text += f"{0 if first else _ROOT_INSIDE} 0 1\n"
    with _child() as pid:
        for name in ("uid_map", "gid_map"):
            Path(f"/proc/{pid}/{name}").write_text(text, encoding="ascii")
        return OwnedFd(os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC))


def _detached(path: str, namespace: OwnedFd | None) -> OwnedFd:
    flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    with OwnedFd(os.open(path, flags)) as pinned:
        clone = syscalls.OPEN_TREE_CLONE | syscalls.OPEN_TREE_CLOEXEC | syscalls.AT_EMPTY_PATH
        mount = OwnedFd(syscalls.open_tree(pinned.fileno(), "", clone))
    if namespace is not None:
        idmap = syscalls.MOUNT_ATTR_IDMAP
        syscalls.mount_setattr(
            mount.fileno(), "", syscalls.AT_EMPTY_PATH, set_attributes=idmap, userns_fd=namespace.fileno()
        )
    return mount


def _inside(directory: OwnedFd, name: str) -> OwnedFd:
    """A directory in another one, and nothing that a link in its place leads to."""
    flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW
    return OwnedFd(syscalls.openat2(directory.fileno(), name, flags, resolve=_BENEATH))


@contextmanager
def _out_of_sight() -> Iterator[str]:
    """A block in a mount namespace of its own, with an empty directory to mount things in."""
    with OwnedFd(os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)) as home:
        syscalls.unshare(syscalls.CLONE_NEWNS)
        try:
            recursive = syscalls.AT_RECURSIVE
            syscalls.mount_setattr(syscalls.AT_FDCWD, "/", recursive, propagation=syscalls.MS_PRIVATE)
            with OwnedFd(syscalls.new_mount("tmpfs", [("mode", "0700")])) as scratch:
                _attach(scratch, _SCRATCH)
            yield _SCRATCH
        finally:
            syscalls.setns(home.fileno(), syscalls.CLONE_NEWNS)


def _attach(mount: OwnedFd, target: str) -> None:
    flags = syscalls.MOVE_MOUNT_F_EMPTY_PATH
    syscalls.move_mount(mount.fileno(), "", syscalls.AT_FDCWD, target, flags)


def assemble(
    layers: Sequence[str],
    writable: str | None,
    *,
    base: int | None = None,
    volatile: bool = False,
) -> OwnedFd:
    """A detached overlay over these directories, the topmost first; attach() it, or look into it by its fd.

    `writable` has the directories `data` and `work`; without it the mount is read-only. `base`: the user
    that root in the layers is to be, None: whoever it is. `volatile`: nothing of it need survive a crash.
    For processes of one thread. OSError: EINVAL where a file system of a layer cannot be mapped or written
    to by an overlay.
    """
    lower_map = upper_map = None
    held: list[OwnedFd] = []
    try:
        shift = os.stat(layers[-1]).st_uid & SHIFT
        if base is not None and base != shift:
            held.append(lower_map := user_namespace(base, root=False, first=shift))
            held.append(upper_map := user_namespace(base, root=True, first=shift))
        mounts = [_detached(layer, lower_map) for layer in layers]
        held += mounts
        upper = _detached(writable, upper_map) if writable is not None else None
        if upper is not None:
            held.append(upper)
        with _out_of_sight() as scratch:
            options = []
            for number, mount in enumerate(mounts):
                place = f"{scratch}/{number}"
                os.mkdir(place)
                _attach(mount, place)
                options.append(("lowerdir+" if len(mounts) > 1 or upper is None else "lowerdir", place))
            if upper is not None:
                os.mkdir(f"{scratch}/rw")
                _attach(upper, f"{scratch}/rw")
                for option, name in (("upperdir", "data"), ("workdir", "work")):
                    held.append(pinned := _inside(upper, name))
                    options.append((option, f"/proc/self/fd/{pinned.fileno()}"))
                # A guest renames directories of the base, as it may on any other file system.
                options += [("redirect_dir", "on"), ("index", "off"), ("metacopy", "off")]
                options += [("volatile", "")] if volatile else []
            elif len(mounts) == 1:
                os.mkdir(f"{scratch}/none")
                options.append(("lowerdir+", f"{scratch}/none"))  # it takes two
            options.insert(0, ("source", "machined"))
            read_only = syscalls.MOUNT_ATTR_RDONLY if upper is None else 0
            return OwnedFd(syscalls.new_mount("overlay", options, read_only))
    finally:
        for fd in held:
            fd.close()


def attach(mount: OwnedFd, target: str) -> None:
    """Show a detached mount at a directory. OSError."""
    _attach(mount, target)


def path_of(mount: OwnedFd) -> str:
    """A path to look into a detached mount by, for this process and its children."""
    return f"/proc/{os.getpid()}/fd/{mount.fileno()}"
