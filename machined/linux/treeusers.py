# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who uses a directory tree: processes, mounts of it elsewhere, loop devices over its files, swap in it.

All of these would go on with what they have when something else comes to lie over the tree.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from machined.linux import loopfile, mounts, statx
from machined.linux.mounts import Mount

_SWAPS: Final = "/proc/swaps"


@dataclass(frozen=True, slots=True)
class _Spot:
    """Where a tree lies, whatever it is seen by: the number of a file system, and a path in it."""

    device: str
    path: str

    def has(self, device: str, path: str) -> bool:
        return device == self.device and _is_in(path, self.path)


def _is_in(path: str, tree: str) -> bool:
    return f"{path}/".startswith(f"{tree.rstrip('/')}/")


def user_of(directory: str, *, covered: bool = False) -> str:
    """Who uses a tree, for people; empty when nobody does. Mounts inside it are mount_of()'s.

    `covered`: of the tree that lies below the btrfs which is mounted at the directory.
    """
    spot = _spot(directory, covered)
    covering = _spot(directory, False).device if covered else ""
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        # A process ends meanwhile, and a kernel thread has no program.
        with contextlib.suppress(OSError):
            if int(pid) != os.getpid() and _uses(f"/proc/{pid}", directory, covering):
                name = Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").strip()
                return f"process '{name}' (PID {pid})"
    return _mount_elsewhere(spot, directory) or _loop_device(directory) or _swap(directory)


def mount_of(directory: str) -> Mount | None:
    """What we see mounted inside of a tree, or of it somewhere else, the tree's own mount excepted."""
    spot = _spot(directory, False)
    for device, mount in _table("self"):
        # An overlay is not in the way of an unmount, and writes on into what nobody sees any more.
        overlay = mount.fstype == "overlay" and any(f"{directory}/" in option for option in mount.options)
        inside = mount.target.startswith(f"{directory}/")
        if overlay or inside or (spot.has(device, mount.root) and mount.target != directory):
            return mount
    return None


def _uses(process: str, directory: str, covering: str) -> bool:
    """Whether a process is in a directory, has something open there, or mapped. OSError when it ends.

    `covering`: the number of the btrfs mounted there, whose users do not count.
    """
    links = [f"{process}/{name}" for name in ("cwd", "root", "exe")]
    links += [f"{process}/fd/{fd}" for fd in os.listdir(f"{process}/fd")]
    for link in links:
        with contextlib.suppress(OSError):
            if _is_in(os.readlink(link), directory) and not (covering and statx.is_btrfs(link)):
                return True
    with open(f"{process}/maps", "rb") as file:
        for fields in (line.rstrip(b"\n").split(maxsplit=5) for line in file):
            # A mapping outlives its descriptor.
            inside = len(fields) == 6 and _is_in(os.fsdecode(fields[5]), directory)
            if inside and _number(fields[3]) != covering:
                return True
    return False


def _number(device: bytes) -> str:
    """Of a device as it is in maps, "fe:01", what it is in mountinfo, "254:1"."""
    major, _, minor = device.partition(b":")
    return f"{int(major, 16)}:{int(minor, 16)}"


# -- mounts ------------------------------------------------------------------------------------------------


def _table(process: str) -> Iterator[tuple[str, Mount]]:
    """All mounts that a process sees: (major:minor, mount). OSError."""
    data = Path(f"/proc/{process}/mountinfo").read_bytes()
    for line, mount in zip(data.splitlines(), mounts.parse(data), strict=True):
        yield os.fsdecode(line.split(b" ", 3)[2]), mount


def _spot(directory: str, covered: bool) -> _Spot:
    around = os.path.dirname(directory) if covered else directory
    above = [(device, m) for device, m in _table("self") if _is_in(around, m.target)]
    # Of several in one place, the last one is seen.
    device, mount = max(reversed(above), key=lambda pair: len(pair[1].target))
    below = os.path.relpath(directory, mount.target)
    return _Spot(device, os.path.normpath(os.path.join(mount.root, below)))


def _mount_elsewhere(spot: _Spot, directory: str) -> str:
    """A mount of the tree or of a part of it, in whatever mount namespace, other than its own."""
    own = os.readlink("/proc/self/ns/mnt")
    seen = set()
    for pid in ["self", *filter(str.isdecimal, os.listdir("/proc"))]:
        with contextlib.suppress(OSError):
            namespace = os.readlink(f"/proc/{pid}/ns/mnt")
            if namespace in seen:
                continue
            for device, mount in _table(pid):
                # All of a file system: that goes everywhere when it goes here.
                is_own = spot.path == mount.root == "/" and (namespace != own or mount.target == directory)
                if spot.has(device, mount.root) and not is_own:
                    of_whom = "" if namespace == own else f" that the process with PID {pid} sees"
                    return f"the mount at '{mount.target}'{of_whom}"
            seen.add(namespace)
    return ""


# -- the kernel's own users --------------------------------------------------------------------------------


def _loop_device(directory: str) -> str:
    for place in sorted(Path("/sys/block").glob("loop*/loop/backing_file")):
        device = f"/dev/{place.parts[-3]}"
        with contextlib.suppress(OSError):  # free meanwhile
            path = os.fsdecode(place.read_bytes().removesuffix(b"\n"))
            # The same path may be another file, of another mount namespace.
            status = os.stat(path) if _is_in(path, directory) else None
            if status is not None and loopfile.behind(device) == (status.st_dev, status.st_ino):
                return f"the loop device {device} over '{path}'"
    return ""


def _swap(directory: str) -> str:
    for line in Path(_SWAPS).read_bytes().splitlines():
        path = os.fsdecode(line.partition(b" ")[0])
        if _is_in(path, directory):
            return f"the kernel, which swaps to '{path}'"
    return ""
