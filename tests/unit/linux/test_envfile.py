# SPDX-License-Identifier: LGPL-2.1-or-later

from __future__ import annotations

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from machined.linux import envfile

values = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")).filter(envfile._is_text)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"A=b\n", {"A": "b"}),
        (b"A=b", {"A": "b"}),
        (b"A=\nB=''\nC=\"\"", {"A": "", "B": "", "C": ""}),
        (b"A=1\nB=2\nA=3\n", {"A": "3", "B": "2"}),
        (b"# A=1\n; B=2\n  #C=3\nD=4 # 5\n", {"D": "4 # 5"}),
        (b"  A =  b c  \n", {"A": "b c"}),
        (b"A=b\r\nC='d'\r\n", {"A": "b", "C": "d"}),
        (b"no assignment\nA=b\nneither", {"A": "b"}),
        (b"A='b c'\nB=\"d e\"\n", {"A": "b c", "B": "d e"}),
        (b"A='b\nc'\n", {"A": "b\nc"}),
        (b'A=\'\\n\'\nB="\\n\\$\\`\\"\\\\"\n', {"A": "\\n", "B": '\\n$`"\\'}),
        (b"A='b'\"c\"d\n", {"A": "bcd"}),
        (b"A='b' \"c\"\n", {"A": "bc"}),
        (b"A=b'c'\n", {"A": "b'c'"}),
        (b"A=b\\\nc\n", {"A": "bc"}),
        (b'A="b\\\nc"\n', {"A": "bc"}),
        (b"A=b\\ \\  \n", {"A": "b  "}),
        (b"A=b \\", {"A": "b "}),
        (b"A='open", {"A": "open"}),
        (b"# comment \\\nA=b\n", {"A": "b"}),
        (b"A=\xff\nB=c\n\xff=d\n", {"B": "c"}),
        (b"A=\xc3\xbc\n", {"A": "ü"}),
        (b"A=\xef\xbf\xbe\nB=\xef\xb7\x90\nC=c", {"C": "c"}),
        (b"A=\xe2\x80\xa8\n", {"A": "\u2028"}),
        (b"=x\n", {}),
        (b"SCOPE=machine-a\\\\x2db.scope\n", {"SCOPE": "machine-a\\x2db.scope"}),
        (b"", {}),
    ],
)
def test_parse(data: bytes, expected: dict[str, str]) -> None:
    found = envfile.parse(data)
    assert found == expected
    assert list(found) == list(expected)


def test_nul_is_an_error() -> None:
    with pytest.raises(OSError, match="NUL") as caught:
        envfile.parse(b"A=b\0\n")
    assert caught.value.errno == errno.EBADMSG


@pytest.mark.parametrize(
    ("value", "quoted"),
    [
        ("plain", "plain"),
        ("a#b=c~d%e", "a#b=c~d%e"),
        ("two words", '"two words"'),
        ("a\\x2db", '"a\\\\x2db"'),
        ('$`"', '"\\$\\`\\""'),
        ("it's", '"it\'s"'),
        ("a;b", '"a;b"'),
        ("", ""),
    ],
)
def test_quote(value: str, quoted: str) -> None:
    assert envfile.quote(value) == quoted


@given(st.lists(values, max_size=5))
def test_round_trip(found: list[str]) -> None:
    text = "".join(f"KEY{number}={envfile.quote(value)}\n" for number, value in enumerate(found))
    assert envfile.parse(text.encode()) == {f"KEY{number}": value for number, value in enumerate(found)}


@given(st.binary(max_size=200))
def test_anything_is_read_without_harm(data: bytes) -> None:
    for name, value in envfile.parse(data.replace(b"\0", b"")).items():
        name.encode()
        value.encode()
