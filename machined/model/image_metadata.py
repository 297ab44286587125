# SPDX-License-Identifier: LGPL-2.1-or-later
"""What an image that does not run tells of itself: hostname, machine id, machine-info, os-release."""

from __future__ import annotations

import errno
import functools
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from machined.linux import envfile
from machined.linux.worker import Workers
from machined.model import image_locks
from machined.model.images import Image, ImageType
from machined.model.names import MAX_MACHINE_NAME
from machined.model.preflight import OS_RELEASE_PATHS

# Seconds until an image that does not answer is given up.
TIMEOUT: Final = 30.0
_FILES: Final = (("etc/hostname",), ("etc/machine-id",), ("etc/machine-info",), OS_RELEASE_PATHS)
_ID: Final = re.compile(rb"([0-9a-fA-F]{32})\n?\Z")


@dataclass(frozen=True, slots=True)
class Metadata:
    """What is not there is empty."""

    hostname: str = ""
    machine_id: bytes = b""
    machine_info: Mapping[str, str] = field(default_factory=dict)
    os_release: Mapping[str, str] = field(default_factory=dict)


async def read(image: Image, workers: Workers, version: int) -> Metadata:
    """Raises OSError: EBUSY when it is in use, ENOPKG and others for what is no disk image, ETIMEDOUT.

    Anybody may ask, as often as they like: all who do at the same time share one reading, and the image is
    only locked while it is read, not while it waits its turn.
    """
    lock = functools.partial(image_locks.image, image, exclusive=False)
    if image.is_tree:
        found = await workers.share(
            "machined.linux.rootfiles:read", image.path, _FILES, hold=lock, timeout=TIMEOUT
        )
        return _of_files(*found, wildcards=version >= 258)
    if image.stack is not None:
        found = await workers.share(
            "machined.linux.layering:read", image.stack.trees, _FILES, hold=lock, timeout=TIMEOUT
        )
        return _of_files(*found, wildcards=version >= 258)
    if image.type is ImageType.MSTACK:
        with lock():
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
    answer = await workers.share("machined.linux.dissect:read", image.path, hold=lock, timeout=TIMEOUT)
    return _of_disk(answer)


def _of_files(
    hostname: bytes | None,
    machine_id: bytes | None,
    machine_info: bytes | None,
    os_release: bytes | None,
    *,
    wildcards: bool,
) -> Metadata:
    return Metadata(
        _hostname(hostname or b"", wildcards=wildcards),
        _machine_id(machine_id or b""),
        _fields(machine_info or b""),
        _fields(os_release or b""),
    )


def _hostname(data: bytes, *, wildcards: bool) -> str:
    """The first line that is one, cleaned up as the system does it at boot (hostname(5))."""
    for line in data.decode("ascii", "replace").splitlines():
        text = line.strip()
        if text and not text.startswith("#"):
            return _clean(text, "?" if wildcards else "")
    return ""


def _clean(text: str, extra: str) -> str:
    """Drop what no hostname has: other characters, labels that are empty or begin or end with a dash."""
    kept = ""
    for c in text:
        if len(kept) >= MAX_MACHINE_NAME:
            break
        before = kept[-1:] or "."
        if (
            (c.isascii() and c.isalnum())
            or c in extra
            or (c == "." and before not in ".-")
            or (c == "-" and before != ".")
        ):
            kept += c
    return kept.rstrip(".-")


def _machine_id(data: bytes) -> bytes:
    match = _ID.match(data)
    number = bytes.fromhex(match[1].decode()) if match is not None else b""
    return number if any(number) else b""


def _fields(data: bytes) -> dict[str, str]:
    try:
        return envfile.parse(data)
    except OSError:
        return {}


def _of_disk(answer: Mapping[str, Any]) -> Metadata:
    number = answer.get("machineId", "").replace("-", "")
    return Metadata(
        answer.get("hostname", ""),
        _machine_id(number.encode()),
        _pairs(answer.get("machineInfo", ())),
        _pairs(answer.get("osRelease", ())),
    )


def _pairs(words: Any) -> dict[str, str]:
    """From a list of NAME=value, or an object."""
    if isinstance(words, Mapping):
        return {str(key): str(value) for key, value in words.items()}
    return {key: value for key, _, value in (str(word).partition("=") for word in words)}
