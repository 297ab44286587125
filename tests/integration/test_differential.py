# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whatever is asked of it, machined answers as the stock daemon of the same host does."""

from __future__ import annotations

import glob
from typing import Final

import pytest

from tests.differential.compare import compare
from tests.differential.host import POLKIT, both

pytestmark = [pytest.mark.integration, pytest.mark.slow]

LEAST_CASES: Final = 4000


def test_answers_are_those_of_stock(suite: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Stock has races of its own: what differs has to do so twice, and what did so once is printed."""
    comparison = compare(suite, *both(suite))
    lines, differing = [comparison.summary()], comparison.unexplained
    if differing:
        cases = [] if any(each.user == POLKIT for each in differing) else [each.case for each in differing]
        second = compare(suite, *both(suite, *map(glob.escape, cases)))
        again = {(other.user, other.case) for other in second.unexplained}
        once = [each for each in differing if (each.user, each.case) not in again]
        differing = [each for each in differing if (each.user, each.case) in again]
        lines += ["differed once, and not when asked again:", *(each.text() for each in once)]
    with capsys.disabled():  # the counts are worth a line of every run
        print("", *lines, sep="\n")
    # A script that came to nothing would find no difference either.
    assert comparison.cases > LEAST_CASES
    assert not differing, "\n".join(each.text() for each in differing)
