# SPDX-License-Identifier: LGPL-2.1-or-later
"""Files in systemd's syntax, also those that no editor would write."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from machined.linux.inifile import LINE_MAX, InvalidFileError, parse, read

CORPUS: dict[str, tuple[bytes, list[tuple[str, str, str, int]], list[str]]] = {
    "plain": (b"[Exec]\nBoot=yes\n", [("Exec", "Boot", "yes", 2)], []),
    "nothing at the end": (b"[Exec]\nBoot=yes", [("Exec", "Boot", "yes", 2)], []),
    "CRLF": (b"[E]\r\nBoot=yes\r\nUser=a\r\n", [("E", "Boot", "yes", 2), ("E", "User", "a", 3)], []),
    "old Mac": (b"[Exec]\rBoot=yes\r", [("Exec", "Boot", "yes", 2)], []),
    "NUL between lines": (b"[Exec]\0Boot=yes\0", [("Exec", "Boot", "yes", 2)], []),
    "BOM": (b"\xef\xbb\xbf[Exec]\nBoot=yes\n", [("Exec", "Boot", "yes", 2)], []),
    "continued": (b"[A]\nB=one \\\n  two\\\n\nC=3\n", [("A", "B", "one    two", 2), ("A", "C", "3", 5)], []),
    "over a comment": (b"[A]\nB=one \\\n# not me\\\n; nor me\ntwo\n", [("A", "B", "one  two", 2)], []),
    "continued to the end": (b"[A]\nB=one\\", [("A", "B", "one", 2)], []),
    "an escaped backslash": (b"[A]\nB=one\\\\\nC=2\n", [("A", "B", "one\\\\", 2), ("A", "C", "2", 3)], []),
    "comments": (b"# a\n; b\n[A]\n  # c\nB=# not one\n", [("A", "B", "# not one", 5)], []),
    "spaces": (b"  [A]  \n\t B \t = \t c d \t\n", [("A", "B", "c d", 2)], []),
    "repeated": (b"[A]\nB=1\nB=2\nB=\n", [("A", "B", "1", 2), ("A", "B", "2", 3), ("A", "B", "", 4)], []),
    "a section twice": (b"[A]\nB=1\n[C]\n[A]\nB=2\n", [("A", "B", "1", 2), ("A", "B", "2", 5)], []),
    "an equals sign": (b"[A]\nB=c=d\n", [("A", "B", "c=d", 2)], []),
    "others' sections and keys": (b"[X-Mine]\nA=1\n[A]\nX-B=1\nC=2\n", [("A", "C", "2", 5)], []),
    "no assignment": (b"[A]\nB\n=c\n", [], ["f:2: 'B' is no assignment (Key=value), ignored.",
                      "f:3: nothing stands before the '=', ignored."]),
    "no section": (b"B=1\n[A]\n", [], ["f:1: 'B=' stands before any [Section], ignored."]),
    "no UTF-8": (b"[A]\nB=\xff\xfe\nC=\xc3\xa4\n", [("A", "C", "ä", 3)], ["f:2: not valid UTF-8, ignored."]),
    "empty": (b"", [], []),
    "a megabyte": (
        b"[A]\nB=" + b"x" * (LINE_MAX - 10), [("A", "B", "x" * (LINE_MAX - 10), 2)], [],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CORPUS)
def test_corpus(name: str) -> None:
    data, expected, complaints = CORPUS[name]
    document = parse(data, "f")
    assert [(a.section, a.key, a.value, a.place.line) for a in document.assignments] == expected
    assert [str(complaint) for complaint in document.complaints] == complaints


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"[A]\nB=" + b"x" * LINE_MAX, "f:2: a line is longer"),
        (b"[A]\n" + b"x\\\n" * LINE_MAX, "a line is longer"),
        (b"[A]\n[B\n", r"f:2: '\[B' is no section header"),
        (b"[]\n", "f:1: "),
        (b"#" * (5 << 20), "larger than 4 MiB"),
    ],
)
def test_no_settings_file(data: bytes, said: str) -> None:
    with pytest.raises(InvalidFileError, match=said):
        parse(data, "f")


KEYS = st.text("abcXYZ019", min_size=1)
VALUES = st.text(st.characters(exclude_categories=["C", "Z"]) | st.just(" "), max_size=40).map(str.strip)


@given(st.lists(st.tuples(KEYS, KEYS, VALUES)))
def test_round_trip(said: list[tuple[str, str, str]]) -> None:
    safe = [(section, key, value.rstrip("\\")) for section, key, value in said]
    text = "".join(f"[{section}]\n{key}={value}\n" for section, key, value in safe)
    document = parse(text.encode(), "f")
    assert [(a.section, a.key, a.value) for a in document.assignments] == [
        (section, key, value.strip()) for section, key, value in safe
    ]
    assert not document.complaints


@given(st.binary(max_size=400))
def test_anything(data: bytes) -> None:
    try:
        document = parse(data, "f")
    except InvalidFileError as error:
        assert str(error).startswith("f:")
        return
    lines = len(data) + 1
    assert all(1 <= a.place.line <= lines for a in document.assignments)
    assert all("\n" not in a.value and a.key.strip() == a.key != "" for a in document.assignments)


def test_what_is_no_file(tmp_path: Path) -> None:
    assert read(tmp_path / "nothing") is None
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", tmp_path, Path("/dev/zero")):
        with pytest.raises(InvalidFileError, match="not a regular file"):
            read(path)
    (tmp_path / "masked").symlink_to("/dev/null")
    masked = read(tmp_path / "masked")
    assert masked is not None
    assert not masked.assignments
