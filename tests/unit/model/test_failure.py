# SPDX-License-Identifier: LGPL-2.1-or-later
"""Why a unit failed, out of a journal that may not know whose line is whose."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from machined.model.failure import MAX_LENGTH, last_words

UNIT = "machine-web.service"

# What is asked for with a unit has one; what has none must be root's.
JOURNALCTL = """#!/bin/sh
case "$*" in
    *--sync*) exit ;;
    *_SYSTEMD_UNIT=machine-web.service*SYSLOG_IDENTIFIER=systemd-nspawn*) cat "{known}" ;;
    *SYSLOG_IDENTIFIER=systemd-nspawn*_UID=0*) cat "{all}" ;;
esac
"""

Journal = Callable[[list[dict[str, Any]], list[dict[str, Any]]], None]


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Journal:
    """A journalctl that has these records of the unit, and these of all that nspawn has said."""
    files = {"known": tmp_path / "known", "all": tmp_path / "all"}
    program = tmp_path / "journalctl"
    program.write_text(JOURNALCTL.format(**files), encoding="ascii")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    def write(known: list[dict[str, Any]], every: list[dict[str, Any]]) -> None:
        for name, records in (("known", known), ("all", every)):
            files[name].write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")

    return write


def of_unit(message: object, unit: str = UNIT) -> dict[str, Any]:
    return {"MESSAGE": message, "_PID": "1", "_SYSTEMD_UNIT": unit}


def lost(message: object, pid: str = "7") -> dict[str, Any]:
    return {"MESSAGE": message, "_PID": pid}


async def test_what_is_known_to_be_of_the_unit_comes_first(journal: Journal) -> None:
    journal([of_unit("Failed to clone /x: No such file.")], [lost("of somebody else")])
    assert await last_words(UNIT, 5) == "Failed to clone /x: No such file"


async def test_a_line_whose_unit_was_lost(journal: Journal) -> None:
    journal(
        [], [of_unit("of another", "machine-db.service"), lost("first"), lost("last"), of_unit("x", "y")]
    )
    assert await last_words(UNIT, 5) == "last"


async def test_whose_line_it_is_cannot_be_told(journal: Journal) -> None:
    journal([], [lost("one", "7"), lost("other", "8")])
    assert await last_words(UNIT, 5) == ""


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ([0xFF, *b"oops\n", 999], "\ufffdoops"),
        (None, ""),
        ("a\x1b[31m" + "b" * 1000, ("a [31m" + "b" * 1000)[:MAX_LENGTH]),
    ],
)
async def test_messages_of_every_kind(journal: Journal, message: object, words: str) -> None:
    journal([of_unit(message)], [])
    assert await last_words(UNIT, 5) == words


async def test_a_journal_that_makes_no_sense(journal: Journal, tmp_path: Path) -> None:
    journal([], [])
    (tmp_path / "all").write_text("Hint: you are not in the group.\n", encoding="utf-8")
    assert await last_words(UNIT, 5) == ""


async def test_no_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert await last_words(UNIT, 5) == ""
