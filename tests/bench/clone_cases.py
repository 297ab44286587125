# SPDX-License-Identifier: LGPL-2.1-or-later
"""How long it takes until there is another machine like this one: clones, throw-away starts, imports."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median
from typing import Final

from tests.bench.rows import OURS, STOCK, Plan, Row, in_turns, ms
from tests.bench.side import GUEST, Bench

GOAL: Final = 50.0
TREE: Final = f"/var/lib/machines/{GUEST}"
CLIENTS: Final = {"stock": STOCK, "ours": OURS}
# What somebody without machined does: systemd-nspawn copies the tree, and says when the container is there.
BY_HAND: Final = (
    "systemd-run", "--quiet", "--collect", "--unit=bench-run-{}", "--property=Type=notify",
    "--property=KillMode=mixed", "systemd-nspawn", "--quiet", "--keep-unit", "--boot", "--ephemeral", "-U",
    "--network-veth", "--machine=bench-run-{}", f"--directory={TREE}",
)  # fmt: skip
STARTS: Final = {"stock": list(BY_HAND), "ours": [OURS, "start", GUEST, "--as", "bench-run-{}"]}
UNITS: Final = {"stock": "bench-run-{}.service", "ours": "machine-bench-run-{}.service"}
# A guest that has begun to boot hears no signal to power off, so its init is killed; nspawn then tidies up.
KILL: Final = "{client} kill --kill-whom=leader --signal=KILL {machine} && systemctl stop {unit}"


def _faster(what: str, times: tuple[list[float], list[float]], goal: float) -> Row:
    stock, ours = times
    return Row(what, ms(stock), ms(ours), median(stock) / median(ours), goal, at_least=True)


def _not_slower(what: str, times: tuple[list[float], list[float]]) -> Row:
    stock, ours = times
    return Row(what, ms(stock), ms(ours), median(ours) / median(stock), 1.0)


def clones(bench: Bench, plan: Plan) -> Iterator[Row]:
    """Of a guest's tree on ext4: cheap ones, full copies, and what becomes of them."""
    bench.guest()

    def cheap(daemon: str) -> list[float]:
        return list(bench.inside("clone", source=GUEST, by=daemon, count=plan.clones))

    yield _faster("CloneImage of a guest's tree", in_turns(bench, plan.rounds, cheap), GOAL)

    def command(daemon: str) -> list[float]:
        return _commands(bench, daemon, ["clone", GUEST, "bench-c{}"], plan.clones)

    yield _faster("machinectl clone", in_turns(bench, plan.rounds, command), GOAL)

    def copy(daemon: str) -> list[float]:
        words = ["clone", *(["--copy"] if daemon == "ours" else []), GUEST, "bench-c{}"]
        return _commands(bench, daemon, words, plan.clones)

    yield _not_slower("machinectl clone, a full copy", in_turns(bench, plan.rounds, copy))


def _commands(bench: Bench, daemon: str, words: list[str], count: int) -> list[float]:
    client = CLIENTS[daemon]
    undo = [client, "remove", words[-1]]
    return list(bench.inside("each", argv=[client, "--quiet", *words], undo=undo, count=count))


def ephemeral(bench: Bench, plan: Plan) -> Iterator[Row]:
    """A machine that leaves nothing behind, until it runs; and how much of that is not systemd-nspawn's."""
    bench.guest()

    def start(daemon: str) -> list[float]:
        undo = _end(CLIENTS[daemon], "bench-run-{}", UNITS[daemon])
        return list(bench.inside("each", argv=STARTS[daemon], undo=undo, count=plan.clones))

    stock, ours = in_turns(bench, plan.rounds, start)
    yield _faster("ephemeral start of a guest's tree", (stock, ours), GOAL)
    bench.use("ours")
    plain = bench.inside(
        "each", argv=[OURS, "start", GUEST], undo=_end(OURS, GUEST, f"machine-{GUEST}.service"),
        count=plan.rounds * plan.clones,
    )  # fmt: skip
    yield Row("… / a plain start", ms(plain), ms(ours), median(ours) / median(plain), 1.5)


def _end(client: str, machine: str, unit: str) -> list[str]:
    return ["sh", "-c", KILL.format(client=client, machine=machine, unit=unit)]


def imports(bench: Bench, plan: Plan) -> Iterator[Row]:
    """Of a compressed guest's tree, by each client with its own daemon."""
    bench.guest()
    kinds = {"tar.xz": "xz -0 -T2"} | ({"tar.zst": "zstd -q -1"} if bench.modern else {})
    for kind, compress in kinds.items():
        file = f"/var/tmp/bench.{kind}"
        bench.host.run(["sh", "-ec", f"tar -C {TREE} -c . | {compress} >{file}"], timeout=300)

        def load(daemon: str, file: str = file) -> list[float]:
            return _commands(bench, daemon, ["import-tar", file, "bench-i{}"], plan.clones)

        yield _not_slower(f"machinectl import-tar, .{kind}", in_turns(bench, plan.rounds, load))
        bench.host.run(["rm", file])
