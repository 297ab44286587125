# SPDX-License-Identifier: LGPL-2.1-or-later
"""Why a transfer failed: systemd-importd's log lines and errors, read for people.

The lines are those of 257 and 262. Where they say it well they are repeated, the last of the errors first.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from .context import Context
from .errors import BusError, CommandError
from .names import clean

_ERROR = 3  # syslog(3)
_JOURNAL = "'journalctl -u systemd-importd.service' has all it said."
_KEYS = (
    "Trusted are the keys in /etc/systemd/import-pubring.gpg, from systemd 258 on .pgp. "
    "--verify=checksum does without a signature, and trusts the server."
)
_ROOM = (
    "'machinectl image-status' shows the pool; 'machinectl clean' and 'machinectl remove' make room, "
    "'machinectl set-limit' raises its limit."
)
# (pattern, reason, hint), looked for in all that importd has said; the first that is found counts.
_KNOWN = (
    (
        r"No space left on device|Disk quota exceeded|Wrote only \d+ of \d+ bytes|: Write error$",
        "there is no space left",
        _ROOM,
    ),
    (
        # What 257 makes of an error in a download to a disk that is full.
        r"^Failed to write file: Input/output error",
        "it cannot be written: there is no space left, or the disk is broken",
        _ROOM,
    ),
    (
        r"^Image '.*' already exists\.",
        "image '{local}' exists already",
        "--force replaces it, another NAME leaves it alone.",
    ),
    (
        r"^Image .* not found\.",
        "there is no image '{local}'",
        "'machinectl list-images' shows the images there are.",
    ),
    (
        r"^DOWNLOAD INVALID: Signature|^Signature is empty",
        "its signature is not valid: nobody who is trusted here has signed it so",
        _KEYS,
    ),
    (r"^Failed to retrieve signature file", "the server has no signature for it", _KEYS),
    (
        r"^DOWNLOAD INVALID: Checksum",
        "its checksum is not the one the server tells: it was damaged on the way, or tampered with",
        "Try again; if it happens again, tell those who publish it.",
    ),
    (
        r"^Failed to retrieve SHA256 checksum|^Checksum is empty",
        "the server tells no checksum for it: there is neither FILE.sha256 nor SHA256SUMS",
        "--verify=no does without, and trusts the server and the way to it.",
    ),
    (
        r"^HTTP request to .* failed with code 404\.(?s:.*)^Failed to retrieve .*\(Wrong URL\?\)",
        "the server has no such file (404)",
        "Is the URL right?",
    ),
    (
        r"Transferred a partial file|^Download truncated|^Premature connection termination",
        "the connection ended before all of it was there",
        "Try again.",
    ),
    (
        r"Archive is compressed\. Use ",
        "it is compressed in a way that systemd-importd of this host does not know",
        "Unpack it first: 'zstd -dc FILE | machinectl import-tar - NAME'.",
    ),
    (
        r"^Failed to allocate puller: Operation not supported",
        "systemd-importd has no libcurl to download with",
        "Install that library, in Debian the package 'libcurl4t64'.",
    ),
    (
        r"^Failed to export image: Is a directory",
        "it is a directory tree, and no disk image",
        "'machinectl export-tar' exports those.",
    ),
    (
        r"^Failed to export image: Not a directory",
        "it is a disk image, and no directory tree",
        "'machinectl export-raw' exports those.",
    ),
    (
        r"^Unknown format: (?:zstd|xz|gzip|bzip2)",
        "systemd-importd of this host cannot compress so",
        "Try --format=xz, or another name for the file.",
    ),
    (r"^Failed to write output file: Broken pipe", "whoever was to read it has gone", ""),
)
# What follows from an error, and says nothing about it.
_CONSEQUENCES = (
    "Failed to retrieve image file.", "Exiting", "Failed to decode and write", "tar failed with exit status",
    "'tar' failed with exit status", "tar: Exiting with failure", "tar: Error is not recoverable",
)  # fmt: skip


def failed(what: str, lines: Sequence[tuple[int, str]], local: str) -> CommandError:
    """The sentence for a transfer that importd gave up; `lines`: (priority, text) as they came."""
    text = "\n".join(line for _, line in lines)
    for pattern, reason, hint in _KNOWN:
        if re.search(pattern, text, re.MULTILINE):
            return CommandError(f"{what}: {reason.format(local=clean(local))}.", hint)
    errors = [line for priority, line in lines if priority <= _ERROR] or [line for _, line in lines[-1:]]
    causes = [line for line in errors if not line.startswith(_CONSEQUENCES)] or errors
    reason = "; ".join(dict.fromkeys(cause.rstrip(".") for cause in causes[-3:]))
    return CommandError(f"{what}: {clean(reason) or 'systemd-importd does not say why'}.", _JOURNAL)


def refused(context: Context, error: BusError, what: str) -> CommandError:
    """The sentence for an error importd answered with."""
    kind = error.name.rpartition(".")[2]
    if kind == "ServiceUnknown" or (error.not_running and not error.left):
        return CommandError(
            f"{what}: the import service (systemd-importd) is not there: {error.text}",
            "It comes with systemd, in Debian in the package 'systemd-container'; "
            "'systemctl status systemd-importd.service' tells why it does not run.",
        )
    if error.not_there:
        return CommandError(
            f"{what}: the systemd-importd of this host is too old for it: {error.text}",
            "OCI images can be pulled since systemd 260." if context.verb.name == "pull-oci" else "",
        )
    if kind == "TransferInProgress":
        return CommandError(f"{what}: {error.text}", "'machinectl list-transfers' shows it.")
    if kind == "NoSuchTransfer":
        return CommandError(f"{what}: {error.text}", "'machinectl list-transfers' shows those there are.")
    return context.failure(error, what)
