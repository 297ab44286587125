# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where two runs of the script differ, and which of the differences nobody meant."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.differential.accepted import reason_for
from tests.differential.host import Answers


@dataclass(frozen=True, slots=True)
class Difference:
    """One case of one user, with all answers in it."""

    user: str
    case: str
    stock: Any
    ours: Any
    reason: str

    def text(self, width: int = 1500) -> str:
        """The answers that are not the same, as lines of JSON with what is around them."""
        lines = [f"{self.case} ({self.user})"]
        if self.reason:
            lines.append(f"    accepted: {self.reason}")
        found = difflib.unified_diff(
            _lines(self.stock), _lines(self.ours), "stock", "ours", lineterm="", n=0
        )
        for line in list(found)[2:]:
            if not line.startswith("@@"):
                lines.append(f"    {line if len(line) <= width else line[:width] + '…'}")
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Comparison:
    """All differences of a suite, and how many answers were compared."""

    suite: str
    cases: int
    accepted: list[Difference]
    unexplained: list[Difference]

    def summary(self) -> str:
        return (
            f"{self.suite}: {self.cases} cases, {len(self.unexplained)} differ, "
            f"{len(self.accepted)} more as accepted"
        )


def compare(suite: str, stock: Answers, ours: Answers) -> Comparison:
    """Case by case."""
    accepted: list[Difference] = []
    unexplained: list[Difference] = []
    cases = 0
    for user, case, one, other in _pairs(stock, ours):
        cases += 1
        if one != other:
            reason = reason_for(suite, user, case, one, other)
            difference = Difference(user, case, one, other, reason)
            (accepted if reason else unexplained).append(difference)
    return Comparison(suite, cases, accepted, unexplained)


def _pairs(stock: Answers, ours: Answers) -> Iterator[tuple[str, str, Any, Any]]:
    for user in stock:
        assert stock[user].keys() == ours[user].keys(), f"not the same script for {user}"
        for case, one in stock[user].items():
            yield user, case, one, ours[user][case]


def _lines(answers: Any) -> list[str]:
    """One line for each answer, or for each entry of one that is a list or a text."""
    lines: list[str] = []
    for answer in answers if isinstance(answers, list) else [answers]:
        if isinstance(answer, dict) and isinstance(answer.get("out"), str):
            lines.append(f"status {answer.get('status')}")
            lines += [f"out {line}" for line in answer["out"].splitlines()]
            lines += [f"err {line}" for line in answer["err"].splitlines()]
        elif isinstance(answer, list):
            lines += [json.dumps(entry, ensure_ascii=False) for entry in answer]
        else:
            lines.append(json.dumps(answer, ensure_ascii=False))
    return lines
