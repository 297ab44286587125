# SPDX-License-Identifier: LGPL-2.1-or-later
"""The mount table of our mount namespace."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from machined.linux import syscalls

_FLAGS = {os.ST_RDONLY: "ro", os.ST_NOSUID: "nosuid", os.ST_NODEV: "nodev", os.ST_NOEXEC: "noexec"}
_OCTAL = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of /proc/self/mountinfo; see proc_pid_mountinfo(5)."""

    id: int
    parent: int
    root: str
    """The path within the mounted file system that is seen at target."""
    target: str
    options: frozenset[str]
    """Of this mount and of its file system together."""
    fstype: str
    source: str


def _text(field: bytes) -> str:
    return os.fsdecode(_OCTAL.sub(lambda match: bytes((int(match[1], 8) & 0xFF,)), field))


def parse(data: bytes) -> list[Mount]:
    """The mounts in mountinfo's text, in its order: who is mounted on another comes after it."""
    mounts = []
    for line in data.splitlines():
        fields = line.split(b" ")
        separator = fields.index(b"-", 6)  # any number of optional fields before it
        fstype, source, super_options = fields[separator + 1 : separator + 4]
        options = _text(fields[5]).split(",") + _text(super_options).split(",")
        mounts.append(
            Mount(
                id=int(fields[0]),
                parent=int(fields[1]),
                root=_text(fields[3]),
                target=_text(fields[4]),
                options=frozenset(options),
                fstype=_text(fstype),
                source=_text(source),
            )
        )
    return mounts


def targets(data: bytes) -> frozenset[str]:
    """Where something is mounted, from mountinfo's text: quicker than to take all of it apart."""
    return frozenset(_text(line.split(b" ", 5)[4]) for line in data.splitlines())


def mount_points() -> list[Mount]:
    """All mounts we can see, in the order of the kernel's table."""
    with open("/proc/self/mountinfo", "rb") as file:
        return parse(file.read())


def below(prefix: str) -> list[Mount]:
    """The mounts at this path and below it, in table order; unmount them in reverse."""
    prefix = os.path.normpath(prefix)
    inside = prefix.rstrip("/") + "/"
    return [mount for mount in mount_points() if mount.target == prefix or mount.target.startswith(inside)]


def flags_of(path: str) -> frozenset[str]:
    """Which of noexec, nosuid, nodev and ro hold where path is. OSError if it is not there."""
    flags = os.statvfs(path).f_flag
    return frozenset(name for flag, name in _FLAGS.items() if flags & flag)


def unmount(path: str, lazy: bool = False) -> None:
    """Unmount the topmost mount at path, never through a symlink. OSError EINVAL if there is none."""
    syscalls.umount2(path, syscalls.UMOUNT_NOFOLLOW | (syscalls.MNT_DETACH if lazy else 0))
