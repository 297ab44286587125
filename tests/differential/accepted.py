# SPDX-License-Identifier: LGPL-2.1-or-later
"""The differences from stock that are meant, each with its reason."""

from __future__ import annotations

import fnmatch
import json
import re
from dataclasses import dataclass
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class Accepted:
    """Cases (a pattern), and why the answers may differ in them; the rest narrows it.

    `stock_has` is in stock's answers as JSON; without what matches `but_for` in both there is no difference.
    """

    case: str
    reason: str
    suites: tuple[str, ...] = ()
    users: tuple[str, ...] = ()
    stock_has: str = ""
    but_for: str = ""

    def explains(self, suite: str, user: str, case: str, stock: str, ours: str) -> bool:
        """Whether this is the difference that was meant, from the answers as JSON."""
        return (
            fnmatch.fnmatchcase(case, self.case)
            and (not self.suites or suite in self.suites)
            and (not self.users or user in self.users)
            and self.stock_has in stock
            and (not self.but_for or re.sub(self.but_for, "", stock) == re.sub(self.but_for, "", ours))
        )


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
    *(
        Accepted(
            case,
            "a copy of a file has its holes, where stock fills them",
            but_for=r"(?<=1700000000000000, )(1048576|0)(?=\])|(?<=\"usage\", |lusive\", )(1048576|0)(?=\])",
        )
        for case in ("image/life/d-raw", "image/clone read-only", "varlink/images/life")
    ),
    Accepted(
        "varlink/Register/empty *",
        "an empty text is kept as none",
        but_for=r"(, )?\"(SERVICE|SSH_ADDRESS)=\"",
    ),
    Accepted(
        "files/bind through a dangling link",
        "directories are made where the caller says, not where the guest has a link point to",
        suites=("sid",),
        stock_has='["reply"',
    ),
    Accepted(
        "lifecycle/a container of systemd-nspawn",
        "a daemon that starts has to know which part of the unit is the machine's; stock forgets it",
        suites=("sid",),
        but_for=r"\"SUBGROUP=payload\", ",
    ),
    Accepted(
        "program/sockets/",
        "a unit that is the machine's alone leads to it, or 'ps -o machine' would have nothing to show",
        suites=("sid",),
        but_for=r"/run/systemd/machines/unit:systemd-nspawn@\w+\.service l 777 0 0 \w+\\n",
    ),
    Accepted("bus/get/host/TimestampMonotonic", "stock computes it, and it comes out as 0 or 1 µs"),
    Accepted("varlink/service/environment", "it is that of another program", suites=("sid",)),
    Accepted(
        "lifecycle/register, the leader stays as a zombie",
        "a leader that is over is gone, whether somebody has waited for it or not",
        suites=("trixie",),
        but_for=r"\"org.freedesktop.DBus.Error.(FileNotFound\", \[\"No such file or directory|"
        r"UnixProcessIdUnknown\", \[\"No such process)\"\]",
    ),
    Accepted(
        "image/clone the host",
        "stock makes the copy too, and then fails over the name of its settings file",
        suites=("sid",),
        users=("root",),
        stock_has="BadAddress",
    ),
)


def reason_for(suite: str, user: str, case: str, stock: Any, ours: Any) -> str:
    """Why this difference is meant, or nothing."""
    texts = json.dumps(stock), json.dumps(ours)
    return next((row.reason for row in ACCEPTED if row.explains(suite, user, case, *texts)), "")
