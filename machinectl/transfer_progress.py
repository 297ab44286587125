# SPDX-License-Identifier: LGPL-2.1-or-later
"""How far a transfer is: from what systemd-importd tells to a rate, the time that is left, and a bar.

importd tells a fraction of the whole work, in steps of a percent, and lines meant for a log; in a download's
are its size and how much of it has come. Times are in seconds, of a clock that never goes back.
"""

from __future__ import annotations

import re
from collections import deque

from .names import clean
from .output import width
from .timefmt import size

_WINDOW = 10.0  # a rate is that of the last seconds
_SIZE = re.compile(r"Downloading ([0-9]+(?:\.[0-9]+)?)([BKMGTPE]) for (.*)\.")
_PART = re.compile(r"Got ([0-9]{1,3})% of (.*?)\.(?: .* left at .*)?")
_STEP = re.compile(r"(?:Got|Imported|Exported|Wrote) [0-9]{1,3}%.*")
_UNITS = {letter: 1024**power for power, letter in enumerate("BKMGTPE")}
_LEAST = 0.02  # of a transfer has to be done before its end can be guessed


class Meter:
    """What is known of one transfer. `fraction` is None until something is."""

    def __init__(self, started: float, *, total: int = 0, url: str = "") -> None:
        """`total`: bytes, where they are known; `url`: what is downloaded, whose size importd tells."""
        self.started = started
        self.total = total
        self.done = 0
        self._url = url
        self._fraction: float | None = None
        self._samples: deque[tuple[float, int]] = deque([(started, 0)])

    def restart(self, now: float) -> None:
        """It begins only now."""
        self.started = now
        self._samples = deque([(now, 0)])

    @property
    def fraction(self) -> float | None:
        """0 to 1: importd's word, or that of the bytes where it has said nothing."""
        if self._fraction is not None:
            return self._fraction
        return min(1.0, self.done / self.total) if self.total and self.done else None

    def told(self, fraction: float) -> None:
        """importd's own measure, which is negative where it has none."""
        if 0 <= fraction <= 1:
            self._fraction = max(fraction, self._fraction or 0.0)

    def moved(self, now: float, done: int) -> None:
        """So many bytes by now."""
        if done == self.done:
            return
        self.done = done
        self._samples.append((now, done))
        while len(self._samples) > 2 and self._samples[1][0] <= now - _WINDOW:
            self._samples.popleft()

    def read(self, now: float, line: str) -> bool:
        """Learn from a line of importd's log; is it about nothing but progress?"""
        if (match := _SIZE.fullmatch(line)) is not None and match[3] == self._url:
            self.total = int(float(match[1]) * _UNITS[match[2]])
        elif (match := _PART.fullmatch(line)) is not None and match[2] == self._url:
            self.moved(now, self.total * min(int(match[1]), 100) // 100)
        return _STEP.fullmatch(line) is not None

    def rate(self, now: float) -> float:
        """Bytes per second lately; 0 where nothing is known, or nothing moves any more."""
        (begin, first), (_, last) = self._samples[0], self._samples[-1]
        if now - self._samples[-1][0] > _WINDOW or now <= begin:
            return 0.0
        return (last - first) / (now - begin)

    def left(self, now: float) -> float | None:
        """Seconds until the end at this rate; None where there is nothing to tell it by."""
        if self.total and self.done:
            rate = self.rate(now)
            return (self.total - self.done) / rate if rate > 0 else None
        fraction = self.fraction
        if fraction is None or fraction < _LEAST or self.total:
            return None
        return (now - self.started) * (1 - fraction) / fraction

    def words(self, now: float) -> str:
        """ "12.3M of 40M, 3.2M/s, 9s left": what is known of it."""
        words = []
        if self.done:
            words.append(size(self.done) + (f" of {size(self.total)}" if self.total else ""))
        if rate := self.rate(now):
            words.append(f"{size(int(rate))}/s")
        if (left := self.left(now)) is not None:
            words.append(f"{span(left)} left")
        if not words:
            words.append(span(now - self.started))
        return ", ".join(words)

    def percent(self) -> int | None:
        fraction = self.fraction
        # Half a thousandth: importd's percents come as fractions in binary, 0.29 a little less than it is.
        return None if fraction is None else int(fraction * 100 + 0.0005)


def bar(meter: Meter, label: str, columns: int, now: float) -> str:
    """One line of at most `columns` columns: "web  45% [=====>     ] 12M of 40M, 3.2M/s, 9s left"."""
    label = clean(label)
    while width(label) > max(columns // 4, 8):
        label = label[:-1]
    percent = meter.percent()
    head = label if percent is None else f"{label} {percent:3d}%"
    words = meter.words(now)
    room = columns - width(head) - len(words) - 4
    if percent is None or room < 8:
        text = f"{head} {words}"
        return text if width(text) <= columns else head if width(head) <= columns else ""
    filled = room * percent // 100
    full = "=" * filled if filled == room else "=" * (filled - 1) + ">" * (filled > 0)
    return f"{head} [{full}{' ' * (room - filled)}] {words}"


def span(seconds: float) -> str:
    """ "9s", "3min 20s", "2h 5min": whole seconds, two units at most."""
    whole = int(seconds + 0.5)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}min {whole % 60}s"
    if whole < 48 * 3600:
        return f"{whole // 3600}h {whole % 3600 // 60}min"
    return f"{min(whole // 86400, 9999)} days"
