# SPDX-License-Identifier: LGPL-2.1-or-later
"""What `make install` and `make uninstall` call, with the python3 that is to run the daemon.

It takes nothing but the standard library.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from . import environment, host
from .environment import InstallError
from .layout import MACHINED_UNIT, ROOT, Layout


def write(path: Path, text: str, mode: int = 0o644) -> None:
    """Write a file by renaming it into place, so that whoever reads it sees the old or the new one."""
    partial = path.with_name(f".{path.name}.new")
    partial.write_text(text, encoding="utf-8")
    partial.chmod(mode)
    partial.rename(path)


@dataclass(slots=True)
class Target:
    """The file system that is installed into: the host's own, or a staging area (DESTDIR)."""

    layout: Layout
    destdir: Path | None
    made: list[Path] = field(default_factory=list)
    """Directories and files outside of the tree that are ours, in the order of their making."""

    @property
    def live(self) -> bool:
        return self.destdir is None

    def real(self, path: Path) -> Path:
        """Where a path of the target lies on this machine."""
        return path if self.destdir is None else self.destdir / path.relative_to("/")

    def directory(self, path: Path) -> None:
        """Make a directory and its parents, noting those that were not there."""
        if not self.real(path).is_dir():
            if path != path.parent:
                self.directory(path.parent)
            self.real(path).mkdir(mode=0o755, exist_ok=True)
            self.made.append(path)

    def write(self, path: Path, text: str, mode: int = 0o644) -> None:
        """Write a file of the target and note it."""
        self.directory(path.parent)
        write(self.real(path), text, mode)
        self.made.append(path)

    def manifest(self) -> list[Path]:
        """What the installation that is there has made. Empty when there is none."""
        try:
            lines = self.real(self.layout.manifest).read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []
        return [Path(line) for line in lines]

    def discard(self, paths: list[Path]) -> None:
        """Remove files, and directories as far as nobody else has put something in."""
        for path in reversed(paths):
            real = self.real(path)
            if not real.is_dir() or real.is_symlink():
                real.unlink(missing_ok=True)
            elif not any(real.iterdir()):
                real.rmdir()


def install(target: Target, requirements: Path, wheels: Path | None) -> None:
    """Build the environment beside its place, so that an error changes nothing; then move everything in."""
    layout = target.layout
    if target.live:
        host.check()
    host.check_foreign(layout, target.real(layout.override), target.real(layout.command))
    earlier = target.manifest()
    target.directory(layout.tree.parent)
    tree = Path(tempfile.mkdtemp(prefix=".machined-", dir=target.real(layout.tree.parent)))
    tree.chmod(0o755)
    try:
        print(f"installing the private environment for Python {platform.python_version()} in {layout.tree}")
        environment.build(layout, tree, requirements, wheels)
        for path, text in layout.programs():
            write(tree / path.relative_to(layout.tree), text, 0o755)
        for path, text in layout.files():
            target.write(path, text)
        target.write(layout.command, layout.launcher("machinectl.cli", "entry"), 0o755)
        # What an earlier installation has made is ours still; files that are no longer wanted go.
        kept = [path for path in earlier if target.real(path).is_dir() or path in target.made]
        target.discard([path for path in earlier if path not in kept])
        manifest = dict.fromkeys([*kept, *target.made])
        write(tree / layout.manifest.name, "".join(f"{path}\n" for path in manifest))
        _exchange(tree, target.real(layout.tree))
    except BaseException:
        shutil.rmtree(tree, ignore_errors=True)
        if not earlier:
            target.discard(target.made)
        raise
    if target.live:
        _take_over(layout)


def _exchange(tree: Path, place: Path) -> None:
    """Put the new tree in the old one's place; a daemon that runs from that keeps the files it has open."""
    if place.exists():
        old = Path(tempfile.mkdtemp(prefix=".machined-", dir=place.parent))
        place.rename(old)
        tree.rename(place)
        shutil.rmtree(old)
    else:
        tree.rename(place)


def _take_over(layout: Layout) -> None:
    if not host.booted():
        print("systemd is not running here: machined takes over when it does")
        return
    host.run("systemd-tmpfiles", "--create", os.fspath(layout.tmpfiles))
    host.reload()
    print(f"restarting {MACHINED_UNIT}; machines keep running and are adopted")
    host.restart("`make uninstall` brings systemd's own back")
    print(f"machined is running. `{layout.command} list` shows the machines")


def uninstall(target: Target, purge: bool) -> None:
    """Remove what install has made and nothing else. Machines keep running, systemd's daemon adopts them."""
    layout = target.layout
    if target.live:
        host.check_root()
    made = target.manifest()
    if not made:
        raise InstallError(
            f"machined is not installed under '{layout.prefix}': there is no '{layout.manifest}'"
        )
    links = host.autostarted(target.real(Path("/etc")))
    for link in links if purge else []:
        print(f"removing {link}")
        link.unlink()
        if not any(link.parent.iterdir()):
            link.parent.rmdir()
    target.discard(made)
    if target.live and host.booted():
        host.reload()
        print(f"giving {MACHINED_UNIT} back to systemd's own; machines keep running and are adopted")
        host.restart("systemd-container may have to be installed again")
        # Which users machines have that run on (machined.model.rangebook): nobody asks for that any more.
        shutil.rmtree("/run/machined/ranges", ignore_errors=True)
    # Last: until here the daemon ran from it, and the manifest in it says how to try this again.
    shutil.rmtree(target.real(layout.tree))
    target.discard(made)
    if links and not purge:
        print("Left are the links of machines that were to start at boot and now will not (see PURGE=1):")
        for link in links:
            print(f"  {link}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="install.py", description="Install or uninstall machined.")
    parser.add_argument("verb", choices=("install", "uninstall"))
    parser.add_argument("--prefix", default="/usr/local")
    parser.add_argument("--destdir", default="", help="a staging area; the running host is left alone")
    parser.add_argument("--requirements", type=Path, default=ROOT / "requirements.lock")
    parser.add_argument(
        "--wheels", default="", help="a directory with the wheels, instead of the package index"
    )
    parser.add_argument(
        "--purge", action="store_true", help="also remove the links that start machines at boot"
    )
    arguments = parser.parse_args()
    os.umask(0o022)
    try:
        destdir = Path(arguments.destdir).resolve() if arguments.destdir else None
        target = Target(Layout(Path(arguments.prefix)), None if destdir == Path("/") else destdir)
        if arguments.verb == "install":
            wheels = Path(arguments.wheels).resolve() if arguments.wheels else None
            install(target, arguments.requirements.resolve(), wheels)
        else:
            uninstall(target, arguments.purge)
    except (InstallError, ValueError, OSError) as error:
        print(f"make {arguments.verb}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
