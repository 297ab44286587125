# SPDX-License-Identifier: LGPL-2.1-or-later
"""`python3 -m tests.bench`: boots a host, measures stock and ours in it side by side, prints the table.

Exit status: 0; 1 when a goal is not met (with --strict) or something failed; 77 where no host boots.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterator

from tests.bench.cases import CASES
from tests.bench.rows import Plan, Row
from tests.bench.side import Bench
from tests.host import recipe
from tests.host.cache import TestHostError
from tests.host.probe import why_not

HEAD = ("what", "stock", "ours", "ratio", "goal", "met")


def main() -> int:
    arguments = _parser().parse_args()
    if (reason := why_not()) is not None:
        print(f"tests.bench: no test host on this machine: {reason}", file=sys.stderr)
        return 77
    plan = Plan(
        **{field.name: getattr(arguments, field.name) for field in dataclasses.fields(Plan)},
    )
    rows: list[Row] = []
    try:
        for row in _measure(arguments.suite, arguments.case or list(CASES), plan):
            rows.append(row)
            print(f"{row.what}: {_cells(row)[3]}", file=sys.stderr)
    except (TestHostError, OSError, subprocess.SubprocessError) as error:
        print(f"tests.bench: {error}", file=sys.stderr)
        return 1
    finally:
        _print(rows, as_json=arguments.json)
    return int(arguments.strict and not all(row.met for row in rows))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python3 -m tests.bench", description="machined beside stock.")
    parser.add_argument("--suite", choices=recipe.SUITES, default=recipe.SUITES[0])
    parser.add_argument("--case", action="append", choices=CASES, help="only this one (may be repeated)")
    parser.add_argument("--json", action="store_true", help="lines of JSON instead of a table")
    parser.add_argument("--strict", action="store_true", help="fail when a goal is not met")
    usual = Plan()
    parser.add_argument(
        "--counts", default=usual.counts, metavar="N,N,…",
        type=lambda text: tuple(map(int, text.split(","))), help="how many machines run (3,300,1000)",
    )  # fmt: skip
    for field in dataclasses.fields(Plan):
        if field.name != "counts":
            default = getattr(usual, field.name)
            parser.add_argument(f"--{field.name}", type=type(default), default=default, help=f"({default})")
    return parser


def _measure(suite: str, cases: list[str], plan: Plan) -> Iterator[Row]:
    with Bench(suite) as bench:
        for case in cases:
            yield from CASES[case](bench, plan)


def _cells(row: Row) -> tuple[str, ...]:
    ratio = f"{row.ratio:.2f}{row.unit or '×'}"
    if row.at_least and not row.goal:
        return row.what, row.stock, row.ours, ratio, "", ""
    sign = "≥" if row.at_least else "≤"
    return row.what, row.stock, row.ours, ratio, f"{sign} {row.goal:g}", "yes" if row.met else "NO"


def _print(rows: list[Row], *, as_json: bool) -> None:
    if as_json:
        for row in rows:
            print(json.dumps(dataclasses.asdict(row) | {"met": row.met}))
        return
    cells = [HEAD, *map(_cells, rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(HEAD))]
    for line in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


if __name__ == "__main__":
    sys.exit(main())
