# SPDX-License-Identifier: LGPL-2.1-or-later
"""Interfaces of the host that machines have while they run ([Network] Interface=), and their way home.

systemd-nspawn brings them back when it ends by itself. When it is killed the kernel destroys virtual ones
with the machine's network namespace, and returns hardware under the name that it had in there. So the
namespace is held here, by a descriptor, from when the machine registers until its links are back. Which
machine has which is in a record beside it, for a daemon that starts meanwhile. Machines that have none never
come here.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from machined.linux import lending, wholefile
from machined.linux.fds import OwnedFd
from machined.linux.lending import Lent
from machined.model.finishing import to_the_end
from machined.model.machine import Machine
from machined.model.names import is_machine_name
from machined.model.registry import Registry
from machined.model.settings.merge import Effective
from machined.model.state import unit_of_machine

log = logging.getLogger(__name__)

RUNTIME: Final = Path("/run/machined/lent")
_RECORD: Final = ".json"


@dataclass(slots=True, eq=False)
class Loan:
    """What one run of a machine has."""

    machine: str
    links: tuple[Lent, ...]
    seen: bool = False
    """Whether the numbers of the links are those that they have in the machine."""
    namespace: OwnedFd | None = None

    def hold(self, namespace: OwnedFd | None) -> None:
        """Hold this namespace from now on, and none before."""
        before, self.namespace = self.namespace, namespace
        if before is not None:
            before.close()


class Lending:
    """Knows what is lent, and fetches it."""

    def __init__(self) -> None:
        self._loans: dict[str, Loan] = {}
        self._turn = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self.on_returned: Callable[[str], None] = lambda _: None

    def get(self, name: str) -> Loan | None:
        return self._loans.get(name)

    def holds(self, name: str) -> bool:
        """Whether a machine has, or may have, a link of the host."""
        return name in self._loans

    # -- going ---------------------------------------------------------------------------------------------

    async def prepare(self, name: str, settings: Effective) -> None:
        """Note what a machine that is about to be started takes with it. Never raises: it starts without."""
        await self.release(name)  # what a run before has left
        pairs = [value.text.partition(":") for value in settings.all("Network", "Interface")]
        if not pairs:
            return
        try:
            found = await asyncio.to_thread(
                lending.look, [(host, inside or host) for host, _, inside in pairs]
            )
            if found:
                loan = Loan(name, tuple(found))
                _write(loan)
                self._loans[name] = loan
        except OSError as error:
            log.warning(
                "The interfaces that machine '%s' takes will be lost if it is killed: %s", name, error
            )

    async def attach(self, machine: Machine) -> None:
        """Hold the network of a machine that registers: before its init runs, and may rename what it has."""
        loan = self._loans.get(machine.name)
        if loan is not None and machine.unit == unit_of_machine(machine.name):
            loan.seen = False  # after a reboot it is another namespace
            await self._pin(loan, machine)

    async def _pin(self, loan: Loan, machine: Machine) -> None:
        try:
            loan.hold(_network_of(machine))
            if loan.namespace is not None and not loan.seen:
                with loan.namespace.dup() as namespace:
                    links = await asyncio.to_thread(lending.seen, namespace.fileno(), loan.links)
                loan.links, loan.seen = tuple(links), True
                _write(loan)
        except OSError as error:
            text = "The interfaces that machine '%s' has will be lost if it is killed: %s"
            log.warning(text, machine.name, error)

    # -- coming back ---------------------------------------------------------------------------------------

    async def release(self, name: str, loan: Loan | None = None) -> None:
        """See that all is back of a machine that is over, of this run if one is given. Never raises."""
        async with self._turn:
            held = self._loans.get(name)
            if held is None or loan not in {None, held}:
                return
            namespace = held.namespace.dup() if held.namespace is not None else None
            try:
                await to_the_end(_fetch, held.machine, held.links, namespace)
            finally:
                held.hold(None)
                del self._loans[name]
                _forget(name)

    # -- a start of ours, and its end ----------------------------------------------------------------------

    def adopt(self, registry: Registry, is_up: Callable[[str], bool]) -> None:
        """Hold what runs, and see to what ended meanwhile."""
        for loan in _recorded():
            self._loans[loan.machine] = loan
            machine = registry.get(loan.machine)
            if not is_up(loan.machine):
                self._spawn(loan, self.release(loan.machine, loan))
            elif machine is not None and machine.unit == unit_of_machine(loan.machine):
                self._spawn(loan, self._pin(loan, machine))

    def _spawn(self, loan: Loan, work: Coroutine[Any, Any, None]) -> None:
        async def run() -> None:
            await work
            self.on_returned(loan.machine)

        task = asyncio.ensure_future(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Let go; what is lent stays so, for the next daemon."""
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for loan in self._loans.values():
            loan.hold(None)


def _network_of(machine: Machine) -> OwnedFd | None:
    """The network namespace of a machine's leader, None where that is ours or gone. OSError."""
    if machine.leader is None:
        return None
    namespace = OwnedFd(os.open(f"/proc/{machine.leader_pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC))
    own, its = os.stat("/proc/self/ns/net"), os.fstat(namespace.fileno())
    # Only when it lives now is it certain that this was not somebody's with the same number.
    if (own.st_dev, own.st_ino) == (its.st_dev, its.st_ino) or not machine.leader.alive():
        namespace.close()
        return None
    return namespace


def _fetch(machine: str, links: Sequence[Lent], namespace: OwnedFd | None) -> None:
    """Have the links of a machine that is over here again, and tell where they are not. Blocks."""
    with contextlib.ExitStack() as held:
        there: list[Lent] = []
        if namespace is not None:
            held.enter_context(namespace)
            with _told(machine, "its network cannot be looked at"):
                there = lending.left(namespace.fileno(), links)
        for link in links:
            with _told(machine, f"'{link.host}' did not come back"):
                if namespace is not None and link in there:
                    name = lending.fetch(namespace.fileno(), link)
                    log.info("Interface '%s' was fetched from machine '%s', which was killed", name, machine)
                else:
                    name = lending.recover(link)
                _tell(machine, link, name)


@contextlib.contextmanager
def _told(machine: str, what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        log.warning("What machine '%s' had of the host's interfaces: %s: %s", machine, what, error.strerror)


def _tell(machine: str, link: Lent, name: str) -> None:
    if not name:
        log.warning(
            "Interface '%s' is gone with machine '%s', which had it: make it anew (virtual ones do not "
            "outlive a machine that is killed while no daemon runs, or that removes them).",
            link.host, machine,
        )  # fmt: skip
    elif name != link.host:
        log.warning(
            "Interface '%s' is back from machine '%s' as '%s', as something else is called so meanwhile; "
            "'ip link set %s name %s' when that is away.",
            link.host, machine, name, name, link.host,
        )  # fmt: skip


# -- records -----------------------------------------------------------------------------------------------


def _path(name: str) -> Path:
    return RUNTIME / f"{name}{_RECORD}"


def _write(loan: Loan) -> None:
    RUNTIME.mkdir(mode=0o755, parents=True, exist_ok=True)
    told = {"links": [asdict(link) for link in loan.links], "seen": loan.seen}
    wholefile.write(_path(loan.machine), json.dumps(told).encode(), 0o644)


def _recorded() -> Iterator[Loan]:
    try:
        entries = sorted(os.listdir(RUNTIME))
    except OSError:
        return
    for name in [entry.removesuffix(_RECORD) for entry in entries if entry.endswith(_RECORD)]:
        try:
            told = json.loads(_path(name).read_text(encoding="utf-8"))
            links = tuple(Lent(**row) for row in told["links"])
            if is_machine_name(name):
                yield Loan(name, links, bool(told["seen"]))
        except (OSError, ValueError, TypeError, KeyError) as error:
            log.warning("The record of what is lent to '%s' makes no sense, ignoring: %s", name, error)


def _forget(name: str) -> None:
    try:
        _path(name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # another's is there
            RUNTIME.rmdir()
    except OSError as error:
        log.warning("Cannot remove '%s', ignoring: %s", _path(name), error)
