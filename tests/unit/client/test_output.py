# SPDX-License-Identifier: LGPL-2.1-or-later
from __future__ import annotations

import io
import json
import sys

import pytest

from machinectl import output, timefmt
from machinectl.output import Cell, layout, text_cell
from machinectl.tree import draw

SECOND = 1_000_000


def rows(*lines: str) -> list[list[Cell]]:
    return [[text_cell(word) for word in line.split(" ")] for line in lines]


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    assert layout(rows("A BB C", "aaa b cc"), [False] * 3) == ["A   BB C", "aaa b  cc"]


def test_numbers_to_the_right_and_nothing_behind_the_last() -> None:
    assert layout(rows("N SIZE", "a 1K"), [False, True]) == ["N SIZE", "a   1K"]


def test_cells_of_several_lines() -> None:
    table = [[text_cell("a"), text_cell("1\n2\n3")]]
    assert layout(table, [False, False]) == ["a 1", "  2", "  3"]
    assert layout(table, [False, False], height=2) == ["a 1", "  2…"]


def test_narrow_terminals_cut_the_widest(monkeypatch: pytest.MonkeyPatch) -> None:
    table = rows("NAME TEXT", "name a-very-long-text-indeed")
    assert layout(table, [False, False], limit=16) == ["NAME TEXT", "name a-very-lon…"]
    monkeypatch.setenv("LC_ALL", "C")
    assert layout(table, [False, False], limit=16) == ["NAME TEXT", "name a-very-l..."]


def test_wide_characters_count_twice() -> None:
    assert output.width("漢字") == 4
    assert output.width("e\u0301") == 1


def test_control_characters_of_guests_do_not_reach_the_terminal() -> None:
    assert Cell("a\x1b]0;evil\x07b").lines == ["a]0;evilb"]
    assert text_cell("\x1b[2J").value == "\x1b[2J"  # JSON escapes by itself


def test_json_as_systemd_writes_it() -> None:
    value = [{"machine": "a", "os": None, "x": "ä"}]
    assert output.to_json(value, pretty=False) == '[{"machine":"a","os":null,"x":"ä"}]'
    assert output.to_json(value, pretty=True) == (
        '[\n\t{\n\t\t"machine" : "a",\n\t\t"os" : null,\n\t\t"x" : "ä"\n\t}\n]'
    )
    assert output.to_json([], pretty=True) == "[]"


@pytest.mark.parametrize("encoding", ["utf-8", "iso8859-1", "ascii"])
@pytest.mark.parametrize("pretty", [False, True])
def test_json_is_json_in_every_locale(
    monkeypatch: pytest.MonkeyPatch, encoding: str, *, pretty: bool
) -> None:
    value = [{"a": "é漢字\N{GRINNING FACE}", "b": "\x9b2J\x7f\x80\x1b[2J", "c": "\ufffd"}]
    raw = io.BytesIO()
    stdout = io.TextIOWrapper(raw, encoding, errors="backslashreplace")
    monkeypatch.setattr(sys, "stdout", stdout)
    print(output.to_json(value, pretty=pretty), flush=True)
    text = raw.getvalue().decode(encoding)
    assert json.loads(text) == value
    assert not set(text) & set(map(chr, [*range(9), *range(14, 32), *range(0x7F, 0xA0)]))
    assert ("漢字" in text) == (encoding == "utf-8")


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0B"), (1023, "1023B"), (1024, "1K"), (1234567, "1.1M"), (5 * 2**30, "5G"), (2**64 - 1, "")],
)
def test_sizes(count: int, text: str) -> None:
    assert timefmt.size(count) == text


@pytest.mark.parametrize(
    ("distance", "text"),
    [
        (0, "now"),
        (5, "5us ago"),
        (689_000, "689ms ago"),
        (5 * SECOND, "5s ago"),
        (90 * SECOND, "1min 30s ago"),
        (600 * SECOND, "10min ago"),
        (3700 * SECOND, "1h 1min ago"),
        (7 * 3600 * SECOND, "7h ago"),
        (26 * 3600 * SECOND, "1 day 2h ago"),
        (3 * 86400 * SECOND, "3 days ago"),
        (8 * 86400 * SECOND, "1 week 1 day ago"),
        (40 * 86400 * SECOND, "1 month 9 days ago"),
        (800 * 86400 * SECOND, "2 years 2 months ago"),
        (-5 * SECOND, "5s left"),
    ],
)
def test_relative_times(distance: int, text: str) -> None:
    assert timefmt.relative(10**15, 10**15 + distance) == text


def test_timestamps(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    time.tzset()
    assert timefmt.timestamp(1795381961949938) == "Sun 2026-11-22 21:12:41 UTC"
    assert timefmt.timestamp(0) == ""
    assert timefmt.timestamp(2**63) == "--- XXXX-XX-XX XX:XX:XX"


def test_the_process_tree() -> None:
    unit = "/machine.slice/x.service"
    processes = [
        (f"{unit}/supervisor", 148, "nspawn\x1b[m"),
        (f"{unit}/payload/init.scope", 155, "init"),
        (f"{unit}/payload/system.slice/b.service", 7, "b"),
        (f"{unit}/payload/system.slice/b.service", 321, "bb"),
        (f"{unit}/payload/system.slice/a.service", 9, "a"),
        ("/machine.slice/x.service.evil", 1, "no"),
    ]
    assert draw(processes, unit) == [
        "├─payload",
        "│ ├─init.scope",
        "│ │ └─155 init",
        "│ └─system.slice",
        "│   ├─a.service",
        "│   │ └─9 a",
        "│   └─b.service",
        "│     ├─  7 b",
        "│     └─321 bb",
        "└─supervisor",
        "  └─148 nspawn[m",
    ]
