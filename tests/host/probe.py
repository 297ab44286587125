# SPDX-License-Identifier: LGPL-2.1-or-later
"""Finds out, once per process, whether this machine can boot a test host."""

import functools
import os
import shutil
import subprocess
import sys

from . import cache
from .instance import cgroup_root

UNSHARE = (
    "unshare", "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup",
    "--fork", "--kill-child", "--propagation", "private", "--",
)  # fmt: skip

# What a host needs: an overlay whose upper layer lies in the cache, and mounts of its own.
_TRIAL = """
set -e
cd "$1"
mkdir lower upper work tree
mount -t overlay -o lowerdir=lower,upperdir=upper,workdir=work machined-tests tree
mkdir tree/proc tree/sys
mount -t proc proc tree/proc
mount -t sysfs -o ro sysfs tree/sys
mount -t cgroup2 cgroup2 tree/sys/fs/cgroup
mkdir tree/dev
mount -t tmpfs tmpfs tree/dev
mkdir tree/dev/pts
mount -t devpts -o newinstance devpts tree/dev/pts
mknod tree/dev/null c 1 3
: <tree/dev/null
"""


@functools.cache
def why_not() -> str | None:
    """The reason why no test host boots on this machine; None where one does."""
    if sys.platform != "linux":
        return "it does not run Linux"
    if os.geteuid() != 0:
        return "only root can boot a test host"
    for command in ("unshare", "nsenter", "mount", "umount", "pivot_root"):
        if shutil.which(command) is None:
            return f"there is no '{command}' command"
    root = cgroup_root()
    if root is None:
        return "the unified cgroup hierarchy is not mounted"
    if not os.access(root / "cgroup.procs", os.W_OK):
        return "the unified cgroup hierarchy is read-only"
    try:
        trial = cache.directory("trash") / f"probe-{os.getpid()}-0"
        trial.mkdir()
    except OSError as error:
        return f"the cache directory cannot be written: {error}"
    done = subprocess.run(
        [*UNSHARE, "sh", "-c", _TRIAL, "sh", os.fspath(trial)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    shutil.rmtree(trial, ignore_errors=True)
    if done.returncode != 0:
        return f"namespaces or mounts are denied: {done.stderr.strip() or done.returncode}"
    return None
