# SPDX-License-Identifier: LGPL-2.1-or-later
"""All that can happen to directories with images, at random: what test_image_cache.py plays."""

from __future__ import annotations

import contextlib
import mmap
import os
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Final

from machined.linux import filesystem, mounts

# Names that meet in one image, hidden ones, such as no image may have, and what is not UTF-8.
NAMES: Final = (
    "a", "b", "c", "a.raw", "b.raw", "c.raw", "a.v", "b.raw.v", "a.mstack", "c.mstack", "c.mstack.v", ".hid",
    ".hid.raw", ".#lock", ".#a.lck", "a b", "größe", "bad\x01name", os.fsdecode(b"n\xff"), ".raw", ".v",
    ".host", "a.nspawn", "A",
)  # fmt: skip
IMAGES: Final = (
    "a",
    "b",
    "c",
    "a.raw",
    "b.raw",
    "a.v",
    "c.mstack",
    ".hid",
    "größe",
    "a b",
    ".host",
    "none",
    "A",
    "",
)


class Changes:
    """Three directories of a search path, two more elsewhere, and what may be done to them."""

    def __init__(self, root: Path, random: Random) -> None:
        self.random = random
        self._root = os.path.realpath(root) + "/"
        self.path = tuple(root / name for name in ("first", "second", "third"))
        self.aside = (root / "aside", root / "other")
        for directory in (*self.path[:2], *self.aside):
            directory.mkdir()
        self._held: list[int] = []
        self._mounts: list[str] = []
        self.operations: list[Callable[[], str]] = [
            self.directory, self.directory, self.file, self.raw, self.raw, self.grow, self.write_mapped,
            self.mode, self.mode, self.times, self.recorded_birth, self.remove, self.remove, self.rename,
            self.rename, self.exchange, self.link, self.hard_link, self.immutable, self.immutable, self.hold,
            self.held_immutable, self.version, self.stack, self.inside, self.pipe, self.disk,
            self.replace_directory, self.link_directory, self.touch_aside,
        ]  # fmt: skip

    def with_mounts(self) -> None:
        """Mount and unmount as well, which takes root."""
        self.operations += [self.mount, self.mount, self.mount_directory, self.read_only, self.unmount]

    def step(self) -> str:
        """Do something; what it was. What cannot be done as things are is not done."""
        operation = self.random.choice(self.operations)
        try:
            return operation()
        except (OSError, ValueError) as error:
            return f"{operation.__name__}: {error}"

    def close(self) -> None:
        for fd in self._held:
            os.close(fd)
        self._held.clear()
        # They may have moved along with a directory, or be below another mount.
        while found := mounts.below(self._root):
            mounts.unmount(found[-1].target, lazy=True)
        for directory in {*self.path, *self.aside, *(p.with_suffix(".old") for p in self.path)}:
            subprocess.run(["chattr", "-R", "-f", "-i", directory], check=False, capture_output=True)

    def _place(self) -> str:
        return os.path.join(self.random.choice(self.path), self.random.choice(NAMES))

    def _there(self) -> str:
        """Something that is there, if anything is."""
        found = [os.path.join(d, name) for d in self.path if d.is_dir() for name in sorted(os.listdir(d))]
        return self.random.choice(found) if found else self._place()

    def _own(self) -> str:
        """As _there(), but no link: nothing outside of the root is ever changed. OSError."""
        path = self._there()
        if not os.path.realpath(path).startswith(self._root) or os.path.islink(path):
            raise OSError(f"{path!r} is a link")
        return path

    # -- entries -------------------------------------------------------------------------------------------

    def directory(self) -> str:
        path = self._place()
        os.mkdir(path)
        return f"mkdir {path!r}"

    def file(self) -> str:
        path = self._place()
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o644))
        return f"touch {path!r}"

    def pipe(self) -> str:
        path = self._place()
        os.mkfifo(path)
        return f"mkfifo {path!r}"

    def disk(self) -> str:
        path = self._place()
        os.mknod(path, stat.S_IFBLK | 0o600, os.makedev(259, 0xFFFFF))  # which nobody has
        return f"mknod {path!r}"

    def raw(self) -> str:
        path = os.path.join(
            self.random.choice(self.path), self.random.choice(("a", "b", "c", ".hid")) + ".raw"
        )
        with open(path, "xb") as file:
            file.truncate(self.random.choice((0, 4096, 100_000)))
        return f"new image {path!r}"

    def grow(self) -> str:
        path = self._own()
        with open(path, "r+b", buffering=0) as file:
            file.seek(self.random.randrange(0, 100_000))
            file.write(b"x" * self.random.choice((1, 5000)))
        return f"write {path!r}"

    def write_mapped(self) -> str:
        path = self._own()
        with open(path, "r+b", buffering=0) as file, mmap.mmap(file.fileno(), 1) as mapped:
            mapped[0:1] = b"y"
            mapped.flush()
        return f"write by mmap {path!r}"

    def mode(self) -> str:
        path, mode = self._own(), self.random.choice((0o700, 0o755, 0o444, 0o644, 0))
        os.chmod(path, mode)
        return f"chmod {mode:o} {path!r}"

    def times(self) -> str:
        path = self._own()
        os.utime(path, ns=(0, self.random.randrange(10**18)))
        return f"utime {path!r}"

    def recorded_birth(self) -> str:
        path = self._own()
        os.setxattr(path, filesystem.CREATED, self.random.randrange(10**15).to_bytes(8, "little"))
        return f"setxattr {path!r}"

    def remove(self) -> str:
        path = self._there()
        subprocess.run(["rm", "-rf", "--one-file-system", "--", path], check=False, capture_output=True)
        return f"rm {path!r}"

    def rename(self) -> str:
        source, target = self._there(), self._place()
        os.rename(source, target)
        return f"mv {source!r} {target!r}"

    def exchange(self) -> str:
        one, other = self._there(), self._there()
        aside = os.path.join(self.aside[0], "exchanged")
        os.rename(one, aside)
        try:
            os.rename(other, one)
            os.rename(aside, other)
        finally:
            with contextlib.suppress(OSError):
                os.rename(aside, one)
        return f"exchange {one!r} {other!r}"

    def link(self) -> str:
        path = self._place()
        targets = (self.aside[0] / "tree", self.aside[0] / "disk", "nowhere", self._there(), "a")
        os.symlink(self.random.choice(targets), path)
        return f"symlink {path!r} -> {os.readlink(path)!r}"

    def hard_link(self) -> str:
        source, target = self._there(), os.path.join(self.aside[1], self.random.choice("xy"))
        if os.path.lexists(target):
            if self.random.random() < 0.4:
                os.unlink(target)
                return f"rm {target!r}"
            os.chmod(target, self.random.choice((0o444, 0o644)))
            os.setxattr(target, filesystem.CREATED, self.random.randrange(10**15).to_bytes(8, "little"))
            return f"change {target!r}"
        os.link(source, target, follow_symlinks=False)
        return f"ln {source!r} {target!r}"

    def immutable(self) -> str:
        path = self._own()
        value = self.random.choice((0, filesystem.IMMUTABLE))
        filesystem.set_attributes(path, value, filesystem.IMMUTABLE)
        return f"chattr {value} {path!r}"

    def hold(self) -> str:
        if len(self._held) < 5:
            path = self._own()
            self._held.append(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
            return f"open {path!r}"
        os.close(self._held.pop(0))
        return "close"

    def held_immutable(self) -> str:
        """By a descriptor of long ago: not even an opening is there to be noticed."""
        if not self._held:
            return "nothing is open"
        path = f"/proc/self/fd/{self.random.choice(self._held)}"
        value = self.random.choice((0, filesystem.IMMUTABLE))
        filesystem.set_attributes(path, value, filesystem.IMMUTABLE)
        return f"chattr {value} {os.readlink(path)!r}, held open"

    # -- what is in entries, and where links lead ----------------------------------------------------------

    def version(self) -> str:
        path = next((p for p in self._candidates(".v")), None)
        if path is None:
            return "no versions"
        base = os.path.basename(path).removesuffix(".v")
        raw = base.endswith(".raw")
        inside = os.path.join(path, f"{base.removesuffix('.raw')}_{self.random.randrange(12)}{'.raw' * raw}")
        if os.path.lexists(inside):
            os.unlink(inside) if raw else os.rmdir(inside)
        elif raw:
            os.close(os.open(inside, os.O_CREAT | os.O_WRONLY))
        else:
            os.mkdir(inside)
        return f"version {inside!r}"

    def stack(self) -> str:
        path = next((p for p in self._candidates(".mstack")), None)
        if path is None:
            return "no stacks"
        for name in ("layer@0", "layer@1", "rw", "rw/data"):
            inside = os.path.join(path, name)
            if os.path.lexists(inside) == (self.random.random() < 0.3):
                continue
            if os.path.lexists(inside):
                subprocess.run(["rm", "-rf", inside], check=False)
            elif name.startswith("layer"):
                os.symlink(self.aside[0] / "tree", inside)
            else:
                os.mkdir(inside)
        return f"stack {path!r}"

    def _candidates(self, suffix: str) -> Iterator[str]:
        found = [
            os.path.join(d, n)
            for d in self.path
            if d.is_dir()
            for n in sorted(os.listdir(d))
            if n.endswith(suffix)
        ]
        self.random.shuffle(found)
        yield from found

    def inside(self) -> str:
        path = os.path.join(self._own(), "etc")
        if os.path.isdir(path):
            os.rmdir(path)
        else:
            os.mkdir(path)
        return f"inside {path!r}"

    def touch_aside(self) -> str:
        tree, disk = self.aside[0] / "tree", self.aside[0] / "disk"
        what = self.random.randrange(5)
        if what == 0:
            tree.rmdir() if tree.is_dir() else tree.mkdir()
        elif what == 1:
            tree.chmod(self.random.choice((0o700, 0o755)))
        elif what == 2:
            disk.unlink() if disk.exists() else disk.write_bytes(b"x" * 5000)
        elif what == 3:
            disk.chmod(self.random.choice((0o400, 0o600)))
        else:
            filesystem.set_attributes(str(tree), self.random.choice((0, 16)), filesystem.IMMUTABLE)
        return f"aside {what}"

    # -- directories of the search path --------------------------------------------------------------------

    def replace_directory(self) -> str:
        path = self.random.choice(self.path)
        old = path.with_suffix(".old")
        if not os.path.lexists(path):
            if old.exists() and self.random.random() < 0.5:
                old.rename(path)
                return f"{path} is back"
            path.mkdir()
            return f"{path} is new"
        if path.is_symlink():
            path.unlink()
            return f"{path} is no link any more"
        if not old.exists():
            path.rename(old)
        return f"{path} is gone"

    def link_directory(self) -> str:
        path = self.random.choice(self.path)
        if path.is_symlink():
            path.unlink()
        targets = [*(p.with_suffix(".old") for p in self.path), *self.path, *self.aside]
        path.symlink_to(self.random.choice([t for t in targets if t != path and not t.is_symlink()]))
        return f"{path} -> {path.readlink()}"

    # -- mounts --------------------------------------------------------------------------------------------

    def _mount(self, *arguments: str) -> str:
        done = subprocess.run(["mount", *arguments], check=False, capture_output=True, text=True)
        if done.returncode == 0 and "remount" not in arguments[1]:
            self._mounts.append(os.path.realpath(arguments[-1]))
        return f"mount {arguments}: {done.stderr.strip()}"

    def mount(self) -> str:
        source = self.random.choice((str(self.aside[0]), str(self.aside[0] / "tree"), self._there()))
        return self._mount("--bind", source, self._there())

    def mount_directory(self) -> str:
        directory = str(self.random.choice(self.path))
        if self.random.random() < 0.5:
            return self._mount("-t", "tmpfs", "tmpfs", directory)
        return self._mount("--bind", str(self.random.choice((*self.aside, *self.path))), directory)

    def read_only(self) -> str:
        if not self._mounts:
            return "no mounts"
        options = self.random.choice(("remount,bind,ro", "remount,bind,rw"))
        return self._mount("-o", options, self.random.choice(self._mounts))

    def unmount(self) -> str:
        if not self._mounts:
            return "no mounts"
        path = self._mounts.pop()
        done = subprocess.run(["umount", "-l", path], check=False, capture_output=True, text=True)
        return f"umount {path}: {done.stderr.strip()}"
