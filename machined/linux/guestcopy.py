# SPDX-License-Identifier: LGPL-2.1-or-later
"""Files copied between the host and a guest: what the namespace helper does for that.

The host's directory is opened first, the guest's from within its mount namespace and root directory. Then we
go back, with both descriptors: the copying itself happens among our own files, and none of the guest's paths
is ever resolved again. Host users and powers are kept all the time, as ownership is the host's business.
"""

from __future__ import annotations

import os

from machined.linux import syscalls, treecopy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from machined.linux.nshelper import Answer, Target

_SIGKILL = 9
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def _guest_directory(target: Target, path: str) -> int:
    """A directory of the target's, found as it would find it. We are back where we were afterwards."""
    root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    namespace = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    inside = -1
    try:
        target.enter(("mnt",), root=True)
        inside = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        # /proc/PID/cwd of a process that came from the host leads to the host.
        resolve = syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_MAGICLINKS
        return syscalls.openat2(inside, path, _DIRECTORY, resolve=resolve)
    finally:
        if inside >= 0:
            os.close(inside)
        if "mnt" in target.entered:
            syscalls.setns(namespace, syscalls.CLONE_NEWNS)
        os.fchdir(root)
        os.chroot(".")
        os.close(namespace)
        os.close(root)


def perform(target: Target, arguments: dict[str, Any], _fds: list[int]) -> Answer:
    """Copy between ["host"] and ["guest"], each (directory, name), in the direction ["to_guest"].

    ["owner"]: the user and group of all copies, None to keep them; ["replace"]: as in treecopy.Manner.
    Answers {"failed": "host" or "copy", "errno": …} or {}.
    """
    syscalls.die_with_parent(_SIGKILL)  # nobody else would end it: it may take hours
    treecopy.unlimit()
    os.umask(0)
    (host_path, host_name), (guest_path, guest_name) = arguments["host"], arguments["guest"]
    try:
        host = os.open(host_path, _DIRECTORY)
    except OSError as error:
        return {"failed": "host", "errno": error.errno}, []
    try:
        guest = _guest_directory(target, guest_path)
        manner = treecopy.Manner.plain(arguments["owner"], replace=arguments["replace"])
        if arguments["to_guest"]:
            treecopy.copy_tree(host, host_name, guest, guest_name, manner)
        else:
            treecopy.copy_tree(guest, guest_name, host, host_name, manner)
    except OSError as error:
        return {"failed": "copy", "errno": error.errno}, []
    return {}, []
