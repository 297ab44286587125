# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whatever is asked of it, machined answers as the stock daemon of the same host does."""

from __future__ import annotations

from typing import Final

import pytest

from tests.differential.accepted import is_open
from tests.differential.compare import compare
from tests.differential.host import both

pytestmark = [pytest.mark.integration, pytest.mark.slow]

# Of each suite's script what has been gone through.
CASES: Final = {"trixie": ("*", 4000), "sid": ("bus/*", 500)}


def test_answers_are_those_of_stock(suite: str) -> None:
    pattern, least = CASES[suite]
    comparison = compare(suite, *both(suite, pattern))
    new = [difference for difference in comparison.unexplained if not is_open(difference.case)]
    print(comparison.summary())
    # A script that came to nothing would find no difference either.
    assert comparison.cases > least
    assert not new, "\n".join([comparison.summary(), *(difference.text() for difference in new)])
