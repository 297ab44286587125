# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the manager finds about settings, as sentences and records."""

from __future__ import annotations

from collections.abc import Sequence

from .context import Context
from .errors import BusError, CommandError

Finding = tuple[str, str, str]
"""severity ("error", "warning"), origin ("file:line"), text"""


def sentence(finding: Finding) -> str:
    """One line for people."""
    severity, origin, text = finding
    return (f"{origin}: " if origin else "") + f"{severity}: {text}"


def finding_record(finding: Finding) -> dict[str, object]:
    severity, origin, text = finding
    return {"severity": severity, "origin": origin or None, "text": text}


def has_errors(findings: Sequence[Finding]) -> bool:
    return any(severity == "error" for severity, _, _ in findings)


def failure(context: Context, error: BusError, what: str) -> CommandError:
    """For what systemd's own manager cannot do at all, too."""
    if error.not_there:
        return CommandError(
            f"{what}: systemd-machined cannot do that, it needs machined.",
            "'systemctl status systemd-machined.service' shows which one runs.",
        )
    return context.failure(error, what)
