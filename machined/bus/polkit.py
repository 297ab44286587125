# SPDX-License-Identifier: LGPL-2.1-or-later
"""Asking polkit, with the time a person needs to type a password, and no longer than the caller stays."""

from __future__ import annotations

import asyncio
import errno
import itertools
import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

from dbus_fast import Message, Variant

from machined.bus.call import Call
from machined.bus.connection import DBUS, Bus, RemoteError
from machined.model.errors import MachineError, Problem

log = logging.getLogger(__name__)

NAME: Final = "org.freedesktop.PolicyKit1"
PATH: Final = "/org/freedesktop/PolicyKit1/Authority"
AUTHORITY: Final = "org.freedesktop.PolicyKit1.Authority"
ALLOW_USER_INTERACTION: Final = 1

# Questions to polkit under way at once, over all callers.
MAX_QUESTIONS: Final = 256
MAX_QUESTIONS_PER_USER: Final = 16


_CHALLENGE: Final = (
    "Access denied as the requested operation requires interactive authentication. "
    "However, interactive authentication has not been enabled by the calling program."
)


class Polkit:
    """The Authority of calls on the system bus."""

    def __init__(self, bus: Bus, version: int) -> None:
        """`version` of systemd: its daemons' words for the same refusal have changed."""
        self._bus = bus
        self._challenge = _CHALLENGE if version >= 258 else "Interactive authentication required."
        self._ids = itertools.count(1)
        self._waiting: dict[str, set[asyncio.Task[Any]]] = {}
        self._questions = 0
        self._of_user: Counter[int] = Counter()

    def handle_signal(self, message: Message) -> None:
        """Feed NameOwnerChanged of all callers here: for one that left, the question is withdrawn."""
        if message.member == "NameOwnerChanged" and message.sender == DBUS and not message.body[2]:
            for task in self._waiting.get(message.body[0], ()):
                task.cancel()

    async def check(self, call: Call, action: str, details: Mapping[str, str]) -> None:
        """Whether the sender of a call may do `action`. Raises MachineError when not."""
        subject = ["system-bus-name", {"name": Variant("s", call.sender)}]
        uid = (await call.credentials()).uid
        task = asyncio.ensure_future(self.ask(subject, uid, action, details, call.interactive))
        self._waiting.setdefault(call.sender, set()).add(task)
        try:
            await task
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if not task.cancelled() or (current is not None and current.cancelling()):
                # It is us who are going down, not the caller who left.
                task.cancel()
                raise
            raise MachineError(Problem.ACCESS_DENIED, "The caller left before it was authorized.") from None
        finally:
            tasks = self._waiting[call.sender]
            tasks.discard(task)
            if not tasks:
                del self._waiting[call.sender]

    def _check_room(self, uid: int) -> None:
        if self._questions >= MAX_QUESTIONS or self._of_user[uid] >= MAX_QUESTIONS_PER_USER:
            raise MachineError(
                Problem.LIMITS_EXCEEDED, "Too many authorizations are being asked for already."
            )

    async def ask_process(
        self,
        pid: int,
        pidfd: int | None,
        uid: int,
        action: str,
        details: Mapping[str, str],
        interactive: bool,
    ) -> None:
        """Whether a process may do `action`.

        for peers that are not on the bus. Raises MachineError when not.
        """
        if pidfd is None:
            # Without a pidfd the identity of the process cannot be proven to polkit.
            raise MachineError(
                Problem.ACCESS_DENIED, f"Access denied: process {pid} cannot be identified safely."
            )
        subject = ["unix-process", {"pidfd": Variant("h", 0), "uid": Variant("i", uid)}]
        await self.ask(subject, uid, action, details, interactive, fds=[pidfd])

    async def ask(
        self,
        subject: list[Any],
        uid: int,
        action: str,
        details: Mapping[str, str],
        interactive: bool,
        fds: Sequence[int] = (),
    ) -> None:
        """CheckAuthorization for any kind of subject. Raises MachineError when the answer is no."""
        self._check_room(uid)
        self._questions += 1
        self._of_user[uid] += 1
        cancellation = f"machined-{next(self._ids)}"
        flags = ALLOW_USER_INTERACTION if interactive else 0
        try:
            body = await self._bus.request(
                NAME,
                PATH,
                AUTHORITY,
                "CheckAuthorization",
                "(sa{sv})sa{ss}us",
                [subject, action, dict(details), flags, cancellation],
                timeout=None,
                fds=fds,
            )
        except asyncio.CancelledError:
            self._bus.send_message(
                Message(
                    destination=NAME,
                    path=PATH,
                    interface=AUTHORITY,
                    member="CancelCheckAuthorization",
                    signature="s",
                    body=[cancellation],
                    flags=1,
                )
            )
            raise
        except (RemoteError, ConnectionError) as error:
            log.warning("polkit does not say who may do %s, so nobody may but root: %s", action, error)
            raise MachineError(Problem.ACCESS_DENIED, os.strerror(errno.EACCES)) from error
        finally:
            self._questions -= 1
            self._of_user[uid] -= 1
            if not self._of_user[uid]:
                del self._of_user[uid]
        match body:
            case [[bool(authorized), bool(challenge), dict()]]:
                pass
            case _:
                raise MachineError(
                    Problem.ACCESS_DENIED, f"Access denied: polkit's answer about {action} is none."
                )
        if authorized:
            return
        if challenge:
            raise MachineError(Problem.INTERACTIVE_AUTHORIZATION_REQUIRED, self._challenge)
        raise MachineError(Problem.ACCESS_DENIED, "Permission denied")
