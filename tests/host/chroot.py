# SPDX-License-Identifier: LGPL-2.1-or-later
"""Runs a command in a tree that is not booted, with an overlay on top that is kept or thrown away."""

import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from . import cache
from .probe import UNSHARE

# The build machine's settings for the package index, and what it takes to reach one.
_CARRIED_PREFIXES = ("PIP_", "SSL_CERT_")
_CARRIED = (
    "REQUESTS_CA_BUNDLE",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
)
_CA_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"


def run_in_tree(
    what: str,
    lowers: Sequence[Path],
    argv: Sequence[str],
    *,
    upper: Path | None = None,
    binds: Mapping[str, Path] | None = None,
    files: Mapping[str, Path] | None = None,
    env: Mapping[str, str] | None = None,
    network: bool = False,
    timeout: float = 900,
) -> None:
    """Run a command in an overlay over the trees. Raises TestHostError with the end of its output.

    What it writes lands in `upper`, or is thrown away without one. `binds` are {path inside: directory}, and
    `files` {path inside: file} are copied in beforehand: only without `upper`, which they would end up in.
    """
    assert not (upper and files), "copied files would stay in the layer"
    # Everything is mounted in a namespace of the command's own, and is gone with it.
    keep = {"--cgroup"} | ({"--net"} if network else set())
    unshare = [word for word in UNSHARE if word not in keep]
    script = "\n".join(_script(lowers, upper, binds or {}, files or {}))
    full = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG": "C.UTF-8",
        "HOME": "/root",
    }
    variables = [f"{key}={value}" for key, value in (full | dict(env or {})).items()]
    inside = ["chroot", "tree", "/usr/bin/env", "-i", *variables, *argv]
    cache.run_step(what, [*unshare, "sh", "-ec", f'{script}\nexec "$@"', "sh", *inside], timeout=timeout)


def _script(
    lowers: Sequence[Path], upper: Path | None, binds: Mapping[str, Path], files: Mapping[str, Path]
) -> Iterator[str]:
    def quoted(path: str | Path) -> str:
        return shlex.quote(os.fspath(path))

    def inside(path: str) -> str:
        return shlex.quote(f"tree/{path.lstrip('/')}")

    yield f"mount -t tmpfs -o mode=0755 tmpfs {quoted(cache.directory('mnt'))}"
    yield f"cd {quoted(cache.directory('mnt'))}"
    yield "mkdir tree upper work"
    if upper is None:
        above = "upperdir=upper,workdir=work"
    else:
        # The work directory has to be on the file system of the upper one.
        above = f"upperdir={upper},workdir={upper.with_name(upper.name + '.work')}"
    options = f"lowerdir={':'.join(map(os.fspath, lowers))},{above}"
    yield f"mount -t overlay -o {quoted(options)} machined-tests tree"
    yield "mount -t proc proc tree/proc"
    yield "mount -t tmpfs tmpfs tree/dev"
    for node in ("null", "zero", "full", "random", "urandom", "tty"):
        yield f": >tree/dev/{node}; mount --bind /dev/{node} tree/dev/{node}"
    yield "ln -s /proc/self/fd tree/dev/fd; mkdir tree/dev/shm"
    yield "mount -t tmpfs -o mode=0755 tmpfs tree/run; mount -t tmpfs -o mode=1777 tmpfs tree/tmp"
    for path, source in binds.items():
        yield f"mkdir -p {inside(path)}; mount --bind {quoted(source)} {inside(path)}"
    for path, source in files.items():
        yield f"mkdir -p {inside(os.path.dirname(path))}; cp -L {quoted(source)} {inside(path)}"
    yield "ip link set lo up 2>/dev/null || true"


def index_environment() -> dict[str, str]:
    """This machine's settings of pip that come as environment variables."""
    return {
        key: value
        for key, value in os.environ.items()
        if key.startswith(_CARRIED_PREFIXES) or key in _CARRIED
    }


def index_files() -> dict[str, Path]:
    """What pip in a chroot needs of this machine to reach its package index: {path inside: file}."""
    # The tree's own resolv.conf is a link to where systemd-resolved, not running there, would write.
    found = {"/run/systemd/resolve/stub-resolv.conf": Path("/etc/resolv.conf"), _CA_BUNDLE: Path(_CA_BUNDLE)}
    home = Path.home()
    found |= {"/etc/pip.conf": Path("/etc/pip.conf"), "/etc/hosts": Path("/etc/hosts")}
    found |= {
        "/root/.config/pip/pip.conf": home / ".config/pip/pip.conf",
        "/root/.pip/pip.conf": home / ".pip/pip.conf",
    }
    # Certificates and a configuration that a variable names, at the same place.
    found |= {value: Path(value) for value in index_environment().values() if value.startswith("/")}
    return {inside: path for inside, path in found.items() if path.is_file()}


def index_directories() -> dict[str, Path]:
    """Local directories of packages that pip's settings name: {path inside: directory}."""
    words = index_environment().get("PIP_FIND_LINKS", "").split()
    return {word: Path(word) for word in words if word.startswith("/") and Path(word).is_dir()}
