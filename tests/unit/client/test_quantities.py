# SPDX-License-Identifier: LGPL-2.1-or-later
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from machinectl import quantities
from machinectl.errors import CommandError
from machinectl.timefmt import UINT64_MAX

G = 1024**3


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("0", 0), ("1", 1), ("1B", 1), ("1K", 1024), ("1.5G", G * 3 // 2), ("1G 500M", G + 500 * 1024**2),
        ("1G500M", G + 500 * 1024**2), ("1 G", G), ("+5", 5), (" 5 ", 5), ("1.G", G), ("15E", 15 * 1024**6),
        ("18446744073709551615", UINT64_MAX), ("0.0000000000000000000000000000001E", 0),
    ],
)  # fmt: skip
def test_sizes(text: str, count: int) -> None:
    assert quantities.size(text) == count


@pytest.mark.parametrize(
    "text",
    ["", " ", "frob", "-1", "5X", "5KB", "1e", "0x10", ".5G", "500M 1G", "1G 1G", "16E", "1 1", "9" * 5000,
     "18446744073709551616", "\N{ARABIC-INDIC DIGIT THREE}"],
)  # fmt: skip
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(CommandError) as caught:
        quantities.size(text)
    assert caught.value.message == f"Failed to parse size: {text}"


@given(st.text(max_size=30))
def test_any_text_is_a_size_or_refused(text: str) -> None:
    try:
        assert 0 <= quantities.size(text) <= UINT64_MAX
    except CommandError as error:
        assert error.message.startswith("Failed to parse size: ")


@given(st.integers(0, UINT64_MAX))
def test_plain_numbers_are_bytes(count: int) -> None:
    assert quantities.size(str(count)) == count


@pytest.mark.parametrize("word", ["-", "none", "infinity"])
def test_no_limit(word: str) -> None:
    assert quantities.limit(word) == UINT64_MAX


@pytest.mark.parametrize("word", ["1", "yes", "Y", "TRUE", "t", "On"])
def test_yes(word: str) -> None:
    assert quantities.boolean(word) is True


@pytest.mark.parametrize("word", ["0", "no", "N", "FALSE", "f", "oFF"])
def test_no(word: str) -> None:
    assert quantities.boolean(word) is False


@pytest.mark.parametrize("word", ["", "maybe", "2", "yes "])
def test_neither(word: str) -> None:
    with pytest.raises(CommandError, match="Failed to parse boolean argument"):
        quantities.boolean(word)
