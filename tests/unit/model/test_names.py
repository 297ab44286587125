# SPDX-License-Identifier: LGPL-2.1-or-later

from __future__ import annotations

import os
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from machined.model.errors import MachineError, Problem
from machined.model.names import check_machine_name, is_image_name, is_machine_name, suggestion

LABEL = st.from_regex(r"\A[a-z0-9]([a-z0-9-]{0,6}[a-z0-9])?\Z")


@pytest.mark.parametrize("name", ["a", "web", "Web-1", "1a", "a.b", "a--b", "x" * 64, ".".join("a" * 32)])
def test_machine_names(name: str) -> None:
    assert is_machine_name(name)
    assert is_image_name(name)
    check_machine_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        ".host",
        "a.",
        "a..b",
        "-a",
        "a-",
        "a.-b",
        "a_b",
        "a b",
        "x" * 65,
        "ä",
        "a/b",
        "a\n",
        "\u0661",
    ],
)
def test_no_machine_names(name: str) -> None:
    assert not is_machine_name(name)
    with pytest.raises(MachineError) as raised:
        check_machine_name(name)
    assert raised.value.problem is Problem.INVALID_ARGS


@pytest.mark.parametrize("name", ["a_b", "a b", ".hidden", "ä", "x" * 255, "a.raw", "#a"])
def test_image_names_are_wider(name: str) -> None:
    assert is_image_name(name)


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", ".#lock", "a\nb", "\x7f", "\x85", "ä" * 128, "\udcff"]
)
def test_no_image_names(name: str) -> None:
    assert not is_image_name(name)


@pytest.mark.parametrize(
    ("bad", "better"),
    [
        ("my_box", "my-box"),
        ("_my__box_", "my-box"),
        ("my box.", "my-box"),
        ("a..b", "a.b"),
        ("-web", "web"),
        (".host", "host"),
        ("größe", "gr-e"),
        ("___", ""),
        ("x" * 70, "x" * 64),
        ("x" * 63 + "-y", "x" * 63),
    ],
)
def test_suggestion(bad: str, better: str) -> None:
    assert suggestion(bad) == better


def test_the_error_names_the_suggestion() -> None:
    with pytest.raises(MachineError, match=r"'my_box' is not valid.*try 'my-box'"):
        check_machine_name("my_box")


def test_the_error_hides_control_characters() -> None:
    with pytest.raises(MachineError) as raised:
        check_machine_name("a\x1b[31m\nb")
    assert "\x1b" not in raised.value.text
    assert "\n" not in raised.value.text


@given(st.text(max_size=100))
def test_a_suggestion_is_valid_or_empty(name: str) -> None:
    better = suggestion(name)
    assert better == "" or is_machine_name(better)


@given(st.lists(LABEL, min_size=1, max_size=4).map(".".join))
def test_hostnames_are_machine_names(name: str) -> None:
    assert is_machine_name(name)
    assert suggestion(name) == name


def hostname(name: str) -> bool:
    """The rules of hostname(7) once more, as a walk over the letters."""
    begins, dash = True, False
    for letter in name:
        if letter == ".":
            if begins or dash:
                return False
            begins, dash = True, False
        elif letter == "-":
            if begins:
                return False
            dash = True
        elif letter in string.ascii_letters + string.digits:
            begins = dash = False
        else:
            return False
    return not begins and not dash and len(name) <= 64


def visible_file(name: str) -> bool:
    """image_name_is_valid() once more: a file name of UTF-8 without control characters, no lock file's."""
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        return False
    control = any(ord(letter) < 32 or 127 <= ord(letter) < 160 for letter in name)
    return (
        0 < size < 256 and "/" not in name and not control and name not in (".", "..") and name[:2] != ".#"
    )


CLOSE = st.text("ab1-._", max_size=8) | st.text("aZ0-.", min_size=60, max_size=70) | st.text(max_size=80)


@given(CLOSE)
def test_machine_names_are_hostnames(name: str) -> None:
    assert is_machine_name(name) == hostname(name)


@given(CLOSE | st.text("aü.#/\x9f\x7f\n", max_size=8) | st.text("aä", min_size=120, max_size=260))
def test_image_names_are_visible_files(name: str) -> None:
    assert is_image_name(name) == visible_file(name)


@given(st.binary(max_size=80))
def test_any_bytes_are_a_name_or_none(data: bytes) -> None:
    name = os.fsdecode(data)
    assert is_machine_name(name) == hostname(name)
    assert is_image_name(name) == visible_file(name)
