# SPDX-License-Identifier: LGPL-2.1-or-later
"""Builds the cached Debian trees with mmdebstrap."""

import dataclasses
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from . import cache, recipe
from .cache import TestHostError


@dataclasses.dataclass(frozen=True, slots=True)
class Trees:
    """The cached trees of a suite. Never write to them: every instance and layer lies on top."""

    suite: str
    host: Path
    guest: Path


def ensure(suite: str) -> Trees:
    """The host and the guest tree of a suite, built when missing (minutes) or older than their recipe."""
    if suite not in recipe.SUITES:
        raise TestHostError(f"no such suite '{suite}', there are: {', '.join(recipe.SUITES)}")
    return Trees(suite, tree(recipe.host(suite)), tree(recipe.guest(suite)))


def tree(wanted: recipe.Recipe, *, also: Sequence[str] = ()) -> Path:
    """The cached tree of one recipe; `also`: further options of mmdebstrap."""
    path = cache.directory("trees") / f"{wanted.name}-{wanted.digest()}"
    if path.is_dir():
        return path
    with cache.locked(wanted.name):
        if path.is_dir():  # somebody else has built it while we waited for the lock
            return path
        cache.empty_trash()
        install_tools({"mmdebstrap": "mmdebstrap", "gpgv": "gpgv"}, also=("debian-archive-keyring",))
        partial = path.parent / f".partial-{path.name}"
        cache.remove(partial)
        cache.run_step(
            f"building the {wanted.name.replace('-', ' ')} tree (about a minute, cached afterwards)",
            list(_mmdebstrap(wanted, partial, also)),
        )
        partial.chmod(0o755)
        partial.rename(path)
        stale = [*path.parent.glob(f"{wanted.name}-*"), *path.parent.glob(f".partial-{wanted.name}-*")]
        cache.prune([old for old in stale if old != path])
    return path


def _mmdebstrap(wanted: recipe.Recipe, target: Path, also: Sequence[str]) -> Iterator[str]:
    # In a mount namespace, where what it mounts in the tree is gone with it even when it is killed.
    yield from ("unshare", "--mount", "--propagation", "private", "--")
    yield from ("mmdebstrap", "--mode=root", "--variant=minbase", "--format=directory")
    yield f"--include={','.join(wanted.packages)}"
    yield from (f"--aptopt={option}" for option in wanted.apt_options)
    yield from (f"--dpkgopt=path-exclude={pattern}" for pattern in wanted.excluded)
    yield "--dpkgopt=force-unsafe-io"
    yield from (f"--customize-hook={hook}" for hook in wanted.hooks)
    yield from also
    yield from (wanted.suite, os.fspath(target))
    if (mirror := machine_mirror()) is not None:
        yield mirror


def machine_mirror() -> str | None:
    """The URI of the main Debian archive in this machine's own apt sources; None leaves it to mmdebstrap."""
    try:
        if "ID=debian" not in Path("/etc/os-release").read_text(encoding="utf-8").splitlines():
            return None
    except OSError:
        return None
    for uri, suites, components in _sources(Path("/etc/apt")):
        # Suites with a slash or a dash are flat repositories, security and updates.
        if "main" in components and any(re.fullmatch(r"[a-z]+", suite) for suite in suites):
            return uri
    return None


def _sources(etc: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """(URI, suites, components) of every apt source, in both of apt's formats (sources.list(5))."""
    for path in sorted((etc / "sources.list.d").glob("*.sources")):
        for stanza in re.split(r"\n\s*\n", path.read_text(encoding="utf-8")):
            lines = [line for line in stanza.splitlines() if not line.startswith("#")]
            fields = {
                key.strip().lower(): value.split()
                for key, separator, value in (line.partition(":") for line in lines)
                if separator and not key[:1].isspace()
            }
            if "deb" in fields.get("types", []) and fields.get("enabled") != ["no"]:
                for uri in fields.get("uris", []):
                    yield uri, fields.get("suites", []), fields.get("components", [])
    for path in [etc / "sources.list", *sorted((etc / "sources.list.d").glob("*.list"))]:
        if not path.exists():
            continue
        for line in path.read_text(encoding="utf-8").splitlines():
            words = re.sub(r"\[[^]]*\]", "", line.partition("#")[0]).split()
            if len(words) >= 4 and words[0] == "deb":
                yield words[1], [words[2]], words[3:]


def install_tools(needed: dict[str, str], *, also: Sequence[str] = ()) -> None:
    """Make commands available: {command: Debian package}. Raises TestHostError where it cannot."""
    missing = sorted({package for command, package in needed.items() if shutil.which(command) is None})
    if not missing:
        return
    if shutil.which("apt-get") is None:
        raise TestHostError(f"these are needed and not installed: {', '.join(missing)}")
    install = ["apt-get", "install", "--yes", "--no-install-recommends", *missing, *also]
    env = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    with cache.locked("apt"):
        try:
            cache.run_step(f"installing {' '.join(missing)}", install, env=env)
        except TestHostError:
            # The package lists may be missing or out of date.
            cache.run_step("updating the package lists", ["apt-get", "update"], env=env)
            cache.run_step(f"installing {' '.join(missing)}", install, env=env)
