# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is shown while a transfer goes on: a bar on a terminal, lines in a log, JSON for programs.

All but the JSON goes to standard error: an export may be going to standard output.
"""

from __future__ import annotations

import os
import sys
import time

from .names import clean
from .output import message, to_json
from .transfer_progress import Meter, bar

TICK = 0.5  # seconds between two looks at a terminal's bar; nothing else is drawn without a reason
NOTICE = 5  # syslog(3): what importd says above that is a part of what went wrong, or only for information
_REDRAW = 0.1  # seconds at least between two bars
_LOG_STEP = 10  # percent between two lines of a log
_LINES = 100  # of importd's lines are shown at most: a tar with many odd files has one for each
# What importd says about every transfer, and which we say ourselves.
_USUAL = ("Exiting.", "Transfer aborted.", "Operation completed successfully.", "Pulling '", "Importing '",
          "Exporting '", "Operating on image directory ", "Created new local image ")  # fmt: skip


class Report:
    """Says nothing, for --quiet. The others are made of it."""

    tick: float | None = None
    """Seconds after which `moved` is to be called even when nothing has happened."""
    stream = 2
    """The descriptor it writes to."""

    def __init__(self, meter: Meter, what: dict[str, object], doing: str) -> None:
        """`what`: the transfer for programs (id, type, local, remote, …); `doing`: for people."""
        self.meter = meter
        self.what = what
        self.doing = doing

    def started(self) -> None:
        """importd has taken it; `what` has its id."""

    def line(self, priority: int, text: str) -> None:
        """A line of importd's log."""

    def moved(self) -> None:
        """The meter may show something else than before."""

    def ended(self, result: str, sentence: str, seconds: float) -> None:
        """ "done", "canceled", "failed" or "lost"; `sentence`: what has been done, or went wrong."""


class Log(Report):
    """Lines: the beginning, the end, what importd says, and each tenth of the way."""

    def __init__(self, meter: Meter, what: dict[str, object], doing: str) -> None:
        super().__init__(meter, what, doing)
        self._lines = 0
        self._shown = 0

    def started(self) -> None:
        self.say(f"Transfer {self.what['id']}: {self.doing} (Ctrl-C cancels it)")

    def line(self, priority: int, text: str) -> None:
        if text.startswith(_USUAL):
            return
        self._lines += 1
        if self._lines <= _LINES:
            self.say(text)
        elif self._lines == _LINES + 1:
            self.say("… and more: 'journalctl -u systemd-importd.service' has all of it.")

    def moved(self) -> None:
        percent = self.meter.percent() or 0
        if percent >= self._shown + _LOG_STEP:
            self._shown = percent - percent % _LOG_STEP
            self.say(f"{percent}%: {self.meter.words(time.monotonic())}")

    def ended(self, result: str, sentence: str, seconds: float) -> None:
        if result == "done":
            self.say(sentence)

    def say(self, text: str) -> None:
        message(text)


class Terminal(Log):
    """The same lines, over a bar that is drawn anew."""

    tick = TICK

    def __init__(self, meter: Meter, what: dict[str, object], doing: str) -> None:
        super().__init__(meter, what, doing)
        self._drawn = 0.0
        self._there = False

    def moved(self) -> None:
        now = time.monotonic()
        if now - self._drawn >= _REDRAW:
            self._draw(now)

    def ended(self, result: str, sentence: str, seconds: float) -> None:
        self._clear()
        super().ended(result, sentence, seconds)

    def say(self, text: str) -> None:
        self._clear()
        message(text)

    def _draw(self, now: float) -> None:
        # The last column stays free, or some terminals begin a line.
        text = bar(self.meter, str(self.what["local"] or self.what["remote"]), _columns() - 1, now)
        sys.stderr.write(f"\r{text}\x1b[K")
        sys.stderr.flush()
        self._drawn, self._there = now, True

    def _clear(self) -> None:
        if self._there:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            self._there = False


class Events(Report):
    """JSON lines: an object for each event, 101 of them about progress at most."""

    stream = 1

    def __init__(self, meter: Meter, what: dict[str, object], doing: str) -> None:
        super().__init__(meter, what, doing)
        self._shown = -1
        self._lines = 0

    def started(self) -> None:
        self._event("started", **self.what)

    def line(self, priority: int, text: str) -> None:
        self._lines += 1
        if self._lines <= _LINES:
            self._event("log", priority=priority, message=clean(text))

    def moved(self) -> None:
        percent = self.meter.percent()
        if percent is None or percent <= self._shown:
            return
        self._shown = percent
        now = time.monotonic()
        left = self.meter.left(now)
        self._event(
            "progress", percent=percent, bytes=self.meter.done or None, total=self.meter.total or None,
            rate=int(self.meter.rate(now)) or None, left=None if left is None else round(left, 1),
        )  # fmt: skip

    def ended(self, result: str, sentence: str, seconds: float) -> None:
        outcome = {"result": result, "error": None if result == "done" else sentence}
        self._event("ended", **self.what, **outcome, seconds=round(seconds, 3))

    def _event(self, name: str, **fields: object) -> None:
        print(to_json({"event": name, **fields}, pretty=False), flush=True)


def _columns() -> int:
    try:
        return os.get_terminal_size(2).columns or 80
    except OSError:
        return 80


def choose(*, quiet: bool, json: bool) -> type[Report]:
    """The kind of report for what the options say and standard error is."""
    if json:
        return Events
    if quiet:
        return Report
    return Terminal if os.isatty(2) and os.environ.get("TERM", "dumb") != "dumb" else Log
