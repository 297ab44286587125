# SPDX-License-Identifier: LGPL-2.1-or-later
"""The trees that we mount for machines: those of layered images, and of machines that leave nothing behind.

What they are made of is locked against change meanwhile, by us, so anew after a restart of ours.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from machined.linux.worker import Workers
from machined.model import image_locks, privateusers, rootrecord
from machined.model.errors import MachineError, Problem
from machined.model.images import POOL, Image, Images, ImageType
from machined.model.privateusers import PICK, Range
from machined.model.rootrecord import SCRATCH, Root
from machined.model.settings.merge import Effective
from machined.model.users import Users

log = logging.getLogger(__name__)

_LAYERING: Final = "machined.linux.layering"


def layers_over(images: Images, base: Image) -> list[Image]:
    """The layered images that a tree is part of."""
    tree = os.path.realpath(base.path)
    return [i for i in images.list() if i.stack is not None and tree in i.stack.layers]


class Roots:
    """Mounts roots, and knows what is in use by them."""

    def __init__(self, workers: Workers, removers: Workers, users: Users) -> None:
        """`removers` do what takes long; `users`: whose the trees are, also those that are not mounted."""
        self.pool = POOL
        self._workers = workers
        self._removers = removers
        self.users = users
        self._held: dict[str, ExitStack] = {}
        self._roots: dict[str, Root] = {}
        self._removals: set[asyncio.Task[None]] = set()

    def get(self, name: str) -> Root | None:
        return self._roots.get(name)

    def holds(self, name: str) -> bool:
        """Whether a machine has a tree or users of us."""
        return name in self._roots or self.users.get(name) is not None

    def users_of(self, path: str) -> list[str]:
        """The machines that run on a tree (or on layers over it), by their names."""
        known = {path, os.path.realpath(path)}
        return sorted(name for name, root in self._roots.items() if known & {root.image_path, *root.layers})

    @staticmethod
    def needs(image: Image, ephemeral: bool) -> bool:
        """Whether a machine cannot be started from its image as it is."""
        return image.stack is not None or (ephemeral and image.is_tree)

    async def prepare(self, name: str, image: Image, ephemeral: bool, settings: Effective) -> Root:
        """Mount the root of a machine. Raises MachineError, OSError; nothing is left then."""
        self.release(name)  # what a run before has left
        base = await self._take_users(name, ephemeral, settings)
        try:
            root = _plan(name, image, ephemeral, base, self.pool)
            self._hold(root)
        except BaseException:
            self.users.release(name)
            raise
        try:
            rootrecord.write(root)
            await self._workers.run(
                f"{_LAYERING}:mount",
                os.fspath(root.directory), list(root.layers), root.writable, root.base, root.ephemeral,
                root.read_only,
            )  # fmt: skip
        except BaseException as error:
            self.release(name)
            if isinstance(error, OSError):
                raise _explained(error, root) from error
            raise
        return root

    async def plan(self, name: str, image: Image, ephemeral: bool, settings: Effective) -> Root:
        """What prepare() would mount now, but for the name of what is written to. Raises MachineError."""
        base = privateusers.base_of(name, settings, PICK)
        if base == PICK:
            base = await self.users.pick(name, keep=not ephemeral)
        return _plan(name, image, ephemeral, base, self.pool)

    async def _take_users(self, name: str, ephemeral: bool, settings: Effective) -> int:
        """The first user of a machine, which holds its range from now on."""
        base = privateusers.base_of(name, settings, PICK)
        if base == PICK:
            return await self.users.take(name, keep=not ephemeral)
        if base:
            # Several may share a range that their settings name; none is to pick another's.
            self.users.hold(name, Range(base, named=True))
        return base

    def _hold(self, root: Root) -> None:
        """Lock what a root is made of. MachineError (IMAGE_BUSY)."""
        with ExitStack() as held:
            try:
                for path, exclusive in _parts(root):
                    part = Image(os.path.basename(path), path, ImageType.DIRECTORY, read_only=True)
                    held.enter_context(image_locks.image(part, exclusive=exclusive))
            except OSError as error:
                if error.errno != errno.EBUSY:
                    raise
                raise MachineError(
                    Problem.IMAGE_BUSY,
                    f"Machine '{root.machine}' cannot be started: '{path}', which it is made of, is in use. "
                    f"Power off the machine that runs on it, or wait for what is being done to it.",
                ) from None
            self._held[root.machine] = held.pop_all()
        self._roots[root.machine] = root

    def adopt(self, is_up: Callable[[str], bool]) -> None:
        """After a start of ours: hold what runs, take away what does not."""
        self.users.adopt(is_up)
        for root in list(rootrecord.recorded()):
            if not is_up(root.machine):
                self.release(root.machine)
                continue
            try:
                if root.base and self.users.get(root.machine) is None:
                    self.users.hold(root.machine, Range(root.base))  # as a daemon before us did
                self._hold(root)
            except (MachineError, OSError) as error:
                self._roots[root.machine] = root
                log.warning("What machine '%s' is made of cannot be locked: %s", root.machine, error)
        try:
            self.remove(rootrecord.abandoned(self.pool))
        except OSError as error:
            log.debug("Cannot look for what crashed machines wrote, ignoring: %s", error)

    def release(self, name: str) -> None:
        """Unmount the root of a machine that does not run, and begin to remove what it wrote there."""
        try:
            doomed = rootrecord.take_away(name)
        except OSError as error:
            log.warning("Cannot take away the root of machine '%s', ignoring: %s", name, error)
            doomed = []
        self._roots.pop(name, None)
        if (held := self._held.pop(name, None)) is not None:
            held.close()
        self.users.release(name)
        self.remove(doomed)

    def remove(self, doomed: Iterable[str]) -> None:
        """Begin to remove what was written by machines that leave nothing behind."""
        for path in doomed:
            task = asyncio.ensure_future(self._remove(path))
            self._removals.add(task)
            task.add_done_callback(self._removals.discard)

    async def _remove(self, path: str) -> None:
        try:
            await self._removers.run("machined.linux.removal:remove", path, "tree")
        except FileNotFoundError:
            log.debug("The unit's own cleaning has removed '%s'", path)
        except OSError as error:
            log.warning("Cannot remove '%s', ignoring: %s", path, error)

    async def close(self) -> None:
        """Let go of the locks; what is mounted stays."""
        for task in self._removals:
            task.cancel()
        await asyncio.gather(*self._removals, return_exceptions=True)
        for held in self._held.values():
            held.close()
        self._held.clear()
        self.users.close()


def _plan(name: str, image: Image, ephemeral: bool, base: int, pool: Path) -> Root:
    stack = image.stack
    layers = stack.layers if stack is not None else (os.path.realpath(image.path),)
    if ephemeral or stack is None:
        layers = stack.trees if stack is not None else layers
        scratch = pool / f"{SCRATCH}{name}-{os.urandom(4).hex()}"
        return Root(name, image.name, image.path, layers, os.fspath(scratch), base, True, False)
    return Root(name, image.name, image.path, layers, stack.writable, base, False, image.read_only)


def _parts(root: Root) -> Iterator[tuple[str, bool]]:
    """What is to be locked, and whether against readers as well: an image is written to by one machine."""
    if root.image_path != "/":
        yield root.image_path, not root.ephemeral and not root.read_only
    known = {root.image_path, os.path.realpath(root.image_path), "/"}
    for layer in root.layers:
        if layer not in known and not layer.startswith(f"{root.image_path}/"):
            yield layer, False


def _explained(error: OSError, root: Root) -> MachineError:
    if error.errno in {errno.EINVAL, errno.EOPNOTSUPP}:
        plain = "A plain tree does: 'machinectl clone --copy', or 'machinectl flatten'."
        if root.image_path == "/":
            plain = "Those that hosts are installed on do, such as ext4, XFS and btrfs."
        return MachineError(
            Problem.NOT_SUPPORTED,
            f"Machine '{root.machine}' cannot be started: the file system of {root.writable} or of "
            f"{root.layers[0]} does not do overlays of mapped directories ({error.strerror}). {plain}",
        )
    return MachineError(
        Problem.FAILED,
        f"Machine '{root.machine}' cannot be started: its tree could not be mounted ({error.strerror}).",
    )
