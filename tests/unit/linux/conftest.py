# SPDX-License-Identifier: LGPL-2.1-or-later
"""Processes to look at, and small guests: processes in namespaces, and in a root directory, of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from machined.linux.process import PidRef
from tests.settled import settled  # noqa: F401

ROOT = Path(__file__).resolve().parents[3]
FIRST_UID = 100_000

# The outer process stays in our PID namespace and tells us the number of the inner one, which is the guest.
GUEST = """
import fcntl, os, signal, socket, struct, sys
sys.path.append(sys.argv[1])
from machined.linux import syscalls
tree, kinds = sys.argv[2], sys.argv[3].split(",")
names = {"user": "NEWUSER", "mnt": "NEWNS", "pid": "NEWPID", "net": "NEWNET"}
flags = 0
for kind in kinds:
    flags |= getattr(syscalls, "CLONE_" + names[kind])
syscalls.unshare(flags)
print("unshared", flush=True)
sys.stdin.readline()
if "user" in kinds:
    os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
if child := os.fork():
    print(child, flush=True)
    os.waitpid(child, 0)
    os._exit(0)
sys.stdin.readline()
if "net" in kinds:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        SIOCSIFFLAGS, SIOCSIFADDR, IFF_UP = 0x8914, 0x8916, 1
        fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))
        address = struct.pack("16sHH4s8x", b"lo:1", socket.AF_INET, 0, socket.inet_aton("192.0.2.7"))
        fcntl.ioctl(sock, SIOCSIFADDR, address)
os.chroot(tree)
os.chdir("/")
print("ready", flush=True)
while True:
    signal.pause()
"""


@dataclass(frozen=True)
class Guest:
    ref: PidRef
    tree: Path
    """Its root directory; anybody may write there."""


@contextmanager
def started(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A program that is killed and reaped at the end."""
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def tell(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def _kill(process: PidRef) -> None:
    with suppress(ProcessLookupError):  # a test may have done so
        process.kill(9)


@contextmanager
def guest_with(*kinds: str) -> Iterator[Guest]:
    if os.geteuid() != 0:
        pytest.skip("entering namespaces needs root")
    with ExitStack() as stack:
        tree = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="guest-")))
        for directory in (tree, tree / "etc", tree / "dev", tree / "run"):
            directory.mkdir(exist_ok=True)
            directory.chmod(0o777)
        program = [sys.executable, "-I", "-S", "-c", GUEST, str(ROOT), str(tree), ",".join(kinds)]
        outer = stack.enter_context(started(*program))
        if line(outer) != "unshared":
            pytest.skip("this machine does not let root make namespaces")
        if "user" in kinds:
            for file in ("uid_map", "gid_map"):
                Path(f"/proc/{outer.pid}/{file}").write_text(f"0 {FIRST_UID} 65536\n")
        tell(outer)
        ref = stack.enter_context(PidRef.open(int(line(outer))))
        stack.callback(_kill, ref)
        tell(outer)
        assert line(outer) == "ready"
        yield Guest(ref, tree)


@pytest.fixture(scope="module")
def guest() -> Iterator[Guest]:
    """One with all namespaces of its own, user namespace included."""
    with guest_with("user", "mnt", "pid", "net") as guest:
        yield guest


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A child that does nothing until somebody ends it."""
    with subprocess.Popen(["sleep", "infinity"]) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def in_mount_namespace() -> Callable[[str], list[str]]:
    """Runs Python code in a mount namespace of its own and returns the lines it prints."""

    def run(code: str) -> list[str]:
        if os.geteuid() != 0:
            pytest.skip("mounting needs root")
        probe = subprocess.run(["unshare", "--mount", "true"], capture_output=True, text=True, check=False)
        if probe.returncode:
            pytest.skip(f"this machine denies mount namespaces: {probe.stderr.strip()}")
        program = ["unshare", "--mount", "--propagation=private", sys.executable, "-c", code]
        done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    return run
