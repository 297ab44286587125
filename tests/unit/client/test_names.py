# SPDX-License-Identifier: LGPL-2.1-or-later
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from machinectl import names
from machinectl.errors import CommandError


@pytest.mark.parametrize("name", ["a", "web", "my-box", "a.b", "1", "A9", "x" * 64])
def test_valid(name: str) -> None:
    assert names.is_valid(name)


@pytest.mark.parametrize(
    "name", ["", ".host", "my_box", "-a", "a-", "a..b", "a.", "x" * 65, "ä", "a/b", "a b", "a\n", "a.-b"]
)
def test_not_valid(name: str) -> None:
    assert not names.is_valid(name)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("my_box", "my-box"),
        (".host", "host"),
        ("a b/c", "a-b-c"),
        ("_x_", "x"),
        ("___", ""),
        ("a..b", "a.b"),
    ],
)
def test_suggestion(name: str, nearest: str) -> None:
    assert names.suggest(name) == nearest


@given(st.text(max_size=80))
def test_suggestions_are_valid(name: str) -> None:
    nearest = names.suggest(name)
    assert not nearest or names.is_valid(nearest)


def test_check_says_what_is_allowed() -> None:
    names.check("fine")
    with pytest.raises(CommandError) as caught:
        names.check("my_box")
    assert caught.value.message == (
        "Machine name 'my_box' is not valid: only letters, digits, '-' and '.' are allowed (try 'my-box')."
    )


@pytest.mark.parametrize(
    ("name", "label"),
    [(".host", "_2ehost"), ("g-1", "g_2d1"), ("1a", "_31a"), ("", "_"), ("ä", "_c3_a4"), ("a_b", "a_5fb")],
)
def test_escape_label(name: str, label: str) -> None:
    assert names.escape_label(name) == label


def test_clean_keeps_text_and_drops_what_drives_a_terminal() -> None:
    assert names.clean("Débian 13 – €") == "Débian 13 – €"
    assert names.clean("a\x1b[31mb\x07\r\n\x9b\u202ec") == "a[31mbc"
