# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which control group a process is in, and which unit of the service manager owns that group."""

from __future__ import annotations

import errno
import functools
import os
import re

from machined.linux.mounts import mount_points

# Units that own a cgroup; templates do not. As systemd's unit_name_is_valid() has it.
_UNIT = re.compile(r"[A-Za-z0-9:_.\\-]+(?:@[A-Za-z0-9:_.\\@-]+)?\.(?:service|scope|socket|mount|swap)")
_SLICE = re.compile(r"[A-Za-z0-9:_.\\-]+\.slice")
_NAME_MAX = 255
# A path may have as many bytes as PATH_MAX says; hierarchies of the old kind have a line each.
_CGROUP_MAX = 64 * 1024


def _raw_path_of(pid: int) -> str:
    try:
        # Without Python's own layers: this is on the way of every registration.
        fd = os.open(f"/proc/{pid}/cgroup", os.O_RDONLY | os.O_CLOEXEC)
        try:
            data = os.read(fd, _CGROUP_MAX)
        finally:
            os.close(fd)
        for line in data.decode("utf-8", "surrogateescape").split("\n"):
            if line.startswith("0::"):
                # A group removed while its last process was a zombie is marked so.
                return line[3:].removesuffix(" (deleted)")
    except (FileNotFoundError, ProcessLookupError):
        raise ProcessLookupError(errno.ESRCH, f"there is no process {pid}") from None
    raise OSError(errno.ENODATA, f"process {pid} is in no group of the unified cgroup hierarchy")


_known_root: str | None = None


def _root() -> str:
    """Where the service manager's tree begins: not at / in a container without a cgroup namespace."""
    global _known_root
    if _known_root is None:
        path = _raw_path_of(1)
        if not path.endswith("/init.scope"):  # before systemd has moved itself
            return path.rstrip("/")
        _known_root = path.removesuffix("/init.scope").rstrip("/")
    return _known_root


def path_of(pid: int) -> str:
    """The process's cgroup, as the service manager names it. ProcessLookupError if it is gone."""
    path, root = _raw_path_of(pid), _root()
    return path.removeprefix(root) or "/" if path == root or path.startswith(root + "/") else path


def _unescape(component: str) -> str:
    # Groups whose name could be taken for a kernel attribute file are prefixed.
    return component.removeprefix("_")


def _split(path: str) -> tuple[str | None, str]:
    """The unit's name and the path below its group."""
    parts = [part for part in path.split("/") if part]
    while parts and _SLICE.fullmatch(_unescape(parts[0])):
        del parts[0]
    if not parts:
        return None, ""
    unit = _unescape(parts[0])
    if len(unit) > _NAME_MAX or not _UNIT.fullmatch(unit):
        return None, ""
    return unit, "/".join(parts[1:])


def unit_from_path(path: str) -> str | None:
    """The unit that owns this group: the first part after the slices (user@UID.service for users' units)."""
    return _split(path)[0]


def subgroup_from_path(path: str, unit: str) -> str:
    """What follows the unit's own group ("payload"), "" if nothing does or the path is another unit's."""
    found, rest = _split(path)
    return rest if found == unit else ""


def unit_of(pid: int) -> str | None:
    """The unit that owns the process, None if it is in none. ProcessLookupError if the process is gone."""
    return unit_from_path(path_of(pid))


@functools.cache
def _mount() -> str:
    for mount in mount_points():
        if mount.fstype == "cgroup2":
            return mount.target
    raise OSError(errno.ENODATA, "the unified cgroup hierarchy is not mounted")


def unit_group(path: str) -> str:
    """The directory of the group of the unit that owns this group."""
    _, below = _split(path)
    top = path.strip("/").removesuffix(below).rstrip("/") if below else path.strip("/")
    return f"{_mount()}{_root()}/{top}"


def processes(path: str) -> list[int]:
    """The numbers of all processes in the group and those below it, sorted; none if the group is gone."""
    pids: set[int] = set()
    for directory, _, _ in os.walk(f"{_mount()}{_root()}/{path.strip('/')}"):
        try:
            with open(os.path.join(directory, "cgroup.procs"), encoding="ascii") as file:
                pids.update(int(line) for line in file)
        except OSError as error:
            # Removed meanwhile, or a threaded group, whose processes its domain lists.
            if error.errno not in (errno.ENOENT, errno.ENODEV, errno.EOPNOTSUPP):
                raise
    return sorted(pids - {0})  # 0: a process our PID namespace does not see
