# SPDX-License-Identifier: LGPL-2.1-or-later

from __future__ import annotations

from pathlib import Path

import pytest

from machined.bus import reference
from machined.bus.vtable import Property

REFERENCE = Path(__file__).resolve().parents[3] / "docs" / "dbus.md"


def test_the_file_is_up_to_date() -> None:
    written = REFERENCE.read_text(encoding="utf-8")
    assert written == reference.render(), "python3 -m machined.bus.reference > docs/dbus.md"


@pytest.mark.parametrize("version", [reference.OLDEST, reference.NEWEST])
def test_every_member_has_a_sentence(version: int) -> None:
    missing = [
        f"{table.name}.{row.name}"
        for _, table in reference.tables(version)
        for row in table.rows
        if not reference.sentence(table, row) and not (isinstance(row, Property) and row.hidden)
    ]
    assert missing == []


def test_what_versions_differ_in() -> None:
    text = reference.render()
    assert "- `RegisterMachineEx(s name, a(sv) properties) → (o path)` (since 259)\n" in text
    assert "- `OpenMachinePTY(s name) → (h pty, s pty_path)` (root only before 258)\n" in text
    assert "- `Scope s` (constant, hidden)\n" in text
    assert "- `State s` (changes are signalled)\n" in text
