# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a disk image tells about itself, asked of systemd-dissect(1), which mounts it out of our sight."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

_ENVIRONMENT: Final = {
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL": "C",
    "SYSTEMD_LOG_LEVEL": "notice",
    # Root hashes that lie beside an image are for who mounts it to run it.
    "SYSTEMD_DISSECT_VERITY_SIDECAR": "0",
}
# What systemd-nspawn and machinectl accept of a container's image (systemd.image-policy(7)).
_POLICY: Final = (
    "root=verity+signed+encrypted+unprotected+absent:usr=verity+signed+encrypted+unprotected+absent:"
    "home=encrypted+unprotected+absent:srv=encrypted+unprotected+absent:tmp=encrypted+unprotected+absent:"
    "var=encrypted+unprotected+absent"
)
# The tool's own sentences hide the error that the library had.
_SENTENCES: Final = (
    ("identify a suitable partition table or file system", errno.ENOPKG),
    ("does not pass OS image validation", errno.ENOMEDIUM),
    ("does not pass os-extension validation", errno.EMEDIUMTYPE),
    ("ultiple suitable root partitions", errno.ENOTUNIQ),
    ("o suitable root partition", errno.ENXIO),
    ("o root partition", errno.ENXIO),
    ("image dissection policy", errno.ERFKILL),
    ("does not match image policy", errno.ERFKILL),
)
_OUTPUT_MAX: Final = 1024 * 1024


def read(path: str) -> dict[str, Any]:
    """The keys hostname, machineId, machineInfo, osRelease, as far as the image has them.

    OSError: ENOPKG when it is no disk image, ENOMEDIUM when no OS is in it, EOPNOTSUPP without the tool.
    """
    command = ["systemd-dissect", "--no-pager", "--json=short", f"--image-policy={_POLICY}", "--", path]
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_ENVIRONMENT,
        )
    except FileNotFoundError:
        raise OSError(errno.EOPNOTSUPP, "systemd-dissect is not installed") from None
    output, complaints = process.communicate()
    if process.returncode:
        raise _error(complaints.decode(errors="replace"))
    try:
        answer = json.loads(output[:_OUTPUT_MAX])
    except ValueError as error:
        raise OSError(errno.EIO, f"systemd-dissect answers with nonsense: {error}") from None
    if not answer.get("osRelease"):
        raise OSError(errno.ENOMEDIUM, os.strerror(errno.ENOMEDIUM))
    keys = ("hostname", "machineId", "machineInfo", "osRelease")
    return {key: answer[key] for key in keys if answer.get(key)}


def renew(path: str) -> None:
    """Have the system in a disk image get an identity of its own when it boots next. OSError as with read().

    The tool mounts it in a namespace of its own, so that a kill of it leaves no mount.
    """
    reset = "import sys; sys.path.append(sys.argv[1]); from machined.linux.identity import reset_identity"
    command = ["systemd-dissect", f"--image-policy={_POLICY}", "--with", path, sys.executable, "-I", "-S"]
    command += ["-c", f"{reset}; reset_identity('.')", str(Path(__file__).parent.parent.parent)]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, env=_ENVIRONMENT, check=False
        )
    except FileNotFoundError:
        raise OSError(errno.EOPNOTSUPP, "systemd-dissect is not installed") from None
    if done.returncode:
        raise _error(done.stderr.decode(errors="replace"))


def _error(complaints: str) -> OSError:
    for sentence, number in _SENTENCES:
        if sentence in complaints:
            return OSError(number, os.strerror(number))
    reason = complaints.strip().rpartition(": ")[2].rstrip(".")
    for number in errno.errorcode:
        if os.strerror(number) == reason:
            return OSError(number, reason)
    return OSError(errno.EIO, complaints.strip() or "systemd-dissect failed")
