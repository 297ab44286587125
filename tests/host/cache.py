# SPDX-License-Identifier: LGPL-2.1-or-later
"""The cache directory of the test host: where it is, its locks, its progress lines, and safe removal."""

import contextlib
import fcntl
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path


class TestHostError(Exception):
    """The test host could not be built, booted or used; the text is for the person who runs the tests."""

    __test__ = False  # pytest takes every class called Test… for a test


_locks: set[int] = set()
"""The descriptors of the locks this process holds; `run_step` hands them down."""


def root() -> Path:
    """$MACHINED_TEST_CACHE or /var/cache/machined-tests: on a disk, and outside the repository."""
    return Path(os.environ.get("MACHINED_TEST_CACHE") or "/var/cache/machined-tests").absolute()


def directory(name: str) -> Path:
    """A subdirectory of the cache, made when missing."""
    path = root() / name
    path.mkdir(parents=True, exist_ok=True)
    return path


def say(text: str) -> None:
    """One progress line."""
    print(f"tests.host: {text}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def locked(name: str) -> Iterator[None]:
    """Only one process at a time is in here under this name.

    The lock dies with its owner and the steps it has started: what a killed process leaves running must not
    go on writing beneath the next one.
    """
    with (directory("locks") / name).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another process to finish with {name}…")
            fcntl.flock(file, fcntl.LOCK_EX)
        _locks.add(file.fileno())
        try:
            yield
        finally:
            _locks.discard(file.fileno())


def hold(path: Path) -> int:
    """Mark a tree as in use until the returned descriptor is closed, so that `prune` spares it."""
    fd = os.open(directory("locks") / f"use-{path.name}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    fcntl.flock(fd, fcntl.LOCK_SH)
    return fd


def prune(paths: Sequence[Path]) -> None:
    """Remove those of the trees that nobody holds."""
    for path in paths:
        lock = directory("locks") / f"use-{path.name}"
        with lock.open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            remove(path)  # not the lock: somebody may just have opened it


def mounts_under(path: Path) -> list[Path]:
    """Mount points at or below a path, the deepest (latest) first."""
    found = []
    for line in os.fsdecode(Path("/proc/self/mountinfo").read_bytes()).splitlines():
        # The kernel writes blanks and the like as three octal digits.
        target = Path(re.sub(r"\\(\d{3})", lambda match: chr(int(match[1], 8)), line.split()[4]))
        if target == path or path in target.parents:
            found.append(target)
    return found[::-1]


def remove(path: Path) -> None:
    """Delete a tree, never anything that is mounted in it."""
    if not os.path.lexists(path):
        return
    if busy := mounts_under(path):
        raise TestHostError(f"'{busy[0]}' is still mounted, not removing '{path}'")
    # Renamed first: a removal that is interrupted must not leave half a tree under a name that counts.
    trash = directory("trash") / f"{path.name}-{os.getpid()}-{time.monotonic_ns()}"
    path.rename(trash)
    # What tests have made immutable, and left so, goes as well.
    subprocess.run(["chattr", "-R", "-f", "-i", os.fspath(trash)], check=False, capture_output=True)
    # rm, not shutil.rmtree: device nodes, error texts and depth are its daily work.
    subprocess.run(["rm", "-rf", "--one-file-system", os.fspath(trash)], check=False)
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(trash, ignore_errors=True)


def empty_trash() -> None:
    """Finish removals that were interrupted."""
    for path in directory("trash").iterdir():
        owner = path.name.rsplit("-", 2)[-2]
        if not Path("/proc", owner).exists():
            subprocess.run(["rm", "-rf", "--one-file-system", os.fspath(path)], check=False)


def run_step(
    what: str,
    argv: Sequence[str],
    *,
    env: dict[str, str] | None = None,
    timeout: float = 1800,
) -> None:
    """Run a long command with its output in a log, and say that it is going on.

    Raises TestHostError with the end of the log when it fails or takes too long.
    """
    say(f"{what}…")
    started = time.monotonic()
    log = directory("logs") / f"{os.getpid()}-{time.monotonic_ns()}.log"
    with log.open("wb") as output:
        # A session of its own, so that a time-out ends the helpers too.
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=env,
            start_new_session=True,
            pass_fds=tuple(_locks),
        )
        try:
            while True:
                elapsed = time.monotonic() - started
                try:
                    process.wait(min(20.0, max(0.1, timeout - elapsed)))
                    break
                except subprocess.TimeoutExpired:
                    elapsed = time.monotonic() - started
                    if elapsed >= timeout:
                        break
                    say(f"{what}: {elapsed:.0f} s…")
        finally:
            if process.poll() is None:
                os.killpg(process.pid, 9)
                process.wait()
    elapsed = time.monotonic() - started
    if process.returncode != 0:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-40:])
        raise TestHostError(
            f"{what}: failed after {elapsed:.0f} s (exit status {process.returncode})\n{tail}"
        )
    log.unlink()
    say(f"{what}: done in {elapsed:.0f} s")
