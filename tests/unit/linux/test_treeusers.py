# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whoever uses a tree is found, and nobody else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

PROGRAM = """
import os, subprocess, sys
from contextlib import contextmanager
from machined.linux import mounts, treeusers

base = BASE
pool, other = base + "/machines", base + "/elsewhere"
for path in (pool + "/web/etc", pool + "-other/web", other):
    os.makedirs(path)
for path in (pool + "/disk.img", pool + "-other/disk.img"):
    with open(path, "wb") as file:
        file.truncate(1 << 20)

@contextmanager
def child(*command, **more):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes, **more) as process:
        process.stdout.readline()
        yield process.pid
        process.communicate()

def told(covered=False):
    print(treeusers.user_of(pool, covered=covered).replace(base, ""))

def mounted():
    found = treeusers.mount_of(pool)
    print(found.target.replace(base, "") if found else None)

def run(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

"""


@pytest.fixture
def run(tmp_path: Path, in_mount_namespace: Callable[[str], list[str]]) -> Callable[[str], list[str]]:
    return lambda code: in_mount_namespace(PROGRAM.replace("BASE", repr(str(tmp_path)), 1) + code)


def test_nobody(run: Callable[[str], list[str]]) -> None:
    lines = run(
        """
run("mount", "--bind", pool + "-other/web", other)
with child("sh", "-c", "echo; read line", cwd=pool + "-other/web"):
    told()
    mounted()
"""
    )
    assert lines == ["", "None"]


def test_processes(run: Callable[[str], list[str]]) -> None:
    """In a directory, with a file open, and with one mapped that is closed already."""
    lines = run(
        """
with child("sh", "-c", "echo; read line", cwd=pool + "/web") as pid:
    print(treeusers.user_of(pool) == f"process 'sh' (PID {pid})")
with child("sh", "-c", "exec 3<etc/../../disk.img; cd /; echo; read line", cwd=pool + "/web") as pid:
    print(treeusers.user_of(pool) == f"process 'sh' (PID {pid})")
code = "import mmap, os, sys; f = open(sys.argv[1], 'r+b'); m = mmap.mmap(f.fileno(), 4096); "
code += "os.closerange(3, 20); print(flush=True); sys.stdin.readline(); os._exit(0)"
with child(sys.executable, "-c", code, pool + "/disk.img") as pid:
    print([link for link in os.listdir(f"/proc/{pid}/fd") if int(link) > 2])
    print(f"(PID {pid})" in treeusers.user_of(pool))
told()
"""
    )
    assert lines == ["True", "True", "[]", "True", ""]


def test_mounts(run: Callable[[str], list[str]]) -> None:
    """Of a part of it elsewhere, here and in another mount namespace; and inside of it."""
    lines = run(
        """
run("mount", "--bind", pool + "/web", other)
told()
mounted()
run("umount", other)
run("mount", "-t", "tmpfs", "tmpfs", pool + "/web")
mounted()
run("umount", pool + "/web")
script = f"mount --bind {pool}/web {other} && mount --bind {pool} {pool} && echo && read line"
with child("unshare", "--mount", "sh", "-c", script) as pid:
    told()
    mounted()
told()
"""
    )
    assert lines[:3] == ["the mount at '/elsewhere'", "/elsewhere", "/machines/web"]
    assert lines[3].startswith("the mount at '/elsewhere' that the process with PID ")
    assert lines[4:] == ["None", ""]


def test_the_kernel(run: Callable[[str], list[str]]) -> None:
    """Loop devices and swap."""
    lines = run(
        """
for tree in (pool, pool + "-other"):
    device = run("losetup", "--find", "--show", tree + "/disk.img")
    try:
        print(treeusers.user_of(pool).replace(base, "").replace(device, "DEVICE"))
    finally:
        run("losetup", "--detach", device)
treeusers._SWAPS = base + "/swaps"
for tree in (pool, pool + "-other"):
    with open(treeusers._SWAPS, "w") as file:
        file.write(f"Filename\\tType\\n{tree}/disk.img file 1024 0 -2\\n")
    told()
"""
    )
    assert lines == [
        "the loop device DEVICE over '/machines/disk.img'",
        "",
        "the kernel, which swaps to '/machines/disk.img'",
        "",
    ]


def test_below_what_is_mounted_over_it(run: Callable[[str], list[str]]) -> None:
    """Who uses what is seen there does not use what is not seen any more."""
    lines = run(
        """
with open(base + "/raw", "wb") as file:
    file.truncate(256 << 20)
run("mkfs.btrfs", "-q", base + "/raw")
with child("sh", "-c", "echo; read line", cwd=pool + "/web") as pid:
    run("mount", "-o", "loop", base + "/raw", pool)
    print(treeusers.user_of(pool, covered=True) == f"process 'sh' (PID {pid})")
os.mkdir(pool + "/web")
with child("sh", "-c", "echo; read line", cwd=pool + "/web") as pid:
    told(covered=True)
    print(treeusers.user_of(pool) == f"process 'sh' (PID {pid})")
run("mount", "--bind", pool + "/web", other)
told(covered=True)
told()
run("umount", other)
run("umount", pool)
run("mount", "--bind", pool + "/web", other)
run("mount", "-o", "loop", base + "/raw", pool)
told(covered=True)
told()
# A copy of all mounts, as services have it, is no other mount of the pool.
with child("unshare", "--mount", "sh", "-c", "echo; read line"):
    told()
"""
    )
    assert lines == [
        "True",
        "",
        "True",
        "",
        "the mount at '/elsewhere'",
        "the mount at '/elsewhere'",
        "",
        "",
    ]
