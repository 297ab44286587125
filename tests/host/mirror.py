# SPDX-License-Identifier: LGPL-2.1-or-later
"""A small archive of Debian packages, enough to install a guest from: for tools that run in a host."""

import gzip
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

from . import build, cache, recipe

INSIDE = "/srv/mirror"
"""Where a host has it, see `Host(read_only=…)`."""

PACKAGES = ("systemd-sysv", "dbus", "libpam-systemd", "login", "passwd", "tzdata", "mount", "gpgv")

# What was downloaded is still there when this runs, and the index it came from.
_KEEP = """
set -eu
mkdir -p "$1/mirror"
cp "$1"/var/cache/apt/archives/*.deb "$1"/var/lib/apt/lists/*_Packages "$1/mirror"
"""


def ensure(suite: str) -> Path:
    """The archive of a suite, made when missing (a minute): dists/SUITE and a pool, not signed."""
    # By a recipe, so that it is the same archive of the distribution as the trees come from.
    wanted = recipe.Recipe(f"{suite}-mirror-source", suite, PACKAGES, (_KEEP,))
    path = cache.directory("mirrors") / f"{suite}-{wanted.digest()}"
    with cache.locked(f"{suite}-mirror"):
        if not path.is_dir():
            partial = path.with_name(f".partial-{path.name}")
            cache.remove(partial)
            tree = build.tree(wanted, also=("--skip=essential/unlink",))
            _publish(tree / "mirror", partial, suite)
            partial.rename(path)
            cache.prune([tree, *(old for old in path.parent.glob(f"{suite}-*") if old != path)])
    return path


def _publish(source: Path, target: Path, suite: str) -> None:
    debs = {re.sub(r"_\d+%3a", "_", deb.name): deb for deb in source.glob("*.deb")}
    stanzas = []
    for stanza in _stanzas(source):
        fields = dict(
            line.split(": ", 1) for line in stanza.splitlines() if re.match(r"[A-Za-z0-9-]+: ", line)
        )
        if (deb := debs.pop(Path(fields["Filename"]).name, None)) is not None:
            place = target / fields["Filename"]
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(deb.read_bytes())
            stanzas.append(stanza)
    assert stanzas, "no index knows the packages"
    assert not debs, f"no index knows {sorted(debs)}"
    architecture = next(a for s in stanzas if (a := _field(s, "Architecture")) != "all")
    _index(
        target / "dists" / suite, suite, architecture, "".join(f"{stanza.strip()}\n\n" for stanza in stanzas)
    )


def _stanzas(source: Path) -> Iterator[str]:
    for index in source.glob("*_Packages"):
        yield from filter(str.strip, index.read_text(encoding="utf-8").split("\n\n"))


def _field(stanza: str, name: str) -> str:
    found = re.search(rf"^{name}: (.*)$", stanza, re.MULTILINE)
    return found[1] if found else ""


def _index(top: Path, suite: str, architecture: str, packages: str) -> None:
    where = f"main/binary-{architecture}"
    (top / where).mkdir(parents=True)
    sums = []
    for name, data in (("Packages", packages.encode()), ("Packages.gz", gzip.compress(packages.encode()))):
        (top / where / name).write_bytes(data)
        sums.append(f" {hashlib.sha256(data).hexdigest()} {len(data)} {where}/{name}")
    lines = [f"Suite: {suite}", f"Codename: {suite}", "Components: main", f"Architectures: {architecture}"]
    lines += ["Date: Thu, 01 Jan 2026 00:00:00 UTC", "SHA256:", *sums]
    (top / "Release").write_text("\n".join(lines) + "\n", encoding="utf-8")
