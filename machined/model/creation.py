# SPDX-License-Identifier: LGPL-2.1-or-later
"""New machines: a tree is filled in a hidden directory, checked, set up, and only then gets its name.

However it ends, nothing of what did not work is left or was ever seen.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

from machined.linux import newtree, partials
from machined.linux.fds import OwnedFd
from machined.linux.worker import TooManyError, Workers
from machined.model import bootcheck, builders, credentials, image_locks
from machined.model.bootcheck import Finding
from machined.model.builders.plan import Builder, Plan
from machined.model.building import Building
from machined.model.errors import MachineError, Problem, invalid, no_such_image, not_supported
from machined.model.finishing import finished
from machined.model.firstboot import FirstBoot, check_password
from machined.model.image_ops import ImageOps, too_many
from machined.model.images import Image, Images
from machined.model.jobs import Job, Jobs, Verb
from machined.model.names import check_machine_name, check_new_name, is_machine_name
from machined.model.ports import ServiceManager

log = logging.getLogger(__name__)

MAX_CREATIONS: Final = 16
"""So many machines are made at a time: each takes a disk and a network to itself, as far as it can."""

_NEW: Final = "machined.linux.newtree"
_PROVISION: Final = "machined.linux.provision"


class Creation:
    """Makes machines on one host. Long work is done by `long`, short work by `short`."""

    def __init__(
        self,
        images: Images,
        operations: ImageOps,
        jobs: Jobs,
        systemd: ServiceManager,
        long: Workers,
        short: Workers,
    ) -> None:
        self._images = images
        self._operations = operations
        self._jobs = jobs
        self._long = long
        self._short = short
        self._building = Building(systemd)

    @property
    def _pool(self) -> Path:
        return self._operations.pool

    async def stop_orphans(self) -> None:
        """End what a killed daemon was making; its trees are swept like other unfinished ones. At first."""
        for name in await self._building.stop_orphans():
            with suppress(OSError), image_locks.name(name):
                pass  # to let go of a lock removes its file

    # -- making --------------------------------------------------------------------------------------------

    def plan(self, name: str, source: str, first_boot: FirstBoot) -> tuple[Builder, Plan]:
        """What a wish means, for anybody: nothing of the host is looked at. Raises MachineError."""
        check_machine_name(name)
        check_new_name(name)
        return builders.resolve(source, first_boot.wishes)

    def _prepare(self, name: str, source: str, first_boot: FirstBoot) -> tuple[Builder, Plan]:
        """What will be done. Raises MachineError with why it will not work; nothing has changed then."""
        builder, plan = self.plan(name, source, first_boot)
        self._check_free(name)
        builders.check_host(builder, plan)
        if plan.copies:
            self._check_source(plan.copies)
        return builder, plan

    def _check_free(self, name: str) -> None:
        if (image := self._images.find(name)) is not None:
            raise MachineError(
                Problem.FILE_EXISTS,
                f"There is an image '{name}' already ({image.path}): choose another name, or remove it "
                f"first with 'machinectl remove {name}'.",
            )
        if (job := self._jobs.of_machine(name)) is not None:
            raise MachineError(
                Problem.JOB_RUNNING,
                f"Machine '{name}' has a job under way already ({job.verb}, number {job.id}); wait for "
                f"its end.",
            )

    def _check_source(self, path: str) -> None:
        pool = os.path.realpath(self._pool)
        real = os.path.realpath(path)
        if f"{pool}/".startswith(f"{real.rstrip('/')}/"):
            raise invalid(f"'{path}' cannot be copied into {self._pool}: that is inside of it.")
        if any(part.startswith(partials.PARTIAL) for part in real.split("/")):
            raise invalid(f"'{path}' cannot be copied: it is not finished.")

    def create(
        self,
        name: str,
        source: str,
        first_boot: FirstBoot,
        *,
        sink: OwnedFd | None = None,
        check: bool = True,
    ) -> Job:
        """A job that ends when the image is there. `check` False: also one that would not boot.

        Raises MachineError. `sink` is taken over: the tool's output goes there (see OutputPipe).
        """
        builder, plan = self._prepare(name, source, first_boot)
        if sum(job.verb is Verb.CREATE for job in self._jobs) >= MAX_CREATIONS:
            raise MachineError(
                Problem.LIMITS_EXCEEDED,
                f"{MAX_CREATIONS} machines are being made already; wait for one of them.",
            )
        return self._jobs.start(
            name, Verb.CREATE, lambda: self._create(name, builder, plan, first_boot, sink, check)
        )

    async def _create(
        self,
        name: str,
        builder: Builder,
        plan: Plan,
        first_boot: FirstBoot,
        sink: OwnedFd | None,
        check: bool,
    ) -> str:
        with _held(name), partials.inside(os.fspath(self._pool)) as place:
            try:
                found = await self._make(name, place, builder, plan, first_boot, sink, check)
            except TooManyError:
                raise too_many() from None
            except OSError as error:
                raise _spoken(name, error) from error
            finally:
                if sink is not None:
                    sink.close()
                await finished(self._discard(place))
        return _remarks(found)

    async def _make(
        self,
        name: str,
        place: str,
        builder: Builder,
        plan: Plan,
        first_boot: FirstBoot,
        sink: OwnedFd | None,
        check: bool,
    ) -> list[Finding]:
        tree = os.path.join(place, newtree.TREE)
        if self._images.find(name) is not None:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        await self._short.run(f"{_NEW}:{'begin_copy' if plan.copies else 'begin_empty'}", place)
        if plan.copies:
            await self._long.run("machined.linux.imagecopy:copy_tree", plan.copies, tree)
        else:
            await self._building.run(name, builder, plan, place, sink)
        settings = first_boot.settings()
        await self._short.run(f"{_PROVISION}:apply", tree, settings, True, plan.installs)
        found = await bootcheck.check([tree], self._short)
        if check and (lacking := bootcheck.missing(found)):
            raise MachineError(
                Problem.NOT_BOOTABLE,
                f"Machine '{name}' was not made: what '{builder.name}' made lacks what it needs to be "
                f"booted and logged in to.\n"
                + "\n".join(f"  {finding.what}: {finding.hint}" for finding in lacking)
                + "\n--check=no makes it nevertheless.",
            )
        credentials.store(name, first_boot.credentials())
        try:
            await self._publish(place, self._pool / name)
        except BaseException:
            credentials.remove(name)
            raise
        return found

    async def _publish(self, place: str, target: Path) -> None:
        """The moment from which on it is there: who is cancelled now is so too late."""
        renaming = asyncio.ensure_future(self._short.run(f"{_NEW}:publish", place, os.fspath(target)))
        try:
            await finished(renaming)
        except asyncio.CancelledError:
            if newtree.is_unpublished(place):
                raise

    async def _discard(self, place: str) -> None:
        try:
            await self._short.run(f"{_NEW}:discard", place)
        except OSError as error:
            log.warning("Cannot remove '%s', ignoring until the next start: %s", place, error)

    # -- afterwards ----------------------------------------------------------------------------------------

    def image(self, name: str) -> Image:
        """Raises MachineError (NO_SUCH_IMAGE, INVALID_ARGS)."""
        if not is_machine_name(name):
            check_machine_name(name)
        image = self._images.find(name)
        if image is None:
            raise no_such_image(name)
        return image

    async def check(self, name: str) -> list[Finding]:
        """Whether an image can be booted and logged in to. Raises MachineError, OSError."""
        image = self.image(name)
        if image.stack is not None:
            return await bootcheck.check(image.stack.trees, self._short)
        if not image.is_tree:
            raise not_supported(
                f"Image '{name}' is no directory ({image.type}): what is in it is not looked at."
            )
        return await bootcheck.check([_real(image)], self._short)

    async def set_first_boot(self, name: str, first_boot: FirstBoot) -> None:
        """Settings for an image that is not running: in its tree if it has one, and as credentials.

        Raises MachineError, OSError (EBUSY when the image is in use, or below layers; EROFS).
        """
        image = self.image(name)
        with image_locks.image(image, exclusive=True):
            self._operations.check_writable(image)
            settings = first_boot.settings()
            if image.stack is not None and not image.read_only:
                layers, writable = list(image.stack.layers), image.stack.writable
                await self._short.run(f"{_PROVISION}:apply_to_layers", layers, writable, settings)
            elif image.is_tree and not image.read_only:
                await self._short.run(f"{_PROVISION}:apply", _real(image), settings, False, False)
            credentials.store(name, first_boot.credentials(), keep=True)

    async def hashed(self, password: str) -> str:
        """The hash of a password, by a process of its own: it takes a while. MachineError, OSError."""
        check_password(password)
        return str(await self._short.run("machined.linux.passwords:hashed", password))


def _real(image: Image) -> str:
    """Where the tree is: an image may be a link to it."""
    return os.path.realpath(image.path)


@contextmanager
def _held(name: str) -> Iterator[None]:
    """The lock of a name; that somebody has it is said in a sentence."""
    with ExitStack() as stack:
        try:
            stack.enter_context(image_locks.name(name))
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            raise MachineError(
                Problem.IMAGE_BUSY, f"Somebody else is making an image '{name}' right now."
            ) from None
        yield


def _spoken(name: str, error: OSError) -> MachineError:
    why = error.strerror or str(error)
    hint = ""
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        hint = " 'machinectl clean' and 'machinectl set-limit' make room in the pool."
    problem = Problem.FILE_EXISTS if error.errno == errno.EEXIST else Problem.FAILED
    return MachineError(problem, f"Machine '{name}' was not made: {why}.{hint}")


def _remarks(found: list[Finding]) -> str:
    return "\n".join(f"{finding.what}: {finding.hint}" for finding in found if finding.hint)
