# SPDX-License-Identifier: LGPL-2.1-or-later
"""What can be known to fail before a container is started, said in a sentence and with nothing changed."""

from __future__ import annotations

import asyncio
import os
import stat
from contextlib import ExitStack, suppress
from functools import partial
from typing import Final

from machined.linux import mounts
from machined.linux.fds import OwnedFd
from machined.linux.locks import holder_conflict
from machined.linux.syscalls import RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS, openat2
from machined.model.errors import MachineError, Problem
from machined.model.images import Image
from machined.model.registry import Registry
from machined.model.roots import Roots
from machined.model.state import States, unit_of_machine

# What systemd-nspawn --boot tries, in its order (systemd-nspawn(1)).
INIT_PATHS: Final = ("usr/lib/systemd/systemd", "lib/systemd/systemd", "sbin/init")
# Seconds: it takes some answers of PID 1.
LETTING_GO: Final = 5.0
OS_RELEASE_PATHS: Final = ("etc/os-release", "usr/lib/os-release")


async def let_go(image: Image, roots: Roots, states: States) -> None:
    """Let machines that have just ended give an image back, and wait a moment for that."""

    def settled(name: str) -> bool:
        up = states.tracked(unit_of_machine(name))
        return roots.get(name) is None or (up is not None and up.is_up) or states.record(name).starting

    with suppress(TimeoutError):
        async with asyncio.timeout(LETTING_GO):
            for name in roots.users_of(image.path):
                await states.wait_until(name, partial(settled, name))


def check_image(
    name: str, image: Image, registry: Registry, roots: Roots, *, ephemeral: bool, boot: bool = True
) -> None:
    """Raises MachineError when a machine cannot be started from this image.

    What an `ephemeral` one is made of may be in use by others that do not write to it. Where
    there is nothing to `boot` the tree need not hold a system.
    """
    _check_free(name, image, registry, roots, ephemeral)
    if image.is_tree or image.stack is not None:
        _check_layers(image)
        _check_mount(name, image)
        if boot:
            check_tree(name, image)


def _check_free(name: str, image: Image, registry: Registry, roots: Roots, ephemeral: bool) -> None:
    namesake = registry.get(name)
    if namesake is not None:
        raise MachineError(
            Problem.IMAGE_BUSY,
            f"A machine '{name}' is running already (unit {namesake.unit}, "
            f"root {namesake.root_directory or 'unknown'}); power that off first.",
        )
    for machine in registry:
        # What an unprivileged user claims about its own machine keeps nobody from starting one.
        if machine.uid == 0 and machine.root_directory == image.path and not machine.is_host():
            raise MachineError(
                Problem.IMAGE_BUSY,
                f"Image '{name}' is running already, as machine '{machine.name}' (unit {machine.unit}); "
                f"power that off first, or clone the image.",
            )
    users = roots.users_of(image.path)
    for lock in image.lock_paths():
        if holder_conflict(os.fspath(lock), exclusive=not ephemeral):
            if users:
                raise MachineError(
                    Problem.IMAGE_BUSY,
                    f"Image '{image.name}' is in use: running on it are {', '.join(users[:5])}; "
                    f"power them off first.",
                )
            raise MachineError(
                Problem.IMAGE_BUSY,
                f"Image '{image.name}' ({image.path}) is in use by another program, which holds its lock "
                f"{lock}; wait for its end or stop it.",
            )


def _check_layers(image: Image) -> None:
    layers = image.stack.layers if image.stack is not None else ()
    for layer in layers:
        if not os.path.isdir(layer):
            raise MachineError(
                Problem.NOT_BOOTABLE,
                f"Image '{image.name}' is a layer over '{layer}', which is gone: it cannot do without.",
            )


def _check_mount(name: str, image: Image) -> None:
    if "noexec" not in mounts.flags_of(image.path):
        return
    real = os.path.realpath(image.path)
    inside = [m.target for m in mounts.mount_points() if f"{real}/".startswith(m.target.rstrip("/") + "/")]
    where = max(inside, key=len, default="/")
    raise MachineError(
        Problem.NO_EXEC_MOUNT,
        f"Image '{name}' lies on a file system that is mounted with 'noexec' ({where}), so no program in it "
        f"can run; try 'mount -o remount,exec {where}', and take the option out of /etc/fstab "
        f"('user' implies it).",
    )


def check_tree(name: str, image: Image) -> None:
    """Raises MachineError (NOT_BOOTABLE) for a tree that holds no system to boot."""
    trees = image.stack.trees if image.stack is not None else (image.path,)
    with ExitStack() as held:
        roots = [held.enter_context(_open(tree)) for tree in trees if os.path.isdir(tree)]
        if not any(_exists(root, path) for root in roots for path in OS_RELEASE_PATHS):
            raise MachineError(
                Problem.NOT_BOOTABLE,
                f"Image '{name}' ({image.path}) holds no operating system: it has neither /etc/os-release "
                f"nor /usr/lib/os-release. Install one into it first.",
            )
        if not any(_exists(root, path, program=True) for root in roots for path in INIT_PATHS):
            tried = ", ".join(f"/{path}" for path in INIT_PATHS)
            raise MachineError(
                Problem.NOT_BOOTABLE,
                f"Image '{name}' ({image.path}) has no init to boot: none of {tried} is a program. "
                f"Install systemd (or another init) into it first.",
            )


def _open(tree: str) -> OwnedFd:
    return OwnedFd(os.open(tree, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))


def _exists(root: OwnedFd, path: str, *, program: bool = False) -> bool:
    """Whether a file is there, links resolved inside the tree as a guest would."""
    try:
        fd = openat2(root.fileno(), path, os.O_PATH, resolve=RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)
    except OSError:
        return False
    with OwnedFd(fd):
        mode = os.fstat(fd).st_mode
    return stat.S_ISREG(mode) and (not program or bool(mode & 0o111))
