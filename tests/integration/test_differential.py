# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whatever is asked of it, machined answers as the stock daemon of the same host does."""

from __future__ import annotations

from typing import Final

import pytest

from tests.differential.compare import compare
from tests.differential.host import both
from tests.differential.unsettled import is_open

pytestmark = [pytest.mark.integration, pytest.mark.slow]

LEAST_CASES: Final = 4000


def test_answers_are_those_of_stock(suite: str) -> None:
    comparison = compare(suite, *both(suite))
    new = [difference for difference in comparison.unexplained if not is_open(suite, difference.case)]
    print(comparison.summary())
    # A script that came to nothing would find no difference either.
    assert comparison.cases > LEAST_CASES
    assert not new, "\n".join([comparison.summary(), *(difference.text() for difference in new)])
