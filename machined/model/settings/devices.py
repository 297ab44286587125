# SPDX-License-Identifier: LGPL-2.1-or-later
"""Values of [Machine] Device=: a device of the host or a directory of them, or what a CDI file describes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from machined.model.settings.kinds import Kind
from machined.model.settings.places import path
from machined.model.settings.words import escape_colons, split_colons

ACCESS: Final = "rw"
"""What may be done to a device unless something else is said."""
# As the Container Device Interface names devices: VENDOR/CLASS=NAME.
_WORD: Final = r"[A-Za-z][A-Za-z0-9_.-]{0,99}"
_CDI: Final = re.compile(rf"{_WORD}/{_WORD}=[A-Za-z0-9][\w.:-]{{0,99}}")
# Where anybody may write, what is of each process or machine, and what is ours.
_NOT_DEVICES: Final = frozenset({"shm", "fd", "pts", "mqueue", "hugepages", "machined"})
_ACCESS: Final = re.compile(r"r?w?m?")


@dataclass(frozen=True, slots=True)
class Device:
    """One of the host's: where it is, where it goes, and what may be done to it, "rwm"."""

    path: str
    target: str
    access: str


def device(text: str) -> str:
    """/dev/…[:TARGET][:rwm], or VENDOR/CLASS=NAME."""
    if not text.startswith("/"):
        if _CDI.fullmatch(text):
            return text
        raise ValueError("must be a path below /dev, or a device of a CDI file as 'nvidia.com/gpu=all'")
    return _text(_parsed(text))


def parse(text: str) -> Device | None:
    """A value as device() made it; None for one of a CDI file."""
    return _parsed(text) if text.startswith("/") else None


def _parsed(text: str) -> Device:
    where, *more = split_colons(text)
    access = ACCESS
    if more and not more[-1].startswith("/"):
        access = more.pop()
        if not access or not _ACCESS.fullmatch(access):
            raise ValueError(f"'{access}' must be of the letters r, w and m, in this order")
    if len(more) > 1:
        raise ValueError("must be PATH[:TARGET][:rwm]")
    where = _below_dev(where)
    return Device(where, _below_dev(more[0]) if more else where, access)


def _below_dev(text: str) -> str:
    clean = path(text)
    if not clean.startswith("/dev/"):
        raise ValueError(f"'{text}' must be below /dev (other files are shown by Bind=)")
    if clean.split("/")[2] in _NOT_DEVICES:
        raise ValueError(f"'{text}' is no place of devices (Bind= shows files)")
    return clean


def _text(found: Device) -> str:
    parts = [found.path] + ([found.target] if found.target != found.path else [])
    return ":".join([*map(escape_colons, parts), found.access])


DEVICE: Final = Kind(
    "PATH[:TARGET][:rwm]|VENDOR/CLASS=NAME", device, choices=("/dev/dri", "/dev/fuse", "/dev/kvm")
)
