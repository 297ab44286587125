# SPDX-License-Identifier: LGPL-2.1-or-later
"""The differences from stock that are meant, each with its reason."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class Accepted:
    """Cases (a pattern), and why the answers may differ in them; `suites` and `users` narrow it."""

    case: str
    reason: str
    suites: tuple[str, ...] = ()
    users: tuple[str, ...] = ()


ACCEPTED: Final = (
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
    Accepted("lifecycle/register/long *", "what a caller can make the daemon keep is bounded"),
)

# Not settled yet: each of them is to be mended, or to get a reason above. A test fails for any other.
OPEN: Final = (
    "bus/get all/hidden image/*",
    "bus/*/control",
    "files/CopyFromMachine/*",
    "files/bind",
    "files/copy/*",
    "image/clone read-only",
    "image/life/*",
    "image/properties/.d-hidden",
    "lifecycle/a container of systemd-nspawn",
    "lifecycle/register, the leader dies and the unit stays",
    "lifecycle/register with network",
    "lifecycle/register/*",
    "lifecycle/scope/*",
    "program/*",
    "varlink/*/odd/*",
    "varlink/Register/*",
    "varlink/images/*",
)


def is_open(case: str) -> bool:
    """Whether a difference in this case is known and not settled."""
    return any(fnmatch.fnmatchcase(case, pattern) for pattern in OPEN)


def reason_for(suite: str, user: str, case: str, stock: Any, ours: Any) -> str:
    """Why this difference is meant, or nothing."""
    for row in ACCEPTED:
        if (
            fnmatch.fnmatchcase(case, row.case)
            and (not row.suites or suite in row.suites)
            and (not row.users or user in row.users)
        ):
            return row.reason
    return ""
