# SPDX-License-Identifier: LGPL-2.1-or-later
"""The differences from stock that are meant, each with its reason."""

from __future__ import annotations

import fnmatch
import json
from dataclasses import dataclass
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class Accepted:
    """Cases (a pattern), and why the answers may differ in them; the rest narrows it.

    `stock_has` is in stock's answers as JSON.
    """

    case: str
    reason: str
    suites: tuple[str, ...] = ()
    users: tuple[str, ...] = ()
    stock_has: str = ""


ACCEPTED: Final = (
    Accepted("program/busctl introspect", "it lists our own interface as well"),
    Accepted("bus/introspect/org", "the jobs of our own interface are objects below /org/machined1"),
    Accepted(
        "lifecycle/scope/unknown",
        "when PID 1 refuses one property, stock of 257 makes the scope without all of the caller's",
        suites=("trixie",),
    ),
    Accepted(
        "lifecycle/scope/not of scopes",
        "when PID 1 refuses one property, stock of 257 makes the scope without all of the caller's",
        suites=("trixie",),
    ),
    Accepted(
        "lifecycle/ex/*",
        "a machine whose registration failed is there in stock until it has time to collect it",
        suites=("sid",),
        stock_has='["d-one", "", ""',
    ),
    Accepted("lifecycle/scope/several", "PID 1 has the units of After= in the order of a hash table"),
    Accepted("varlink/oversize", "a message may have 1 MiB: what it takes in memory is many times that"),
    Accepted("lifecycle/register/long *", "what a caller can make the daemon keep is bounded"),
)


def reason_for(suite: str, user: str, case: str, stock: Any) -> str:
    """Why this difference is meant, or nothing."""
    for row in ACCEPTED:
        if (
            fnmatch.fnmatchcase(case, row.case)
            and (not row.suites or suite in row.suites)
            and (not row.users or user in row.users)
            and row.stock_has in json.dumps(stock)
        ):
            return row.reason
    return ""
