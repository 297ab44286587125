# SPDX-License-Identifier: LGPL-2.1-or-later
"""How tests are shared out among workers (pytest-xdist): all tests in the hosts of a suite are one worker's.

So one host of each kind is booted, and not again for each test. (The marks that pytest-xdist has for that do
nothing with pytest 9.2.) Of other tests those of a file stay together.
"""

from __future__ import annotations

from xdist.scheduler import LoadScopeScheduling

from tests.host import recipe


class BySuite(LoadScopeScheduling):  # type: ignore[misc]  # it ships no types
    """See above."""

    def _split_scope(self, nodeid: str) -> str:
        file, _, test = nodeid.partition("::")
        _, _, parameters = test.rstrip("]").partition("[")
        suites = [word for word in parameters.split("-") if word in recipe.SUITES]
        return suites[0] if suites else file
