# SPDX-License-Identifier: LGPL-2.1-or-later
"""`python3 -m tests.differential SUITE`: run the script with both daemons and print what differs."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from tests.differential.compare import compare
from tests.differential.host import both
from tests.host import recipe
from tests.host.probe import why_not


def main() -> int:
    """The exit status: 0 without a difference nobody meant, 77 where no host can be booted."""
    parser = argparse.ArgumentParser(
        prog="python3 -m tests.differential", description="Stock and ours compared."
    )
    parser.add_argument("suite", choices=recipe.SUITES)
    parser.add_argument("--only", default="*", metavar="PATTERN", help="cases of this name, as in a shell")
    parser.add_argument("--accepted", action="store_true", help="print the accepted differences too")
    parser.add_argument("--save", type=Path, metavar="FILE", help="write all answers to a file, as JSON")
    arguments = parser.parse_args()
    if (reason := why_not()) is not None:
        print(f"tests.differential: no test host on this machine: {reason}", file=sys.stderr)
        return 77
    stock, ours = both(arguments.suite, arguments.only)
    if arguments.save:
        arguments.save.write_text(json.dumps({"stock": stock, "ours": ours}), encoding="utf-8")
    comparison = compare(arguments.suite, stock, ours)
    for difference in comparison.unexplained + (comparison.accepted if arguments.accepted else []):
        print(difference.text())
    print(comparison.summary())
    return 1 if comparison.unexplained else 0


if __name__ == "__main__":
    sys.exit(main())
