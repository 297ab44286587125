# SPDX-License-Identifier: LGPL-2.1-or-later
"""One test host at rest: a writable overlay over cached trees, and what its owner leaves behind."""

import contextlib
import functools
import os
import secrets
import select
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from . import cache
from .cache import TestHostError


@functools.cache
def cgroup_root() -> Path | None:
    """Where the unified cgroup hierarchy is mounted: on a hybrid machine it is not /sys/fs/cgroup itself."""
    for line in os.fsdecode(Path("/proc/self/mountinfo").read_bytes()).splitlines():
        fields, _, rest = line.partition(" - ")
        if rest.split()[0] == "cgroup2":
            return Path(fields.split()[4])
    return None


class Instance:
    """A directory in run/ of the cache: upper and work directory, the mount point, and /var/lib/machines."""

    def __init__(self, name: str, lowers: Sequence[Path], read_only: Mapping[str, Path]) -> None:
        """Make and mount it. `lowers`: topmost first; `read_only`: bind mounts, {path inside: source}."""
        self.name = f"{name}-{secrets.token_hex(4)}"
        self.directory = cache.directory("run") / self.name
        self.tree = self.directory / "tree"
        self.machines = self.directory / "machines"
        self._held = [cache.hold(path) for path in (*lowers, *read_only.values())]
        with cache.locked("run"):
            _collect_leftovers()
            self.directory.mkdir()
            (self.directory / "owner").write_text(_identity(os.getpid()), encoding="utf-8")
        try:
            self._mount(lowers, read_only)
        except BaseException:
            self.remove()
            raise

    def _mount(self, lowers: Sequence[Path], read_only: Mapping[str, Path]) -> None:
        for name in ("tree", "upper", "work", "machines"):
            (self.directory / name).mkdir()
        # The tree's root directory takes its mode from the upper one.
        (self.directory / "upper").chmod(0o755)
        self.machines.chmod(0o700)
        options = f"lowerdir={':'.join(map(os.fspath, lowers))},upperdir={self.directory}/upper"
        # redirect_dir: a directory of a lower layer can be renamed, as on any other file system.
        # volatile: no sync(2) of systemd's has to wait for the disk. The mount is never made a second time.
        options += f",workdir={self.directory}/work,volatile,redirect_dir=on"
        mount("-t", "overlay", "-o", options, "machined-tests", self.tree)
        # Not on the overlay: systemd-nspawn -U chowns a whole guest there, or maps its ids.
        mount("--bind", self.machines, self.tree / "var/lib/machines")
        for inside, source in read_only.items():
            target = self.tree / inside.lstrip("/")
            target.mkdir(parents=True, exist_ok=True)
            mount("--bind", source, target)
            mount("-o", "remount,bind,ro", target)

    def plain_pool(self, size: int) -> None:
        """Make /var/lib/machines a directory of /var/lib, and that an ext4 of this size, or on our disk (0).

        As on most hosts, where it is no mount point. Before the boot.
        """
        state = self.directory / "state"
        state.mkdir(mode=0o755)
        if size:
            disk = self.directory / "state.ext4"
            with disk.open("xb") as file:
                file.truncate(size)
            subprocess.run(["mkfs.ext4", "-q", os.fspath(disk)], check=True)
            mount("-o", "loop", disk, state)
        inside = self.tree / "var/lib"
        subprocess.run(["umount", os.fspath(inside / "machines")], check=True)
        subprocess.run(["cp", "-a", f"{inside}/.", os.fspath(state)], check=True)
        mount("--bind", state, inside)
        self.machines = state / "machines"
        self.machines.chmod(0o700)

    def plain_root(self, size: int) -> None:
        """Make the root an ext4 of this size, with /var/lib/machines in it, as where a host is installed."""
        disk = self.directory / "root.ext4"
        with disk.open("xb") as file:
            file.truncate(size)
        subprocess.run(["mkfs.ext4", "-q", "-d", os.fspath(self.tree), os.fspath(disk)], check=True)
        subprocess.run(["umount", "--recursive", os.fspath(self.tree)], check=True)
        mount("-o", "loop", disk, self.tree)
        self.machines = self.tree / "var/lib/machines"

    @property
    def cgroup(self) -> Path:
        """The directory that becomes the root of the host's cgroup namespace."""
        root = cgroup_root()
        if root is None:
            raise TestHostError("the unified cgroup hierarchy is not mounted")
        return root / f"machined-tests-{self.name}"

    def remove(self) -> None:
        """Unmount and delete everything; the host's init must be dead. Idempotent."""
        _remove(self.directory)
        while self._held:
            os.close(self._held.pop())


def mount(*arguments: str | Path) -> None:
    """mount(8). Raises TestHostError with its message."""
    done = subprocess.run(
        ["mount", *(os.fspath(argument) for argument in arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise TestHostError(f"cannot mount '{arguments[-1]}': {done.stderr.strip()}")


def remove_cgroup(path: Path, timeout: float = 10) -> None:
    """Kill what is left in a cgroup, wait for its end, and remove the cgroup with all below it."""
    if not path.is_dir():
        return
    with contextlib.suppress(OSError):  # cgroup.kill came with Linux 5.14; mostly there is nothing to kill
        (path / "cgroup.kill").write_text("1", encoding="utf-8")
    deadline = time.monotonic() + timeout
    with (path / "cgroup.events").open(encoding="utf-8") as events:
        poll = select.poll()
        poll.register(events, select.POLLPRI)
        while "populated 1" in events.read() and time.monotonic() < deadline:
            poll.poll(max(0.0, deadline - time.monotonic()) * 1000)
            events.seek(0)
    for directory, _, _ in os.walk(path, topdown=False):
        os.rmdir(directory)


def _identity(pid: int) -> str:
    """A process id with the start time: process ids are used again. Empty for a process that is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return f"{pid} {stat.rpartition(')')[2].split()[19]}"


def _collect_leftovers() -> None:
    """Remove the instances whose owner died without doing so. The caller holds the lock "run"."""
    for directory in cache.directory("run").iterdir():
        try:
            owner = (directory / "owner").read_text(encoding="utf-8")
            alive = _identity(int(owner.split()[0])) == owner
        except (OSError, ValueError, IndexError):
            alive = False
        if not alive:
            cache.say(f"removing what a dead process has left: {directory.name}")
            try:
                _remove(directory)
            except (OSError, TestHostError) as error:
                cache.say(f"cannot remove '{directory}', ignoring: {error}")


def leftovers() -> list[str]:
    """Remove what dead processes have left behind; return what could not be removed and what is in use."""
    with cache.locked("run"):
        _collect_leftovers()
        return sorted(path.name for path in cache.directory("run").iterdir())


def _remove(directory: Path) -> None:
    if not directory.exists():
        return
    if (root := cgroup_root()) is not None:
        # Kills the init of an owner that died, and with it everything else in its namespaces.
        remove_cgroup(root / f"machined-tests-{directory.name}")
    _detach_loop_devices(directory)
    for target in cache.mounts_under(directory):
        # Lazily: somebody's working directory in there must not keep the whole instance.
        subprocess.run(["umount", "--lazy", os.fspath(target)], check=True, capture_output=True)
    cache.remove(directory)


def _detach_loop_devices(directory: Path) -> None:
    """Loop devices belong to the machine, not to a namespace: detach those on files of an instance."""
    tree = directory / "tree"
    if not os.path.ismount(tree) or shutil.which("losetup") is None:
        return
    # By device and inode: a path means nothing any more once the mount namespace it was used in is gone.
    overlay = tree.stat().st_dev
    # In the directory itself there is the disk of plain_pool(), in its "state" the pool in a file.
    places = [directory, directory / "machines", directory / "state"]
    images = {(s.st_dev, s.st_ino) for place in places if place.is_dir() for s in _statuses(place)}
    command = ["losetup", "--list", "--noheadings", "--output", "NAME,BACK-MAJ:MIN,BACK-INO"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False)
    for line in listed.stdout.splitlines():
        with contextlib.suppress(ValueError):
            name, device, inode = line.split()
            major, minor = map(int, device.split(":"))
            number = os.makedev(major, minor)
            if number == overlay or (number, int(inode)) in images:
                subprocess.run(["losetup", "--detach", name], check=False, capture_output=True)


def _statuses(directory: Path) -> Iterator[os.stat_result]:
    for entry in os.scandir(directory):
        with contextlib.suppress(OSError):  # a link to nowhere is no image
            yield entry.stat()
