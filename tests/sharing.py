# SPDX-License-Identifier: LGPL-2.1-or-later
"""How tests are shared out among workers (pytest-xdist): all tests in the hosts of a suite are one worker's.

So one host of each kind is booted, and not again for each test. (The marks that pytest-xdist has for that do
nothing with pytest 9.2.) Of other tests those of a file stay together. What takes longest comes first:
virtual machines, then hosts; the quick rest fills what is left of either worker's time. What wants the
machine for itself (`*_alone.py`) is last, when it need not wait for long, nor others for it.
"""

from __future__ import annotations

import pytest
from xdist.scheduler import LoadScopeScheduling

from tests.host import recipe

MACHINES = "virtual machines"
ALONE = "alone"


def scope_of(nodeid: str) -> str:
    """What a test is run together with."""
    file, _, test = nodeid.partition("::")
    if file.endswith("_vm.py"):
        return MACHINES
    if file.endswith("_alone.py"):
        return ALONE
    _, _, parameters = test.rstrip("]").partition("[")
    suites = [word for word in parameters.split("-") if word in recipe.SUITES]
    return suites[0] if suites else file


def longest_first(items: list[pytest.Item]) -> None:
    """Put tests into the order in which workers are to have them; others stay as they are."""
    ranks = {scope: rank for rank, scope in enumerate((MACHINES, *recipe.SUITES))}
    rest = len(ranks)
    ranks[ALONE] = rest + 1
    items.sort(key=lambda item: ranks.get(scope_of(item.nodeid), rest))


class BySuite(LoadScopeScheduling):  # type: ignore[misc]  # it ships no types
    """See above."""

    def _split_scope(self, nodeid: str) -> str:
        return scope_of(nodeid)
