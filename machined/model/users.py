# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whose users machines have: each a range that is picked once and kept, and held while the machine runs.

A range is held by its lock in /run/systemd/nspawn-uid, which systemd-nspawn asks for before it picks one, so
anew after a restart of ours. Where the settings of a machine name its users there is nothing to pick, but it
is known all the same who has them; what systemd-nspawn picks for disk images the kernel tells.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from machined.linux.locks import FileLock
from machined.linux.overlay import RANGE
from machined.model import privateusers, rangebook, userranges
from machined.model.errors import MachineError, Problem
from machined.model.images import Image
from machined.model.privateusers import Range
from machined.model.settings.layers import Finding, Severity
from machined.model.settings.merge import Effective

log = logging.getLogger(__name__)

# So many ranges are given up for users that the host knows there, as with systemd-nspawn.
TRIES: Final = 100


@dataclass(frozen=True, slots=True)
class Choice:
    """What systemd-nspawn is told of the users of a machine, and of the owners of its tree."""

    base: int
    ownership: str


@dataclass(frozen=True, slots=True)
class Held:
    """What a machine has, from its start to its end. `lock`: None when others hold it as well."""

    users: Range
    lock: FileLock | None


class Users:
    """The ranges of all machines of this host.

    `running`: machines by name, and the ranges that the kernel says they have; `is_there`: whether there is
    an image of a name.
    """

    def __init__(
        self, running: Callable[[], Iterable[tuple[str, Range]]], is_there: Callable[[str], bool]
    ) -> None:
        self._running = running
        self._is_there = is_there
        self._held: dict[str, Held] = {}

    def get(self, name: str) -> Held | None:
        return self._held.get(name)

    # -- what others have ----------------------------------------------------------------------------------

    def _others(self, name: str) -> Iterator[tuple[str, Range]]:
        """The machines that run, apart from this one, with their ranges."""
        yield from ((other, held.users) for other, held in self._held.items() if other != name)
        for other, users in self._running():
            if other != name and other not in self._held:
                # Named as well, unless somebody has picked it: whoever picks takes the lock.
                picked = users.count == RANGE and userranges.is_locked(users.base)
                yield other, Range(users.base, users.count, named=not picked)

    def conflicts(self, name: str, settings: Effective) -> list[Finding]:
        """Why a machine cannot have the range that its settings name now: others that run have of it.

        Those whose settings name the very same range mean to share it.
        """
        wanted = privateusers.named(settings)
        if wanted is None:
            return []
        value = settings.all("Exec", "PrivateUsers")[-1]
        return [
            Finding(
                Severity.ERROR,
                value.place,
                f"[Exec] PrivateUsers={value.text}: machine '{other}', which runs, has the users "
                f"{users.base} to {users.end - 1}. Name another range, or have one picked by 'pick'.",
            )
            for other, users in self._others(name)
            if users.overlaps(wanted) and users != wanted
        ]

    # -- picking -------------------------------------------------------------------------------------------

    async def pick(self, name: str, shift: int = 0, *, keep: bool) -> int:
        """The first user of the range that a machine would get now.

        That is the one its tree is shifted to, the one it had before, or the next that nobody has, runs or
        not; with `keep` it would be kept. Raises MachineError (LIMITS_EXCEEDED).
        """
        return await self._pick(name, shift, keep, set())

    async def _pick(self, name: str, shift: int, keep: bool, lost: set[int]) -> int:
        held = self._held.get(name)
        if held is not None and not held.users.named:
            return held.users.base
        others = [users for _, users in self._others(name)]

        def is_used(base: int) -> bool:
            return base in lost or any(Range(base).overlaps(users) for users in others)

        for base in self._preferred(name, shift) if keep else ():
            if not is_used(base) and not userranges.is_locked(base):
                return base
        of_others = {base for other, base in rangebook.kept() if other != name}
        for _ in range(TRIES):
            base = userranges.pick(name, lambda base: base in of_others or is_used(base))
            # What is not kept has to be quick, and is not for long.
            if not keep or not await userranges.is_known(base):
                return base
            lost.add(base)
        raise MachineError(
            Problem.LIMITS_EXCEEDED,
            f"Machine '{name}' can have no users of its own: the host knows users in all of {TRIES} ranges "
            f"that were tried. Name one by 'PrivateUsers=FIRST:{RANGE}'.",
        )

    def _preferred(self, name: str, shift: int) -> Iterator[int]:
        # The copy of a shifted tree does not take the range of the original, which would have to look for
        # another one then.
        if shift and userranges.is_fit(shift) and not self._is_of_another(name, shift):
            yield shift
        before = rangebook.get(name)
        if before is not None and userranges.is_fit(before):
            yield before

    def _is_of_another(self, name: str, base: int) -> bool:
        owners = [owner for owner, kept in rangebook.kept() if kept == base]
        return name not in owners and any(map(self._is_there, owners))

    # -- starts and ends -----------------------------------------------------------------------------------

    async def take(self, name: str, shift: int = 0, *, keep: bool) -> int:
        """As pick(), and from now on it is the machine's until release(). MachineError, OSError."""
        self.release(name)  # what a run before has left
        lost: set[int] = set()
        while True:
            base = await self._pick(name, shift, keep, lost)
            lock = userranges.lock(base)
            if lock is not None:
                break
            lost.add(base)  # others were faster
        self._hold(name, Range(base), lock)
        if keep:
            _keep(name, base, shift)
        return base

    def hold(self, name: str, users: Range) -> None:
        """A machine is about to run with these, which were said to be its users. OSError."""
        self.release(name)
        self._hold(name, users, _lock_if_free(users))

    def _hold(self, name: str, users: Range, lock: FileLock | None) -> None:
        try:
            rangebook.begin(name, users)
        except BaseException:
            if lock is not None:
                lock.release()
            raise
        self._held[name] = Held(users, lock)

    def release(self, name: str) -> None:
        """Whose users a machine had that does not run. Never raises."""
        held = self._held.pop(name, None)
        if held is None:
            return
        if held.lock is not None:
            held.lock.release()
        _end(name)

    def adopt(self, is_up: Callable[[str], bool]) -> None:
        """After a start of ours: hold what machines have that run, forget what others had."""
        for name, users in rangebook.running():
            if not is_up(name):
                _end(name)
                continue
            lock = None
            try:
                lock = _lock_if_free(users)
            except OSError as error:
                log.warning("The users of machine '%s' cannot be locked: %s", name, error)
            if lock is None and not users.named:
                log.warning("The users of machine '%s' are locked by somebody else", name)
            self._held[name] = Held(users, lock)

    def close(self) -> None:
        """Let go of the locks; what runs goes on."""
        for held in self._held.values():
            if held.lock is not None:
                held.lock.release()
        self._held.clear()

    # -- plain trees ---------------------------------------------------------------------------------------

    async def plan_tree(self, name: str, image: Image, settings: Effective) -> Choice | None:
        """The users of a machine that writes to a plain tree; None where they are not ours to pick.

        Raises MachineError, OSError.
        """
        shift = _shift_to_pick_for(name, image, settings)
        if shift is None:
            return None
        base = await self.pick(name, shift, keep=True)
        return Choice(base, _ownership(name, image, shift, base, settings))

    async def take_tree(self, name: str, image: Image, settings: Effective) -> Choice | None:
        """As plan_tree(), and the machine has them from now on, or those that its settings name."""
        self.release(name)  # what a run before has left
        shift = _shift_to_pick_for(name, image, settings)
        if shift is not None:
            base = await self.take(name, shift, keep=True)
            return Choice(base, _ownership(name, image, shift, base, settings))
        # What the settings say, if they do: a range, or that of the tree's owner.
        users = privateusers.named(settings)
        if users is None and settings.get("Exec", "PrivateUsers") == "yes" and image.is_tree:
            shift = privateusers.shift_of(image.path)
            users = Range(shift, named=True) if shift else None
        if users is not None and users.base:
            self.hold(name, users)
        return None


def _shift_to_pick_for(name: str, image: Image, settings: Effective) -> int | None:
    """How far the owners of a tree are shifted for which we pick; None where systemd-nspawn does.

    It has to look into disk images first, whose owners are shifted by we do not know what. It knows of
    kernels without user namespaces, of trees that belong to nobody on this host (systemd.io/UIDS-GIDS), and
    what to say of one whose users and groups are not shifted alike.
    """
    if settings.get("Exec", "PrivateUsers") != "pick" or not image.is_tree:
        return None
    if not userranges.has_namespaces() or settings.get("Files", "PrivateUsersOwnership") == "foreign":
        return None
    shift = privateusers.shift_of(image.path)
    if shift is None or shift > userranges.LAST:
        return None
    if shift and settings.get("Files", "PrivateUsersOwnership") == "map":
        value = settings.all("Files", "PrivateUsersOwnership")[-1]
        raise MachineError(
            Problem.INVALID_SETTINGS,
            f"Machine '{name}' cannot be started with 'PrivateUsersOwnership=map' ({value.origin}): the "
            f"files of its tree, {image.path}, belong to users from {shift} on, and only those of users "
            f"from 0 on can be mapped. 'machinectl chown {image.name}' gives them back to those.",
        )
    return shift


def _ownership(name: str, image: Image, shift: int, base: int, settings: Effective) -> str:
    """What systemd-nspawn is to do about the owners of a tree.

    "auto" maps them where it can and changes them where not, but takes them for unshifted as soon as it is
    told the range; so where they are shifted it is told what it would do otherwise, which is to change them.
    """
    said = settings.get("Files", "PrivateUsersOwnership")
    if said not in {"", "auto"}:
        return said
    if not shift:
        return "auto"
    if shift == base:
        return "off"
    log.info(
        "The files of image '%s' belong to users from %d on, which machine '%s' cannot have: their owners "
        "are changed", image.name, shift, name,
    )  # fmt: skip
    return "chown"


def _lock_if_free(users: Range) -> FileLock | None:
    """The lock of a range, if it is one that could be picked and nobody has it. OSError."""
    is_one = users.base and users.base % RANGE == 0 and users.count == RANGE
    return userranges.lock(users.base) if is_one else None


def _keep(name: str, base: int, shift: int) -> None:
    """Remember what was picked for a machine, in the place of what is not fit for it any more.

    What it had is not forgotten for having been taken by others once.
    """
    before = rangebook.get(name)
    if before is not None and userranges.is_fit(before) and base != shift:
        return
    if before == base or any(base == other for _, other in rangebook.kept()):
        return
    try:
        rangebook.keep(name, base)
    except OSError as error:
        log.warning("Cannot write down which users machine '%s' has, ignoring: %s", name, error)


def _end(name: str) -> None:
    try:
        rangebook.end(name)
    except OSError as error:
        log.warning("Cannot forget which users machine '%s' had, ignoring: %s", name, error)
