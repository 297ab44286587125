# SPDX-License-Identifier: LGPL-2.1-or-later

from __future__ import annotations

import contextlib
import os
import shutil
import string
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from machined.linux import escape

names = st.binary(max_size=40).map(lambda data: os.fsdecode(data.replace(b"\0", b"")))


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("a-b", "a\\x2db"),
        ("a/b", "a-b"),
        (".host", "\\x2ehost"),
        ("a.b:c_d", "a.b:c_d"),
        ("x@y", "x\\x40y"),
        ("\\", "\\x5c"),
        ("ü", "\\xc3\\xbc"),
        ("", ""),
    ],
)
def test_unit_name(text: str, escaped: str) -> None:
    assert escape.unit_name_escape(text) == escaped
    assert escape.unit_name_unescape(escaped) == text


@pytest.mark.parametrize("text", ["\\", "a\\x2", "\\xgg", "\\n"])
def test_unit_name_with_a_bad_escape(text: str) -> None:
    with pytest.raises(ValueError, match="backslash"):
        escape.unit_name_unescape(text)


@given(names)
def test_unit_name_round_trip(name: str) -> None:
    assert escape.unit_name_unescape(escape.unit_name_escape(name)) == name


def test_unit_name_as_systemd_has_it() -> None:
    if not shutil.which("systemd-escape"):
        pytest.skip("there is no systemd-escape to compare with")
    texts = ["a-b", ".a", "a.b", "a/b//c", "with space", "ü", "a@b", "\\x2d", "~!%", "9", "_:"]
    done = subprocess.run(["systemd-escape", "--", *texts], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [escape.unit_name_escape(text) for text in texts]


@pytest.mark.parametrize(
    ("text", "label"),
    [
        (".host", "_2ehost"),
        ("g-1", "g_2d1"),
        ("1a", "_31a"),
        ("a1", "a1"),
        ("", "_"),
        ("_", "_5f"),
        ("ü", "_c3_bc"),
    ],
)
def test_bus_label(text: str, label: str) -> None:
    assert escape.bus_label_escape(text) == label
    assert escape.bus_label_unescape(label) == text


@pytest.mark.parametrize(
    ("label", "text"),
    [("a_", "a_"), ("_2", "_2"), ("_zz", "_zz"), ("_2E", "."), ("__2e", "_."), ("a-b", "a-b")],
)
def test_bus_label_is_read_tolerantly(label: str, text: str) -> None:
    assert escape.bus_label_unescape(label) == text


@given(names)
def test_bus_label_round_trip(name: str) -> None:
    label = escape.bus_label_escape(name)
    assert label
    assert label.isascii()
    assert set(label) <= set("_0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
    assert escape.bus_label_unescape(label) == name


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("machine-a\\x2db.scope", "machine-a\\\\x2db.scope"),
        ("\a\b\t\n\v\f\r", "\\a\\b\\t\\n\\v\\f\\r"),
        ('it\'s "so"', 'it\\\'s \\"so\\"'),
        ("ü\x01\x7f", "\\303\\274\\001\\177"),
        ("a b", "a b"),
    ],
)
def test_c(text: str, escaped: str) -> None:
    assert escape.c_escape(text) == escaped
    assert escape.c_unescape(escaped) == text


@pytest.mark.parametrize(
    ("escaped", "text"), [("\\s", " "), ("\\x41", "A"), ("\\u00fc", "ü"), ("\\U0001f600", "\U0001f600")]
)
def test_c_escapes_that_are_only_read(escaped: str, text: str) -> None:
    assert escape.c_unescape(escaped) == text


@pytest.mark.parametrize(
    "text", ["\\", "\\q", "\\x4", "\\000", "\\x00", "\\777", "\\12", "\\ud800", "\\U00110000", "\\u0000"]
)
def test_c_with_a_bad_escape(text: str) -> None:
    with pytest.raises(ValueError, match="no escape sequence"):
        escape.c_unescape(text)


@given(names)
def test_c_round_trip(name: str) -> None:
    escaped = escape.c_escape(name)
    assert escaped.isascii()
    assert escaped.isprintable()
    assert escape.c_unescape(escaped) == name


@given(st.lists(names.filter(lambda name: name and "\n" not in name), min_size=20, max_size=40))
@settings(max_examples=10)
def test_any_unit_name_as_systemd_has_it(some: list[str]) -> None:
    if not shutil.which("systemd-escape"):
        pytest.skip("there is no systemd-escape to compare with")
    done = subprocess.run(["systemd-escape", "--", *some], capture_output=True, check=True)
    assert done.stdout.decode().split() == [escape.unit_name_escape(name) for name in some]


@given(names)
def test_escaped_names_are_names_of_units(name: str) -> None:
    escaped = escape.unit_name_escape(name)
    assert set(escaped) <= set("-:_.\\" + string.ascii_letters + string.digits)
    assert not escaped.startswith(".")


def hexadecimal(text: str) -> bool:
    return len(text) == 2 and set(text) <= set(string.hexdigits)


def label_unescaped(label: str) -> bytes:
    """The rules once more, letter by letter."""
    data, position = b"", 0
    while position < len(label):
        if label[position] == "_" and hexadecimal(label[position + 1 : position + 3]):
            data += bytes((int(label[position + 1 : position + 3], 16),))
            position += 3
        else:
            data += os.fsencode(label[position])
            position += 1
    return b"" if label == "_" else data


@given(st.text("_0123abcdefxzAF-/.ü", max_size=12) | names)
def test_bus_labels_are_read_tolerantly(label: str) -> None:
    assert os.fsencode(escape.bus_label_unescape(label)) == label_unescaped(label)


@given(st.text("\\x0123abcfgn-/'\"u\0", max_size=16) | st.text(max_size=16))
def test_bad_escapes_are_a_value_error(text: str) -> None:
    for unescape in (escape.unit_name_unescape, escape.c_unescape):
        with contextlib.suppress(ValueError):
            assert isinstance(unescape(text), str)
