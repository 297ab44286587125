# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whatever is asked of it, machined answers as the stock daemon of the same host does."""

from __future__ import annotations

from typing import Final

import pytest

from tests.differential.compare import compare
from tests.differential.host import both

pytestmark = [pytest.mark.integration, pytest.mark.slow]

LEAST_CASES: Final = 4000


def test_answers_are_those_of_stock(suite: str, capsys: pytest.CaptureFixture[str]) -> None:
    comparison = compare(suite, *both(suite))
    with capsys.disabled():  # the counts are worth a line of every run
        print(f"\n{comparison.summary()}")
    # A script that came to nothing would find no difference either.
    assert comparison.cases > LEAST_CASES
    texts = [difference.text() for difference in comparison.unexplained]
    assert not texts, "\n".join([comparison.summary(), *texts])
