# SPDX-License-Identifier: LGPL-2.1-or-later
"""Systems that are there already: in an archive, such as a stage3 of Gentoo, or in a directory."""

from __future__ import annotations

from typing import Final

from machined.model.builders import arguments
from machined.model.builders.plan import TREE, Builder, Plan, Wishes

_TAR: Final = (
    "tar", "--extract", "--numeric-owner", "--preserve-permissions", "--same-owner", "--xattrs",
    "--xattrs-include=*", "--acls", "--selinux", "--delay-directory-restore",
)  # fmt: skip


def tar(text: str, wishes: Wishes) -> Plan:
    path = arguments.absolute("tar", text)
    # tar takes "host:file" for a file elsewhere, were it not told otherwise.
    command = (*_TAR, "--force-local", f"--file={path}", f"--directory={TREE}")
    return Plan(command, reads=path, confined=True, installs=False)


def directory(text: str, wishes: Wishes) -> Plan:
    path = arguments.absolute("dir", text)
    return Plan(copies=path.rstrip("/") or "/", installs=False)


TAR: Final = Builder(
    "tar",
    "FILE",
    "What is in an archive, compressed or not (a stage3 of Gentoo)",
    tar,
    "tar",
    "tar",
    (
        (
            r"(?i)does not look like a tar archive|not recogni[sz]ed|Unexpected EOF|unexpected end",
            "The file is no archive that tar reads, or only a part of one.",
        ),
        (
            r"(?i)Cannot exec|No such file or directory: (xz|zstd|bzip2|gzip)|\(child\)",
            "The program that unpacks this kind of file is missing: xz-utils, zstd or bzip2.",
        ),
    ),
)
DIRECTORY: Final = Builder("dir", "PATH", "A copy of a directory", directory)
