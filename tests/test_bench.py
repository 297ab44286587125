# SPDX-License-Identifier: LGPL-2.1-or-later
"""The benchmark runs and its table has the right shape. How long things take is not looked at here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench.__main__ import HEAD, _cells, _print
from tests.bench.cases import CASES, list_goal
from tests.bench.rows import Row
from tests.host.probe import why_not

ROOT = Path(__file__).resolve().parent.parent
TINY = (
    "--counts 2 --rounds 1 --repeat 1 --calls 2 --creates 1 --starts 1 --shells 1 --clones 1 --clients 2 "
    "--seconds 0.5 --rests 1"
)
ROWS = (
    "StartMachine / StartUnit",
    "stock machinectl shell X /bin/true",
    "RegisterMachine",
    "CreateMachine",
    "machinectl list, 2 machines",
    "stock machinectl list, 2 machines, daemon",
    "client's cold run of list / python3 -c pass",
    "first list after a restart, 2 machines",
    "resident memory with 2 machines",
    "CPU in 0.5 s of rest",
    "2 clients pipeline ListMachines: most / least served",
    "ListImages, 2000 images",
    "machinectl list-images, 2000 images",
    "stock machinectl list-images, 2000 images, daemon",
    "ephemeral start of a guest's tree",
    "… / a plain start",
)
# Packing a system, and copying one again and again, takes most of a minute each.
LEFT_OUT = ("import", "clone")


def test_goals() -> None:
    assert [list_goal(count, modern=False) for count in (3, 300, 1000)] == [0, 12, 30]
    assert [list_goal(count, modern=True) for count in (3, 300, 1000)] == [0, 8, 20]


@pytest.mark.parametrize(
    ("ratio", "at_least", "met"),
    [(2, True, "yes"), (0.9, True, "NO"), (0.9, False, "yes"), (2, False, "NO")],
)
def test_rows(ratio: float, at_least: bool, met: str) -> None:
    cells = _cells(Row("x", "1 ms", "2 ms", ratio, 1.0, at_least))
    assert cells == ("x", "1 ms", "2 ms", f"{ratio:.2f}×", "≥ 1" if at_least else "≤ 1", met)


def test_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [Row("long name", "1 ms", "2 ms", 2.0, 1.1), Row("x", "", "3 MB", 3.0, 45, unit=" MB")]
    _print(rows, as_json=False)
    head, *lines = capsys.readouterr().out.splitlines()
    assert tuple(head.split()) == HEAD
    assert [line.split()[-1] for line in lines] == ["NO", "yes"]


@pytest.mark.integration
@pytest.mark.slow
def test_a_small_run() -> None:
    if (reason := why_not()) is not None:
        pytest.skip(f"no test host on this machine: {reason}")
    cases = [f"--case={case}" for case in CASES if case not in LEFT_OUT]
    command = [sys.executable, "-m", "tests.bench", "--json", *TINY.split(), *cases]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["what"] for row in rows] == list(ROWS)
    assert {"what", "stock", "ours", "ratio", "goal", "at_least", "unit", "met"} == set(rows[0])
    assert len(CASES) == 10
