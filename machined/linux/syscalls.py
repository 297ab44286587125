# SPDX-License-Identifier: LGPL-2.1-or-later
"""System calls Python has no wrapper for (or has only lately). One function each, errno becomes OSError.

The namespace helper imports this module and its start-up time is on the hot path of every shell that is
opened in a guest: import nothing here that is not already loaded, and ctypes only when it is needed.
"""

from __future__ import annotations

import fcntl
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ctypes
    from collections.abc import Sequence

# <linux/sched.h>
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

# <sys/mount.h>, <linux/mount.h>
MNT_FORCE = 1
MNT_DETACH = 2
UMOUNT_NOFOLLOW = 8
OPEN_TREE_CLONE = 1
OPEN_TREE_CLOEXEC = os.O_CLOEXEC
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000
AT_SYMLINK_NOFOLLOW = 0x100
AT_FDCWD = -100
MOVE_MOUNT_F_SYMLINKS = 0x01
MOVE_MOUNT_F_AUTOMOUNTS = 0x02
MOVE_MOUNT_F_EMPTY_PATH = 0x04
MOVE_MOUNT_T_SYMLINKS = 0x10
MOVE_MOUNT_T_AUTOMOUNTS = 0x20
MOVE_MOUNT_T_EMPTY_PATH = 0x40
MOVE_MOUNT_BENEATH = 0x200
MOUNT_ATTR_RDONLY = 0x01
MOUNT_ATTR_NOSUID = 0x02
MOUNT_ATTR_NODEV = 0x04
MOUNT_ATTR_NOEXEC = 0x08
MOUNT_ATTR_IDMAP = 0x00100000
MS_PRIVATE = 1 << 18
_FSOPEN_CLOEXEC = 1
_FSMOUNT_CLOEXEC = 1
_FSCONFIG_SET_FLAG, _FSCONFIG_SET_STRING, _FSCONFIG_CMD_CREATE = 0, 1, 6

# <sys/inotify.h>
IN_MODIFY = 0x00000002
IN_ATTRIB = 0x00000004
IN_CLOSE_WRITE = 0x00000008
IN_MOVED_FROM = 0x00000040
IN_MOVED_TO = 0x00000080
IN_CREATE = 0x00000100
IN_DELETE = 0x00000200
IN_DELETE_SELF = 0x00000400
IN_MOVE_SELF = 0x00000800
IN_UNMOUNT = 0x00002000
IN_Q_OVERFLOW = 0x00004000
IN_IGNORED = 0x00008000
IN_ONLYDIR = 0x01000000
IN_ONESHOT = 0x80000000

# <linux/openat2.h>
RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

# <asm-generic/unistd.h>: calls added since Linux 5.0 have one number on all architectures we may meet
_NR_OPEN_TREE = 428
_NR_MOVE_MOUNT = 429
_NR_FSOPEN = 430
_NR_FSCONFIG = 431
_NR_FSMOUNT = 432
_NR_OPENAT2 = 437
_NR_MOUNT_SETATTR = 442

# <asm-generic/ioctls.h>. The numbers of mips, powerpc, sparc and alpha carry other direction bits.
TIOCGPTN = 0x80045430
TIOCSPTLCK = 0x40045431
TIOCGPTPEER = 0x5441
if os.uname().machine.startswith(("mips", "ppc", "sparc", "alpha")):
    TIOCGPTN = 0x40045430
    TIOCSPTLCK = 0x80045431
    TIOCGPTPEER = 0x20005441

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>

_library: ctypes.CDLL | None = None


def _libc() -> ctypes.CDLL:
    global _library
    if _library is None:
        import ctypes

        _library = ctypes.CDLL(None, use_errno=True)
    return _library


def _failed(what: str, path: str | None = None) -> OSError:
    import ctypes

    number = ctypes.get_errno()
    return OSError(number, f"{what}: {os.strerror(number)}", path)


def _syscall(what: str, number: int, *arguments: object, path: str | None = None) -> int:
    import ctypes

    # A bare int would be passed as a C int, and syscall() is variadic: the upper half would be garbage.
    words = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    result: int = _libc().syscall(ctypes.c_long(number), *words)
    if result < 0:
        raise _failed(what, path)
    return result


def load(*, everything: bool = False) -> None:
    """Load what the functions here need, for who is about to change what the file system looks like.

    Without `everything` that is what setns() needs.
    """
    if everything or sys.version_info < (3, 12):
        _libc()


def setns(fd: int, kind: int) -> None:
    """Enter the namespace behind fd, which must be of this kind (CLONE_NEW…)."""
    if sys.version_info >= (3, 12):
        os.setns(fd, kind)
    elif _libc().setns(fd, kind) < 0:
        raise _failed("setns")


def unshare(flags: int) -> None:
    """Leave the namespaces named by flags (CLONE_NEW…) for new ones."""
    if sys.version_info >= (3, 12):
        os.unshare(flags)
    elif _libc().unshare(flags) < 0:
        raise _failed("unshare")


def umount2(path: str, flags: int) -> None:
    """Unmount the topmost mount at path; flags MNT_… and UMOUNT_NOFOLLOW."""
    if _libc().umount2(os.fsencode(path), flags) < 0:
        raise _failed("umount2", path)


def open_tree(dir_fd: int, path: str, flags: int) -> int:
    """A descriptor of a mount, or with OPEN_TREE_CLONE of a detached copy of it. The caller closes it."""
    return _syscall("open_tree", _NR_OPEN_TREE, dir_fd, os.fsencode(path), flags, path=path)


def move_mount(from_fd: int, from_path: str, to_fd: int, to_path: str, flags: int) -> None:
    """Attach a (detached) mount somewhere."""
    source, target = os.fsencode(from_path), os.fsencode(to_path)
    _syscall("move_mount", _NR_MOVE_MOUNT, from_fd, source, to_fd, target, flags, path=to_path)


def mount_setattr(
    dir_fd: int,
    path: str,
    flags: int,
    *,
    set_attributes: int = 0,
    clear_attributes: int = 0,
    propagation: int = 0,
    userns_fd: int = 0,
) -> None:
    """Change the MOUNT_ATTR_… of a mount, with AT_RECURSIVE of the whole tree below it.

    `propagation`: MS_PRIVATE and its like, 0 to leave it.
    """
    words = (set_attributes, clear_attributes, propagation, userns_fd)  # struct mount_attr
    attributes = b"".join(word.to_bytes(8, sys.byteorder) for word in words)
    arguments = (dir_fd, os.fsencode(path), flags, attributes, len(attributes))
    _syscall("mount_setattr", _NR_MOUNT_SETATTR, *arguments, path=path)


def new_mount(kind: str, options: Sequence[tuple[str, str]], attributes: int = 0) -> int:
    """A detached mount of a new file system of this kind (fsopen(2)); the caller closes it.

    Options are (name, value), of those without a value (name, "").
    """
    context = _syscall("fsopen", _NR_FSOPEN, os.fsencode(kind), _FSOPEN_CLOEXEC, path=kind)
    try:
        for name, value in options:
            what = f"fsconfig {name}"
            if value:
                words = (_FSCONFIG_SET_STRING, name.encode(), os.fsencode(value), 0)
                _syscall(what, _NR_FSCONFIG, context, *words, path=value)
            else:
                _syscall(what, _NR_FSCONFIG, context, _FSCONFIG_SET_FLAG, name.encode(), None, 0)
        _syscall("fsconfig", _NR_FSCONFIG, context, _FSCONFIG_CMD_CREATE, None, None, 0, path=kind)
        return _syscall("fsmount", _NR_FSMOUNT, context, _FSMOUNT_CLOEXEC, attributes, path=kind)
    finally:
        os.close(context)


def openat2(dir_fd: int, path: str, flags: int, *, mode: int = 0, resolve: int = 0) -> int:
    """open() with limits (RESOLVE_…) on how the path is resolved; CLOEXEC. The caller closes the result."""
    how = b"".join(word.to_bytes(8, sys.byteorder) for word in (flags | os.O_CLOEXEC, mode, resolve))
    return _syscall("openat2", _NR_OPENAT2, dir_fd, os.fsencode(path), how, len(how), path=path)


def posix_openpt(ptmx: str) -> int:
    """A new pseudo terminal's master: unlocked, CLOEXEC, not our controlling terminal; caller closes it.

    The multiplexer is opened by path rather than by os.posix_openpt (3.13): callers name a devpts instance.
    """
    master = os.open(ptmx, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(master, TIOCSPTLCK, bytes(4))
    except BaseException:
        os.close(master)
        raise
    return master


def pty_number(master: int) -> int:
    """N of /dev/pts/N of this master, in its own devpts. OSError ENOTTY if it is no master."""
    return int.from_bytes(fcntl.ioctl(master, TIOCGPTN, bytes(4)), sys.byteorder)


def pty_peer(master: int) -> int:
    """Open the other end of a master without any path (Linux 4.13); the caller closes it."""
    return fcntl.ioctl(master, TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)


def die_with_parent(signo: int) -> None:
    """Get this signal when the thread that started us ends (prctl(2), PR_SET_PDEATHSIG)."""
    if _libc().prctl(_PR_SET_PDEATHSIG, signo, 0, 0, 0) < 0:
        raise _failed("prctl")


def statx(dir_fd: int, path: str, flags: int, mask: int, size: int) -> bytes:
    """The struct statx of a path, `size` bytes of it (statx(2))."""
    import ctypes

    buffer = ctypes.create_string_buffer(size)
    if _libc().statx(dir_fd, os.fsencode(path), flags, mask, buffer) < 0:
        raise _failed("statx", path)
    return buffer.raw


def statfs(path: str) -> bytes:
    """The struct statfs of a path's file system (statfs(2)); its first field is the long f_type."""
    import ctypes

    buffer = ctypes.create_string_buffer(256)
    if _libc().statfs(os.fsencode(path), buffer) < 0:
        raise _failed("statfs", path)
    return buffer.raw


def syncfs(fd: int) -> None:
    """Have all of the file system that is open there on its disk. OSError when it did not get there."""
    if _libc().syncfs(fd) < 0:
        raise _failed("syncfs")


def inotify_init() -> int:
    """A new inotify instance, non-blocking and CLOEXEC; the caller closes it."""
    fd: int = _libc().inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    if fd < 0:
        raise _failed("inotify_init1")
    return fd


def inotify_add_watch(fd: int, path: str, mask: int) -> int:
    """Watch a path (IN_…); the number of the watch, which is that of an earlier one on the same inode."""
    import ctypes

    watch: int = _libc().inotify_add_watch(fd, os.fsencode(path), ctypes.c_uint32(mask))
    if watch < 0:
        raise _failed("inotify_add_watch", path)
    return watch


def inotify_rm_watch(fd: int, watch: int) -> None:
    """End a watch. OSError EINVAL when there is none of that number any more."""
    if _libc().inotify_rm_watch(fd, watch) < 0:
        raise _failed("inotify_rm_watch")
