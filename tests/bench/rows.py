# SPDX-License-Identifier: LGPL-2.1-or-later
"""Lines of the table, and how what is in them is measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

from tests.bench.side import Bench

STOCK: Final = "/usr/bin/machinectl"
OURS: Final = "/usr/local/bin/machinectl"


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. `ratio` is stock/ours where `at_least`, else ours/stock (or a plain value).

    A goal of 0 with `at_least` is none.
    """

    what: str
    stock: str
    ours: str
    ratio: float
    goal: float
    at_least: bool = False
    unit: str = ""

    @property
    def met(self) -> bool:
        return self.ratio >= self.goal if self.at_least else self.ratio <= self.goal


@dataclass(frozen=True, slots=True)
class Plan:
    """How much of everything: `rounds` times each daemon is started, and asked `repeat` times."""

    counts: Sequence[int] = (3, 300, 1000)
    rounds: int = 3
    repeat: int = 5
    calls: int = 500
    creates: int = 20
    starts: int = 6
    shells: int = 10
    clones: int = 3
    clients: int = 64
    seconds: float = 5.0
    rests: int = 20


def ms(times: Sequence[float]) -> str:
    """The median, and the range around it: the machine may be noisy."""
    return f"{median(times) * 1e3:.2f} ms ({min(times) * 1e3:.1f}–{max(times) * 1e3:.1f})"


def in_turns(
    bench: Bench, rounds: int, measure: Callable[[str], Sequence[float]]
) -> tuple[list[float], list[float]]:
    """A measurement with each daemon, turn by turn, so that a slow minute of the machine hits both."""
    found: dict[str, list[float]] = {"stock": [], "ours": []}
    for _ in range(rounds):
        for daemon in ("stock", "ours"):
            bench.use(daemon)
            found[daemon] += measure(daemon)
    return found["stock"], found["ours"]
