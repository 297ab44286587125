# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is measured, and how fast it has to be."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from statistics import median
from typing import Final

from tests.bench.clone_cases import clones, ephemeral, imports
from tests.bench.image_cases import list_images
from tests.bench.rows import OURS, STOCK, Plan, Row, in_turns, ms
from tests.bench.side import GUEST, Bench

SHELL: Final = (STOCK, "--quiet", "shell", GUEST, "/bin/true")


def _faster(what: str, stock: Sequence[float], ours: Sequence[float], goal: float) -> Row:
    return Row(what, ms(stock), ms(ours), median(stock) / median(ours), goal, at_least=True)


def _within(what: str, stock: Sequence[float], ours: Sequence[float], goal: float) -> Row:
    return Row(what, ms(stock), ms(ours), median(ours) / median(stock), goal)


def list_goal(count: int, modern: bool) -> float:
    """How many times faster `machinectl list` has to be with so many machines."""
    if count >= 1000:
        return 20 if modern else 30
    return (8 if modern else 12) if count >= 300 else 0


def listing(bench: Bench, plan: Plan) -> Iterator[Row]:
    """`machinectl list`: both clients, each with its own daemon, and the stock client with ours."""
    for count in sorted(plan.counts):
        bench.use("ours", settle=False)
        bench.inside("grow", count=count)
        # A client that asks a thousand times takes seconds: it is not asked that often.
        repeat = plan.repeat if count < 100 else max(2, plan.repeat // 2)
        mixed: list[float] = []

        def measure(
            daemon: str, count: int = count, repeat: int = repeat, mixed: list[float] = mixed
        ) -> list[float]:
            argv = ["--no-pager", "--no-legend", "list"]
            if daemon == "stock":
                return list(bench.inside("run", argv=[STOCK, *argv], count=repeat, expect=count))
            mixed += bench.inside("run", argv=[STOCK, *argv], count=repeat, expect=count)
            return list(bench.inside("run", argv=[OURS, *argv], count=plan.repeat, expect=count))

        stock, ours = in_turns(bench, plan.rounds, measure)
        yield _faster(f"machinectl list, {count} machines", stock, ours, list_goal(count, bench.modern))
        goal = 5.0 if count >= 300 else 0.0
        yield _faster(f"stock machinectl list, {count} machines, daemon", stock, mixed, goal)
        if count <= 3:
            python = bench.inside("run", argv=["python3", "-c", "pass"], count=4 * plan.repeat)
            cold = bench.inside(
                "run", argv=[OURS, "--no-pager", "--no-legend", "list"], count=4 * plan.repeat, expect=count
            )
            yield _within("client's cold run of list / python3 -c pass", python, cold, 4)


def first(bench: Bench, plan: Plan) -> Iterator[Row]:
    """The first listing of a daemon that has just been started, with as many machines as there are."""
    count = max(plan.counts)
    bench.inside("grow", count=count)
    found = {}
    for daemon, client in (("stock", STOCK), ("ours", OURS)):
        bench.use(daemon, settle=False)
        found[daemon] = bench.inside("run", argv=[client, "--no-pager", "list"], count=1, expect=count)
    yield _faster(f"first list after a restart, {count} machines", found["stock"], found["ours"], 0)


def registering(bench: Bench, plan: Plan) -> Iterator[Row]:
    """CreateMachine and RegisterMachine over one connection."""
    stock, ours = in_turns(bench, plan.rounds, lambda _: bench.inside("register", count=plan.calls))
    yield _within("RegisterMachine", stock, ours, 1.1)
    stock, ours = in_turns(bench, plan.rounds, lambda _: bench.inside("create", count=plan.creates))
    yield _within("CreateMachine", stock, ours, 1.1)


def starting(bench: Bench, plan: Plan) -> Iterator[Row]:
    """Call to job result of a start of the same guest: StartUnit of the stock template, our StartMachine."""
    bench.guest()
    bench.inside("start", name=GUEST, by="stock")  # private users: the first start changes the tree's owners
    bench.inside("stop", name=GUEST)

    def measure(daemon: str) -> list[float]:
        times = []
        for _ in range(plan.starts):
            times.append(bench.inside("start", name=GUEST, by=daemon))
            bench.inside("stop", name=GUEST)
        return times

    stock, ours = in_turns(bench, plan.rounds, measure)
    yield _within("StartMachine / StartUnit", stock, ours, 1.1)


def shells(bench: Bench, plan: Plan) -> Iterator[Row]:
    """`machinectl shell` by the stock client with each daemon."""
    bench.guest()
    bench.use("ours")
    bench.host.run([OURS, "start", GUEST], timeout=120)
    bench.host.run([OURS, "wait", GUEST], timeout=120)
    stock, ours = in_turns(
        bench, plan.rounds, lambda _: bench.inside("shell", argv=list(SHELL), count=plan.shells)
    )
    bench.inside("stop", name=GUEST)
    yield _within("stock machinectl shell X /bin/true", stock, ours, 1.3)


def load(bench: Bench, plan: Plan) -> Iterator[Row]:
    """The daemon at rest, and with many clients at once."""
    count = max(plan.counts)
    bench.use("ours", settle=False)
    bench.inside("grow", count=count)
    bench.inside("run", argv=[OURS, "--no-pager", "list"], count=1, expect=count)
    # A guest whose manager nobody can reach is asked for a minute or so, less and less often.
    for _ in range(plan.rests):
        memory, busy = bench.inside("idle", seconds=plan.seconds)
        if not busy:
            break
    yield Row(f"resident memory with {count} machines", "", f"{memory:.1f} MB", memory, 45, unit=" MB")
    yield Row(f"CPU in {plan.seconds:g} s of rest", "", f"{busy:.0f} ms", busy, 0, unit=" ms")
    result = bench.inside("flood", clients=plan.clients, seconds=plan.seconds, depth=8)
    served = result["served"]
    spread = max(served) / max(1, min(served))
    text = f"{sum(served) / plan.seconds:.0f}/s ({min(served)}–{max(served)})"
    if not result["kept"] or not min(served):
        text, spread = text + ", the name was lost" * (not result["kept"]), float("inf")
    yield Row(f"{plan.clients} clients pipeline ListMachines: most / least served", "", text, spread, 10)


CASES: Final[dict[str, Callable[[Bench, Plan], Iterator[Row]]]] = {
    "start": starting,
    "shell": shells,
    "register": registering,
    "list": listing,
    "first": first,
    "load": load,
    "list-images": list_images,
    "clone": clones,
    "ephemeral": ephemeral,
    "import": imports,
}
