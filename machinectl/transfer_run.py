# SPDX-License-Identifier: LGPL-2.1-or-later
"""One transfer by systemd-importd, from the call that begins it to its end. Ctrl-C cancels it."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

from . import transfer_reasons
from .bus import ASKING_TIMEOUT, BUS_DRIVER, Bus, Call, Target
from .context import Context
from .errors import BusError, CommandError
from .timefmt import size
from .transfer_progress import span
from .transfer_report import Report

NAME = "org.freedesktop.import1"
IMPORT1 = Target(NAME, "/org/freedesktop/import1", f"{NAME}.Manager")
TRANSFERS = IMPORT1.at("/org/freedesktop/import1/transfer", f"{NAME}.Transfer")

_PATIENCE = 15.0  # seconds a cancelled transfer has to remove a tree, before it is told once more
_IMPATIENCE = 1.0  # an export has none; that of 257 is deaf while it is busy
_ATTEMPTS = 4  # the fourth time importd kills it
_KEPT = 50  # lines to look through for a reason


class Interruption:
    """Ctrl-C and its like are noted while this is entered, and `fd` can be read when there was one.

    The second raises KeyboardInterrupt. What was ignored before (nohup) stays so.
    """

    def __init__(self) -> None:
        self.noted = 0

    def __enter__(self) -> Self:
        self.fd, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._before_fd = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._before = {}
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._before_fd)
        os.close(self.fd)
        os.close(self._write)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.noted += 1
        if self.noted > 1:
            raise KeyboardInterrupt


class Transfer:
    """One transfer. `run` begins it and stays until it is over."""

    def __init__(self, context: Context, bus: Bus, report: Report, look: Callable[[], int]) -> None:
        """`look`: bytes that have gone by now, where this side can tell; else 0."""
        self._context = context
        self._bus = bus
        self._report = report
        self._look = look
        self._path = ""
        self._lines: list[tuple[int, str]] = []
        self._removed = bus.subscribe(IMPORT1, "TransferRemoved")
        self._logs = bus.subscribe(TRANSFERS, "LogMessage", below=True)
        self._progress = bus.subscribe(TRANSFERS, "ProgressUpdate", below=True)
        self._owner = bus.subscribe(BUS_DRIVER, "NameOwnerChanged", arg0=NAME)

    def run(self, calls: list[Call], doing: str, done: str, finish: Callable[[], None]) -> None:
        """`calls`: what begins it, the first that importd has; `doing`, `done`: words about it;
        `finish`: what is left for this side to do when it has gone well, may raise CommandError.

        Raises CommandError when it fails, is cancelled, or importd goes away.
        """
        begun = time.monotonic()
        with Interruption() as interruption:
            number, self._path = self._begin(calls, doing)
            self._report.what["id"] = number
            try:
                self._report.started()
                result = self._wait(interruption)
                error = self._explain(result, doing)
            except CommandError as lost:
                result, error = "lost", lost
            except BrokenPipeError as unread:
                # What could not be written must not be tried again at the exit.
                os.dup2(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), self._report.stream)
                self._ask_to_cancel()
                raise CommandError(f"Cancelled {doing}: whoever read of its progress has gone.") from unread
            except BaseException:
                self._ask_to_cancel()
                raise
            if error is None:
                try:
                    finish()
                except CommandError as unfinished:
                    result, error = "failed", unfinished
            seconds = time.monotonic() - begun
            took = f"{seconds:.1f}s" if seconds < 10 else span(seconds)
            sentence = error.message if error else f"{done} ({self._amount()}in {took})."
            self._report.ended(result, sentence, seconds)
        if error:
            raise error

    def _amount(self) -> str:
        meter = self._report.meter
        return f"{size(meter.total or meter.done)} " if meter.total or meter.done else ""

    def _begin(self, calls: list[Call], doing: str) -> tuple[int, str]:
        """(id, object path) of the transfer."""
        for call in calls:
            try:
                number, path = self._bus.call(
                    call.target, call.member, call.signature, *call.arguments, reply="uo",
                    timeout=ASKING_TIMEOUT,
                )  # fmt: skip
                return number, path
            except BusError as error:
                if not error.not_there or call is calls[-1]:
                    raise transfer_reasons.refused(
                        self._context, error, f"Could not begin {doing}"
                    ) from error
        raise AssertionError("no call")

    def _wait(self, interruption: Interruption) -> str:
        """The result. Raises CommandError when it will never be known."""
        poll = select.poll()
        poll.register(self._bus.fileno(), select.POLLIN)
        poll.register(interruption.fd, select.POLLIN)
        attempts, deadline = 0, 0.0
        patience = _IMPATIENCE if self._context.verb.name.startswith("export-") else _PATIENCE
        while True:
            while self._bus.process(0):
                pass
            if (result := self._take_signals()) is not None:
                return result
            self._report.moved()
            if interruption.noted and time.monotonic() >= deadline:
                if attempts == _ATTEMPTS:
                    raise CommandError(
                        "The transfer does not end, although it was cancelled.",
                        "'machinectl list-transfers' shows it.",
                    )
                attempts, deadline = attempts + 1, time.monotonic() + patience
                if attempts == 1:
                    poll.unregister(interruption.fd)
                self._ask_to_cancel()
                continue
            waits = [w for w in (self._report.tick, patience if attempts else None) if w is not None]
            poll.poll(min(waits) * 1000 if waits else None)

    def _take_signals(self) -> str | None:
        """Pass on what has come; the result where it is over."""
        for body in self._bodies(self._logs.queue, TRANSFERS):
            if len(body) >= 2 and isinstance(body[0], int) and isinstance(body[1], str):
                self._line(body[0] & 7, body[1])
        for body in self._bodies(self._progress.queue, TRANSFERS):
            if body and isinstance(body[0], float):
                self._report.meter.told(body[0])
        if moved := self._look():
            self._report.meter.moved(time.monotonic(), moved)
        for body in self._bodies(self._removed.queue, IMPORT1):
            if len(body) >= 3 and body[1] == self._path:
                return str(body[2])
        while self._owner.queue:
            change = self._owner.queue.popleft()
            if self._bus.believes(change, BUS_DRIVER) and change.body[1] == self._bus.owners.get(NAME):
                raise CommandError(
                    "The import service (systemd-importd) ended during the transfer: it is not done.",
                    "'systemctl status systemd-importd.service' tells why; then try again.",
                )
        return None

    def _bodies(self, queue: Any, target: Target) -> list[tuple[Any, ...]]:
        """What importd has sent about us; all else is dropped."""
        bodies = []
        while queue:
            sent = queue.popleft()
            if self._bus.believes(sent, target) and sent.path in (self._path, IMPORT1.path):
                bodies.append(sent.body)
        return bodies

    def _line(self, priority: int, text: str) -> None:
        only_progress = self._report.meter.read(time.monotonic(), text)
        if only_progress:
            return
        self._lines = [*self._lines[1 - _KEPT :], (priority, text)]
        self._report.line(priority, text)

    def _ask_to_cancel(self) -> None:
        """Its own object is asked: polkit's answer for what began a download is good for that, too."""
        try:
            self._bus.call(TRANSFERS.at(self._path), "Cancel")
        except BusError as error:
            # It has ended by itself where the object has gone: the signal about that is on its way.
            if not error.not_there and not error.left:
                raise transfer_reasons.refused(
                    self._context, error, f"Could not cancel transfer {self._report.what['id']}, it goes on"
                ) from error

    def _explain(self, result: str, doing: str) -> CommandError | None:
        if result == "done":
            return None
        if result == "canceled":
            return CommandError(f"Cancelled {doing}.", "Nothing of it remains.")
        return transfer_reasons.failed(f"Failed {doing}", self._lines, str(self._report.what["local"]))
