# SPDX-License-Identifier: LGPL-2.1-or-later
"""How fast thousands of images are listed: the command, and the answer it waits for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median
from typing import Final

from tests.bench.rows import OURS, STOCK, Plan, Row, in_turns, ms
from tests.bench.side import Bench

COUNT: Final = 2000
GOAL: Final = 10.0
# Every tenth is a disk image.
_MAKE: Final = """
import os
os.chdir("/var/lib/machines")
for number in range({count}):
    name = f"bench-image-{{number:04}}"
    if number % 10 == 9:
        with open(name + ".raw", "wb") as file:
            file.truncate(1 << 20)
    else:
        os.mkdir(name)
"""
_REMOVE: Final = "rm -rf /var/lib/machines/bench-image-*"


def list_images(bench: Bench, plan: Plan) -> Iterator[Row]:
    """`machinectl list-images`: each client with its own daemon, stock's with ours, and the call alone."""
    bench.host.run(["python3", "-c", _MAKE.format(count=COUNT)])
    argv = ["--no-pager", "--no-legend", "list-images"]
    mixed: list[float] = []
    calls: dict[str, list[float]] = {"stock": [], "ours": []}

    def measure(daemon: str) -> Sequence[float]:
        if daemon == "ours":
            mixed.extend(bench.inside("run", argv=[STOCK, *argv], count=plan.repeat, expect=COUNT))
        calls[daemon] += bench.inside("ask", member="ListImages", count=4 * plan.repeat)
        client = STOCK if daemon == "stock" else OURS
        return list(bench.inside("run", argv=[client, *argv], count=plan.repeat, expect=COUNT))

    stock, ours = in_turns(bench, plan.rounds, measure)
    bench.host.run(["sh", "-c", _REMOVE])
    for what, one, other, goal in (
        (f"ListImages, {COUNT} images", calls["stock"], calls["ours"], GOAL),
        (f"machinectl list-images, {COUNT} images", stock, ours, GOAL),
        (f"stock machinectl list-images, {COUNT} images, daemon", stock, mixed, 0.0),
    ):
        yield Row(what, ms(one), ms(other), median(one) / median(other), goal, at_least=True)
