# SPDX-License-Identifier: LGPL-2.1-or-later
"""The newest entry of a NAME.v/ directory (systemd.v(7)), versions compared as UAPI.10 says."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import Final

_ARCHITECTURES: Final = {
    "x86_64": ("x86-64", "x86"),
    "aarch64": ("arm64", "arm"),
    "i686": ("x86",),
    "armv7l": ("arm",),
    "riscv64": ("riscv64",),
    "ppc64le": ("ppc64-le",),
    "s390x": ("s390x",),
    "loongarch64": ("loongarch64",),
}
_KNOWN: Final = frozenset({"x86-64", "x86", "arm64", "arm", "riscv64", "ppc64-le", "s390x", "loongarch64"})
_TRIES: Final = re.compile(r"\+(\d+)(-\d+)?\Z")
_SEPARATORS: Final = ("~", "-", "^", ".")


def compare(one: str, other: str) -> int:
    """Less than, equal to, or more than 0, as the versions are."""
    a, b = one, other
    while True:
        a, b = (re.sub(r"\A[^A-Za-z0-9~.^-]+", "", text) for text in (a, b))
        if a.startswith("~") or b.startswith("~"):
            if a[:1] != b[:1]:
                return -1 if a.startswith("~") else 1
            a, b = a[1:], b[1:]
            continue
        if not a or not b:
            return (len(a) > 0) - (len(b) > 0)
        for mark in _SEPARATORS[1:]:
            if a.startswith(mark) or b.startswith(mark):
                if a[:1] != b[:1]:
                    return -1 if a.startswith(mark) else 1
                a, b = a[1:], b[1:]
                break
        else:
            digits = a[0].isdigit() or b[0].isdigit()
            pattern = r"\A[0-9]*" if digits else r"\A[A-Za-z]*"
            x, y = (re.search(pattern, text) for text in (a, b))
            assert x is not None
            assert y is not None
            left: int | str = x[0]
            right: int | str = y[0]
            if digits:
                left, right = int(x[0] or -1), int(y[0] or -1)
            if left != right:
                return 1 if left > right else -1  # type: ignore[operator]
            a, b = a[x.end() :], b[y.end() :]


def newest(directory: Path, base: str, suffix: str) -> Path | None:
    """The entry BASE_VERSION[_ARCH][+TRIES]SUFFIX to use; directories for "", files for ".raw"."""
    wanted = (stat.S_IFREG, stat.S_IFBLK) if suffix == ".raw" else (stat.S_IFDIR,)
    ours = _ARCHITECTURES.get(os.uname().machine, ())
    best: tuple[int, bool, str] | None = None
    found: Path | None = None
    for entry in os.listdir(directory):
        if not entry.startswith(f"{base}_") or not entry.endswith(suffix):
            continue
        rest = entry[len(base) + 1 : len(entry) - len(suffix)]
        tries = _TRIES.search(rest)
        if tries is not None:
            rest = rest[: tries.start()]
        version, _, architecture = rest.rpartition("_")
        if architecture not in _KNOWN:
            version, architecture = rest, ""
        if not version or (architecture and architecture not in ours):
            continue
        try:
            if stat.S_IFMT((directory / entry).stat().st_mode) not in wanted:
                continue
        except OSError:
            continue
        rank = len(ours) - ours.index(architecture) if architecture else 0
        candidate = (rank, tries is None or int(tries[1]) > 0, version)
        if best is None or _is_better(candidate, best):
            best, found = candidate, directory / entry
    return found


def _is_better(one: tuple[int, bool, str], other: tuple[int, bool, str]) -> bool:
    if one[:2] != other[:2]:
        return one[:2] > other[:2]
    return compare(one[2], other[2]) > 0
