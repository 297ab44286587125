# SPDX-License-Identifier: LGPL-2.1-or-later
"""Moving the pool into a file and back: what has to hold before, and what is told after.

It takes as long as it takes, and waits: for a program of its own (machined.poolctl), not for the daemon.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from machined.linux import inventory, loopfile, overmount, statx, treeusers
from machined.linux.locks import FileLock, holder_conflict
from machined.linux.overmount import Place
from machined.model import images, poolfile
from machined.model.errors import MachineError, Problem
from machined.model.images import POOL, Image, Images
from machined.model.poolfile import Disk, readable

UNIT: Final = "var-lib-machines.mount"
_OURS: Final = Path("/etc/systemd/system") / UNIT
_MARK: Final = "# Written by machined, for as long as the pool is in a file"
_TEXT: Final = f"""\
{_MARK}: `machinectl pool remove` removes it.
[Unit]
Description=Pool of virtual machines and containers
ConditionPathExists={{file}}

[Mount]
What={{file}}
Where={{directory}}
Type=btrfs
Options=loop

[Install]
WantedBy=machines.target multi-user.target
"""


def create(place: Place, size: int) -> int:
    """Move the pool into a file; its size. Raises MachineError, and then nothing has changed."""
    with _exclusive(place, "create"):
        _check_directory(place)
        _check_tools()
        with _nobody_inside(place):
            used = inventory.summary(place.directory).allocated
            size = poolfile.size_to_make(size, used, Disk.below(place.directory))
            _provide_unit(place)
            overmount.make(place, size)
    return size


def remove(place: Place) -> None:
    """Move the pool back into a directory. Raises MachineError, and then nothing has changed."""
    with _exclusive(place, "remove"):
        _check_file(place)
        with _nobody_inside(place):
            used = inventory.summary(place.directory).allocated
            disk = Disk.below(place.parent)
            if used + 64 * poolfile.MEBIBYTE > disk.available:
                raise MachineError(
                    Problem.LIMITS_EXCEEDED,
                    f"The images take {readable(used)} as plain directories (snapshots become copies), and "
                    f" {readable(disk.available)} are free in {place.parent}. Make room first.",
                )
            overmount.remove(place)
        _take_unit_away()


def recover(place: Place) -> None:
    """Take away what a run that was killed has left. Raises MachineError."""
    with poolfile.moving():
        _recover(place)


@contextmanager
def _exclusive(place: Place, doing: str) -> Iterator[None]:
    """One at a time; what others left is gone before, and what failed is gone after."""
    with poolfile.moving():
        _recover(place)
        try:
            yield
        except OSError as error:
            raise _explained(doing, error) from error
        finally:
            _recover(place)


def _recover(place: Place) -> None:
    try:
        overmount.recover(place)
    except OSError as error:
        raise MachineError(
            Problem.FAILED,
            f"What an earlier attempt has left in {place.staging} cannot be removed "
            f"({error.strerror}, {error.filename}); remove the reason, then try again.",
        ) from error
    if not os.path.lexists(place.file):
        _take_unit_away()


def _explained(doing: str, error: OSError) -> MachineError:
    why = error.strerror or str(error)
    if error.errno == errno.EBUSY:
        return MachineError(
            Problem.IMAGE_BUSY,
            f"The pool is in use, and was left as it is ({why}). 'fuser --mount --verbose "
            f"{POOL}' shows by whom; end that, then try again.",
        )
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return MachineError(
            Problem.LIMITS_EXCEEDED, f"There was not enough room, and the pool was left as it is ({why})."
        )
    if error.errno == errno.EIO:
        why += " ('journalctl -k' may tell more: a disk that is full or broken)"
    return MachineError(Problem.FAILED, f"Could not {doing} the pool, it was left as it is: {why}")


# -- what has to hold --------------------------------------------------------------------------------------


def _check_directory(place: Place) -> None:
    if os.path.realpath(place.directory) != place.directory or not os.path.isdir(place.directory):
        raise MachineError(
            Problem.NOT_SUPPORTED,
            f"{place.directory} is a link, or no directory: nothing can be mounted there at boot. "
            f"Move what it points to there.",
        )
    if statx.is_btrfs(place.directory):
        mounted = loopfile.find(place.directory)
        how = f"in the file {mounted.path}" if mounted is not None else "on a btrfs of the host"
        raise MachineError(
            Problem.NOT_SUPPORTED, f"The pool {place.directory} is a btrfs already, {how}: nothing to do."
        )
    if place.is_mounted:
        raise MachineError(
            Problem.NOT_SUPPORTED,
            f"{place.directory} is a file system of its own, and what is mounted at boot can only be one "
            f"thing. Take it out of /etc/fstab and move what is in it to the disk of {place.parent}, or "
            f"make it a btrfs.",
        )
    if os.path.lexists(place.file):
        raise MachineError(
            Problem.FILE_EXISTS,
            f"There is a file {place.file} already, which is not mounted. 'systemctl start {UNIT}' mounts "
            f"it if it is a pool; else move it away.",
        )


def _check_file(place: Place) -> None:
    mounted = loopfile.find(place.directory)
    if mounted is None or mounted.path != place.file:
        raise MachineError(
            Problem.NOT_SUPPORTED,
            f"The pool {place.directory} is not in the file {place.file}: there is nothing to remove.",
        )


def _check_tools() -> None:
    if shutil.which("mkfs.btrfs", path="/usr/sbin:/usr/bin:/sbin:/bin") is None:
        raise MachineError(Problem.NOT_SUPPORTED, "mkfs.btrfs is missing: apt install btrfs-progs")
    for module, there in (("loop", _has_loop), ("btrfs", _has_btrfs)):
        if not there():
            subprocess.run(["modprobe", "--quiet", module], check=False, capture_output=True)
        if not there():
            raise MachineError(
                Problem.NOT_SUPPORTED, f"The kernel has no {module}: 'modprobe {module}' tells why."
            )


def _has_loop() -> bool:
    return os.path.exists("/dev/loop-control")


def _has_btrfs() -> bool:
    return "btrfs" in Path("/proc/filesystems").read_text(encoding="ascii").split()


@contextmanager
def _nobody_inside(place: Place) -> Iterator[None]:
    """Hold all images, so that nobody begins anything with one. Raises MachineError (IMAGE_BUSY)."""
    if (mount := treeusers.mount_of(place.directory)) is not None:
        raise MachineError(
            Problem.IMAGE_BUSY,
            f"What is mounted at '{mount.target}' is a part of the pool; unmount that first.",
        )
    for name in poolfile.names_in_the_making():
        raise MachineError(
            Problem.IMAGE_BUSY, f"Image '{name}' is being made or renamed; wait until that is over."
        )
    with ExitStack() as held:
        seen = set()
        for image in Images((Path(place.directory),)).list():
            if image.is_host:
                continue
            status = os.stat(image.path)
            if (status.st_dev, status.st_ino) not in seen:  # else it is one image under two names
                _hold(image, held)
            seen.add((status.st_dev, status.st_ino))
        if user := treeusers.user_of(place.directory):
            raise MachineError(Problem.IMAGE_BUSY, f"The pool is in use, by {user}; end that first.")
        yield


def _hold(image: Image, held: ExitStack) -> None:
    """As image_locks.image(), but no lock is held that lies in the pool: that could not be unmounted."""
    try:
        for path in image.lock_paths():
            if path.parent == images.LOCKS:
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                held.enter_context(FileLock.acquire(os.fspath(path)))
            elif holder_conflict(os.fspath(path)):
                raise BlockingIOError
    except BlockingIOError:
        raise MachineError(
            Problem.IMAGE_BUSY,
            f"Image '{image.name}' is in use, by a machine that runs or by another program; "
            f"power that off first, 'machinectl list' shows it.",
        ) from None


# -- the unit that mounts it at boot -----------------------------------------------------------------------


def _provide_unit(place: Place) -> None:
    """See that the file will be mounted at boot. systemd has a unit for just that; if not, we write it."""
    loaded, what = _unit()
    if loaded == "loaded" and what == place.file:
        return
    if loaded != "not-found":
        raise MachineError(
            Problem.NOT_SUPPORTED,
            f"The unit {UNIT} is not systemd's own ({loaded}, mounts '{what}'), so the pool would not come "
            f"back at boot: see 'systemctl cat {UNIT}'.",
        )
    _OURS.write_text(_TEXT.format(file=place.file, directory=place.directory), encoding="ascii")
    _systemctl("daemon-reload")
    _systemctl("enable", "--quiet", UNIT)


def _take_unit_away() -> None:
    with contextlib.suppress(FileNotFoundError):
        if _OURS.read_text(encoding="ascii", errors="replace").startswith(_MARK):
            _systemctl("disable", "--quiet", UNIT)
            _OURS.unlink()
            _systemctl("daemon-reload")


def _unit() -> tuple[str, str]:
    """LoadState and What= of the unit."""
    shown = _systemctl("show", "--property=LoadState,What", UNIT)
    values = dict(line.partition("=")[::2] for line in shown.splitlines())
    return values.get("LoadState", ""), values.get("What", "")


def _systemctl(*words: str) -> str:
    done = subprocess.run(["systemctl", *words], check=False, capture_output=True, text=True)
    if done.returncode:
        raise OSError(errno.EIO, f"'systemctl {words[0]}' failed: {done.stderr.strip()}")
    return done.stdout
