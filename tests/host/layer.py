# SPDX-License-Identifier: LGPL-2.1-or-later
"""The installed layer: what `make install` adds to a host tree, cached by the source files it came from."""

import contextlib
import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from . import build, cache, chroot
from .boot import Host

KEPT = 4
"""How many layers, and how many sets of wheels, a suite may have in the cache."""

WHEELS = "/var/cache/machined-wheels"
"""Where a chroot and a booted host find the wheels: `make install MACHINED_WHEELS=…` needs no network."""

SOURCE = "/root/machined-src"
REPOSITORY = Path(__file__).parents[2]

_INSTALL = f"cp -a /run/machined-src {SOURCE} && exec make -C {SOURCE} install PREFIX=/usr/local"


def machined_host(suite: str = "trixie", source: Path = REPOSITORY) -> Host:
    """A host, not booted, with machined installed from a source tree, and the wheels at WHEELS."""
    return Host(suite, layer=with_machined(suite, source), read_only={WHEELS: wheels(suite, source)})


def with_machined(suite: str, source: Path = REPOSITORY) -> Path:
    """The layer to lie over the host tree of a suite. Raises TestHostError with make's output."""
    tree = build.ensure(suite).host
    packages = wheels(suite, source)
    layers = cache.directory("layers")
    with _staged(source) as stage, cache.locked(f"{suite}-layer"):
        path = layers / f"{suite}-{_digest(tree.name, stage)}"
        if not path.is_dir():
            partial = layers / f".partial-{path.name}"
            work = partial.with_name(partial.name + ".work")
            for directory in (partial, work):
                cache.remove(directory)
                directory.mkdir(mode=0o755)
            chroot.run_in_tree(
                f"installing machined on the {suite} host tree", [tree], ["sh", "-ec", _INSTALL],
                upper=partial,
                binds={"/run/machined-src": stage, WHEELS: packages},
                env={"MACHINED_WHEELS": WHEELS, "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
            )  # fmt: skip
            cache.remove(work)
            partial.rename(path)
        _used(path, f"{suite}-*")
    return path


def wheels(suite: str, source: Path = REPOSITORY) -> Path:
    """The packages of requirements.lock for the Python of a suite, downloaded by that Python's own pip."""
    tree = build.ensure(suite).host
    lock = source / "requirements.lock"
    # Which Python it is decides which wheels fit; the tree's name would fetch them anew with every recipe.
    python = os.readlink(tree / "usr/bin/python3")
    digest = hashlib.sha256(lock.read_bytes()).hexdigest()[:16]
    path = cache.directory("wheels") / f"{suite}-{python}-{digest}"
    with cache.locked(f"{suite}-wheels"):
        if not path.is_dir():
            partial = path.with_name(f".partial-{path.name}")
            cache.remove(partial)
            partial.mkdir(mode=0o755)
            pip = ["python3", "-m", "pip", "download", "--only-binary", ":all:", "--require-hashes"]
            chroot.run_in_tree(
                f"downloading the Python packages for {suite}", [tree],
                [*pip, "--no-cache-dir", "-r", "/run/lock/requirements.lock", "-d", WHEELS],
                binds={WHEELS: partial, **chroot.index_directories()},
                files={"/run/lock/requirements.lock": lock, **chroot.index_files()},
                env=chroot.index_environment(), network=True,
            )  # fmt: skip
            partial.rename(path)
        _used(path, f"{suite}-*")
    return path


def _used(path: Path, pattern: str) -> None:
    """Note the use, and remove what was used the longest ago."""
    os.utime(path)
    newest = sorted(path.parent.glob(pattern), key=lambda other: other.stat().st_mtime, reverse=True)
    cache.prune(newest[KEPT:])


@contextlib.contextmanager
def _staged(source: Path) -> Iterator[Path]:
    """A copy of the source files: somebody may be editing them while they are hashed and installed."""
    stage = cache.directory("trash") / f"source-{os.getpid()}-{os.urandom(4).hex()}"
    stage.mkdir(mode=0o755)
    try:
        for name in _source_files(source):
            target = stage / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):  # deleted, and git does not know yet
                shutil.copy2(source / name, target, follow_symlinks=False)
        yield stage
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _source_files(source: Path) -> list[str]:
    """What a clone with all changes committed would have, without the tests: they are not installed."""
    git = ["git", "-c", "safe.directory=*", "-C", os.fspath(source)]
    command = [*git, "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False)
    if listed.returncode == 0:
        names = listed.stdout.split("\0")[:-1]
    else:  # an unpacked archive
        names = [os.fspath(path.relative_to(source)) for path in source.rglob("*") if not path.is_dir()]
    return sorted({name for name in names if Path(name).parts[0] not in ("tests", ".git")})


def _digest(tree: str, stage: Path) -> str:
    state = hashlib.sha256(f"{tree}\n{_INSTALL}\n".encode())
    for path in sorted(stage.rglob("*")):
        if path.is_dir() and not path.is_symlink():
            continue
        content = os.readlink(path).encode() if path.is_symlink() else path.read_bytes()
        mode = path.lstat().st_mode & 0o170111
        state.update(f"{path.relative_to(stage)}\0{mode:o}\0{len(content)}\0".encode())
        state.update(content)
    return state.hexdigest()[:16]
