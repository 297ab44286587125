# SPDX-License-Identifier: LGPL-2.1-or-later
"""What running containers told of themselves, kept until an event says that it has changed.

The addresses by a route socket in the container's network namespace, the os-release file by inotify watches
on the directories that hold it. Who asks for what is known waits for nothing; who asks for what is not has
one helper look, however many ask. In between nothing is done, however busy the container is.
"""

from __future__ import annotations

import asyncio
import base64
import errno
import logging
import math
import socket
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from machined.linux import envfile, helper
from machined.linux.addresswatch import AddressWatch
from machined.linux.inotify import Inotify
from machined.linux.mountwatch import MountWatch
from machined.linux.process import PidRef
from machined.model.errors import no_such_process
from machined.model.machine import Machine, MachineClass
from machined.model.preflight import OS_RELEASE_PATHS
from machined.model.registry import Registry
from machined.model.turns import Turns

log = logging.getLogger(__name__)

MAX_OS_RELEASE: Final = 16 * 1024
# Machines that are looked at although nobody has asked yet.
BACKGROUND: Final = 2
# Seconds after a registration in which the daemon has better to do than to look without being asked.
DELAY: Final = 1.0
# Seconds that one look may take.
TIMEOUT: Final = 20.0
# Seconds for which one that has hung who asked is not asked on the way.
SILENCE: Final = 300.0
# Seconds for which an answer is good where nobody tells that it has changed (the watches are all taken).
VALID: Final = 2.0


@dataclass(slots=True, eq=False)
class Entry:
    """What is known of one machine."""

    machine: Machine
    addresses: AddressWatch | None = None
    fields: Mapping[str, str] = field(default_factory=dict)
    problem: OSError | None = None  # why there are no fields
    good_until: float = -math.inf  # monotonic seconds
    watches: frozenset[int] = frozenset()
    mounts: int = -1  # the watch of its mounts
    task: asyncio.Task[None] | None = None
    silent_until: float = -math.inf  # it has hung who asked

    @property
    def good(self) -> bool:
        """Whether fields, or the problem, are as the machine has them now."""
        return time.monotonic() < self.good_until

    @property
    def silent(self) -> bool:
        """Whether it has hung who asked, not long ago."""
        return time.monotonic() < self.silent_until

    def drop_addresses(self) -> None:
        """Let go of the route socket; the next one who asks opens another."""
        if self.addresses is not None:
            self.addresses.close()
            self.addresses = None


class Metadata:
    """Of the containers in the registry, from one's coming to its going."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._entries: dict[Machine, Entry] = {}
        self._of_watch: dict[int, set[Entry]] = {}
        self._turns = Turns()
        self._mounts = MountWatch(self._mounted)
        self._of_mounts: dict[int, Entry] = {}
        self._inotify: Inotify | None = None
        self._no_inotify = False
        # Looks under way, and the watches that fired meanwhile: an answer may name one of them.
        self._looking = 0
        self._fired: set[int] = set()
        self._remounted: set[int] = set()
        self._unseen: deque[tuple[float, Machine]] = deque()
        self._background: set[asyncio.Task[None]] = set()
        registry.on_new.append(self._new)
        registry.on_removed.append(self.forget)

    def entry(self, machine: Machine) -> Entry:
        """What is known, without asking."""
        found = self._entries.get(machine)
        if found is None:
            found = self._entries[machine] = Entry(machine)
        return found

    async def look(self, entry: Entry) -> None:
        """Ask the machine, or wait for a look that is under way. Raises OSError, TimeoutError."""
        if entry.task is None:
            entry.task = asyncio.ensure_future(self._look(entry))
            entry.task.add_done_callback(lambda task: self._looked(entry, task))
        task = entry.task
        await asyncio.wait([task])
        if task.cancelled():  # not who asks was: the machine has ended
            raise no_such_process()
        task.result()

    @staticmethod
    def _looked(entry: Entry, task: asyncio.Task[None]) -> None:
        entry.task = None
        if not task.cancelled():
            hung = isinstance(task.exception(), TimeoutError)
            entry.silent_until = time.monotonic() + SILENCE if hung else -math.inf

    async def _look(self, entry: Entry) -> None:
        # A user's machines that hang who asks are not to have the others wait for them one by one.
        limit = TIMEOUT if entry.machine.uid else None
        async with asyncio.timeout(limit), self._turns.of(entry.machine.uid):
            self._looking += 1
            try:
                await self._observe(entry)
            finally:
                self._looking -= 1
                if not self._looking:
                    self._fired.clear()

    async def _observe(self, entry: Entry) -> None:
        leader = entry.machine.leader
        if leader is None:
            raise no_such_process()
        arguments = {
            "paths": [f"/{path}" for path in OS_RELEASE_PATHS],
            "limit": MAX_OS_RELEASE,
            "route": entry.addresses is None,
        }
        self._watch_mounts(entry, leader)
        inotify = self._watcher()
        fds = [inotify.fileno()] if inotify is not None else []
        reply = await helper.run("observe", leader, arguments, fds, timeout=TIMEOUT)
        with reply.fds as received:
            watches = frozenset(w for w in reply.data["watches"] if type(w) is int)
            if self._entries.get(entry.machine) is not entry:
                self._end(watches - self._of_watch.keys())
                return
            if len(received) and entry.addresses is None:
                entry.addresses = AddressWatch(socket.socket(fileno=received.steal(0)))
        self._attach(entry, watches)
        entry.problem, entry.fields = None, {}
        if "data" in reply.data:
            entry.fields = envfile.parse(base64.b64decode(str(reply.data["data"])))
        else:
            entry.problem = _problem(reply.data.get("read_error"))
        watched = reply.data["watched"] is True and entry.mounts >= 0
        if watches & self._fired or entry.mounts in self._remounted:
            entry.good_until = -math.inf  # it may have been read before that
        else:
            entry.good_until = math.inf if watched else time.monotonic() + VALID

    # -- the watches ---------------------------------------------------------------------------------------

    def _watch_mounts(self, entry: Entry, leader: PidRef) -> None:
        """What is mounted over the file, or another root, no watch of a directory tells of."""
        self._unwatch_mounts(entry)
        try:
            entry.mounts = self._mounts.add(leader.pid)
        except OSError as error:
            log.debug("Cannot watch the mounts of machine '%s': %s", entry.machine.name, error)
            return
        self._of_mounts[entry.mounts] = entry
        if not leader.alive():  # it may be another process with its number
            self._unwatch_mounts(entry)
            raise no_such_process()

    def _unwatch_mounts(self, entry: Entry) -> None:
        if entry.mounts >= 0:
            del self._of_mounts[entry.mounts]
            self._remounted.discard(entry.mounts)
            self._mounts.remove(entry.mounts)
            entry.mounts = -1

    def _mounted(self, watch: int) -> None:
        entry = self._of_mounts.get(watch)
        if entry is not None:
            entry.good_until = -math.inf
            self._remounted.add(watch)

    def _watcher(self) -> Inotify | None:
        if self._inotify is None and not self._no_inotify:
            try:
                self._inotify = Inotify(self._changed)
            except OSError as error:
                self._no_inotify = True
                log.warning("Cannot watch the files of machines, asking them again instead: %s", error)
        return self._inotify

    def _attach(self, entry: Entry, watches: frozenset[int]) -> None:
        self._detach(entry, kept=watches)
        entry.watches = watches
        for watch in watches:
            self._of_watch.setdefault(watch, set()).add(entry)

    def _detach(self, entry: Entry, kept: frozenset[int] = frozenset()) -> None:
        """Several machines may share a directory, and with that a watch: the last one ends it."""
        for watch in entry.watches - kept:
            others = self._of_watch.get(watch)
            if others is None:
                continue
            others.discard(entry)
            if not others:
                del self._of_watch[watch]
                self._end({watch})
        entry.watches = frozenset()

    def _end(self, watches: frozenset[int] | set[int]) -> None:
        if self._inotify is not None:
            for watch in watches:
                self._inotify.remove(watch)

    def _changed(self, watches: set[int] | None) -> None:
        """Each of these has fired, and is no more; None: any of them may have."""
        if watches is None:
            for entry in self._entries.values():
                entry.good_until = -math.inf
            self._fired |= self._of_watch.keys()
            return
        if self._looking:
            self._fired |= watches
        for watch in watches:
            for entry in self._of_watch.pop(watch, ()):
                entry.good_until = -math.inf
                entry.watches -= {watch}

    # -- coming and going ----------------------------------------------------------------------------------

    def _new(self, machine: Machine) -> None:
        if machine.cls is not MachineClass.CONTAINER:
            return
        self._unseen.append((time.monotonic() + DELAY, machine))
        if len(self._background) < BACKGROUND:
            task = asyncio.ensure_future(self._look_around())
            self._background.add(task)
            task.add_done_callback(self._background.discard)

    async def _look_around(self) -> None:
        """Look at machines that are new, so that the first listing need not wait for it."""
        while self._unseen:
            when, machine = self._unseen.popleft()
            if (pause := when - time.monotonic()) > 0:
                await asyncio.sleep(pause)
            if self._registry.get(machine.name) is not machine or self.entry(machine).good:
                continue
            try:
                await self.look(self.entry(machine))
            except (OSError, TimeoutError, ValueError) as error:
                log.debug("Machine '%s' does not tell of itself: %s", machine.name, error)

    def forget(self, machine: Machine) -> None:
        """The machine is over."""
        entry = self._entries.pop(machine, None)
        if entry is None:
            return
        if entry.task is not None:
            entry.task.cancel()
        self._detach(entry)
        self._unwatch_mounts(entry)
        entry.drop_addresses()

    async def close(self) -> None:
        """Let go of everything."""
        tasks = [*self._background, *(e.task for e in self._entries.values() if e.task is not None)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for entry in self._entries.values():
            entry.drop_addresses()
        self._entries.clear()
        self._of_watch.clear()
        self._of_mounts.clear()
        self._mounts.close()
        if self._inotify is not None:
            self._inotify.close()
            self._inotify = None


def _problem(told: Any) -> OSError:
    """Why the file could not be read, from the helper's answer."""
    number = told.get("errno") if isinstance(told, dict) else None
    if type(number) is not int or not isinstance(told.get("what"), str):
        return OSError(errno.EPROTO, "The operating system is not told")
    return OSError(number, told["what"])
