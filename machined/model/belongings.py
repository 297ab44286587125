# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a machine has of us from its start to its end: a root, users, devices, interfaces, a network.

All of it is there before PID 1 is told, and goes when PID 1 says that nothing of the machine runs.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace

from machined.model import configured, credentials, devices, unit
from machined.model.devices import Devices
from machined.model.images import Image, Images
from machined.model.lending import Lending
from machined.model.machine import Machine
from machined.model.network.manager import Networks
from machined.model.ports import UnitProperty
from machined.model.registry import Registry
from machined.model.rootrecord import Root
from machined.model.roots import Roots
from machined.model.settings.merge import Effective
from machined.model.users import Choice


@dataclass(frozen=True, slots=True)
class Belonging:
    """One thing that a machine has: whether it still is what that was, and how it is taken back."""

    concerns: Callable[[], bool]
    take: Callable[[], Awaitable[None]]


class Belongings:
    """All of them. `cleanup` is the installed program for ExecStopPost=."""

    def __init__(
        self,
        images: Images,
        version: int,
        cleanup: str,
        roots: Roots,
        networks: Networks,
        nodes: Devices,
        lending: Lending,
    ) -> None:
        self._images = images
        self._version = version
        self._cleanup = cleanup
        self.roots = roots
        self.networks = networks
        self.devices = nodes
        self.lending = lending

    # -- a start -------------------------------------------------------------------------------------------

    async def prepare(
        self, name: str, image: Image, ephemeral: bool, settings: Effective
    ) -> list[UnitProperty]:
        """What PID 1 is told, all of it ready. Raises MachineError, OSError; nothing is left then."""
        try:
            prepared = await self.networks.prepare(name, image, settings)
            source = await self._source(name, image, ephemeral, prepared.settings)
            tree = configured.root_of(source) or (image.path if image.is_tree else "")
            nodes = await self.devices.prepare(name, settings, tree, source.first_user(settings))
            await self.lending.prepare(name, settings)
            source = replace(source, options=(*source.options, *prepared.options, *nodes.options))
            return self._properties(name, source, prepared.settings, nodes)
        except BaseException:
            await self.undo(name)
            raise

    async def plan(
        self, name: str, image: Image, ephemeral: bool, settings: Effective
    ) -> list[UnitProperty]:
        """What a start would tell PID 1 now. Raises MachineError."""
        prepared = await self.networks.plan(name, image, settings)
        root, users = None, None
        if Roots.needs(image, ephemeral):
            root = await self.roots.plan(name, image, ephemeral, prepared.settings)
        else:
            users = await self.roots.users.plan_tree(name, image, prepared.settings)
        source = self._source_of(name, image, ephemeral, root, users, settings)
        nodes = devices.plan(name, settings)
        source = replace(source, options=(*source.options, *prepared.options, *nodes.options))
        return self._properties(name, source, prepared.settings, nodes)

    def _properties(
        self, name: str, source: unit.Source, settings: Effective, nodes: devices.Prepared
    ) -> list[UnitProperty]:
        return unit.properties(name, self._version, self._cleanup, source, settings, nodes.properties)

    async def _source(self, name: str, image: Image, ephemeral: bool, settings: Effective) -> unit.Source:
        """What systemd-nspawn is told to boot, which is there from now on. Raises MachineError, OSError."""
        root, users = None, None
        if Roots.needs(image, ephemeral):
            root = await self.roots.prepare(name, image, ephemeral, settings)
        else:
            users = await self.roots.users.take_tree(name, image, settings)
        return self._source_of(name, image, ephemeral, root, users, settings)

    def _source_of(
        self,
        name: str,
        image: Image,
        ephemeral: bool,
        root: Root | None,
        users: Choice | None,
        settings: Effective,
    ) -> unit.Source:
        options = tuple(credentials.options(image.name))
        if root is not None:
            return unit.Source(
                os.fspath(root.directory), base=root.base,
                ephemeral=ephemeral, read_only=root.read_only, options=options,
            )  # fmt: skip
        if image.name == name and self._is_elsewhere(image):
            bundle = settings.is_set("Image", "OCIBundle")
            source = configured.source(image, ephemeral, options, bundle=bundle)
        elif not ephemeral:
            source = unit.Source(options=options)
        else:
            # systemd-nspawn copies it.
            source = unit.Source(image=image.path, ephemeral=True, options=options)
        return source if users is None else replace(source, base=users.base, ownership=users.ownership)

    def _is_elsewhere(self, image: Image) -> bool:
        found = self._images.find(image.name)
        return found is None or found.path != image.path

    async def attach(self, machine: Machine) -> None:
        """What is to be done to a machine that registers, before its init runs."""
        await self.lending.attach(machine)
        await self.networks.attach(machine)

    # -- an end --------------------------------------------------------------------------------------------

    async def undo(self, name: str) -> None:
        """Take everything back of a machine that did not come up."""
        self.devices.release(name)
        self.roots.release(name)
        await self.networks.release(name)
        await self.lending.release(name)

    def holds(self, name: str) -> bool:
        """Whether a machine has anything of us."""
        return bool(
            self.roots.holds(name)
            or self.networks.holds(name)
            or self.devices.run(name)
            or self.lending.holds(name)
        )

    def of(self, name: str) -> Iterator[Belonging]:
        """What a machine has now."""
        if (root := self.roots.get(name)) is not None:
            yield _belonging(lambda: self.roots.get(name) is root, lambda: self.roots.release(name))
        elif (held := self.roots.users.get(name)) is not None:
            users = self.roots.users
            yield _belonging(lambda: users.get(name) is held, lambda: users.release(name))
        if self.networks.holds(name):
            run = self.networks.run(name)
            yield Belonging(lambda: self.networks.run(name) == run, lambda: self.networks.release(name, run))
        if (loan := self.lending.get(name)) is not None:
            yield Belonging(lambda: self.lending.get(name) is loan, lambda: self.lending.release(name, loan))
        if nodes := self.devices.run(name):
            yield _belonging(lambda: self.devices.run(name) == nodes, lambda: self.devices.release(name))

    # -- a start of ours, and its end ----------------------------------------------------------------------

    def adopt(self, registry: Registry, is_up: Callable[[str], bool]) -> None:
        """Know of what runs, and take back what did not outlive its machine."""
        self.roots.adopt(is_up)
        self.networks.adopt(is_up)
        self.lending.adopt(registry, is_up)
        self.devices.adopt(is_up)

    async def close(self) -> None:
        """Let go of locks and descriptors; what is mounted and lent stays."""
        await self.roots.close()
        await self.networks.close()
        await self.lending.close()


def _belonging(concerns: Callable[[], bool], work: Callable[[], None]) -> Belonging:
    async def take() -> None:
        work()

    return Belonging(concerns, take)
