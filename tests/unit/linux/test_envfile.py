# SPDX-License-Identifier: LGPL-2.1-or-later

from __future__ import annotations

import errno
import subprocess

import pytest
from hypothesis import given, settings
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


@given(st.lists(values.filter(lambda value: value and "~" not in value), min_size=10, max_size=30))
@settings(max_examples=10)
def test_a_shell_reads_the_same(some: list[str]) -> None:
    """Files of this kind are shell code as well, os-release(5); but systemd leaves a tilde unquoted."""
    text = "".join(f"V{number}={envfile.quote(value)}\n" for number, value in enumerate(some))
    script = text + "".join(f'printf "%s\\0" "$V{number}"\n' for number in range(len(some)))
    done = subprocess.run(["bash", "-s"], input=script.encode(), capture_output=True, check=True)
    assert done.stdout.decode().split("\0")[:-1] == some


@given(st.binary(max_size=20), values)
def test_what_is_no_utf8_is_dropped_alone(data: bytes, value: str) -> None:
    data = data.replace(b"\0", b"")
    quoted = envfile.quote(data.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")
    found = envfile.parse(b"A=" + quoted + b"\nB=" + envfile.quote(value).encode() + b"\n")
    assert found["B"] == value
    assert found.get("A", "").encode() == (data if "A" in found else b"")


NOISE = st.lists(
    st.sampled_from(
        [b"A", b"=", b"\n", b"\r", b"\\", b"'", b'"', b"#", b" ", b"\xff", b"\xc3", b"\xbc", b"$"]
    )
).map(b"".join)


@given(NOISE | st.binary(max_size=300))
def test_what_is_read_is_in_the_file(data: bytes) -> None:
    """Nothing is made up and nothing grows, whatever a guest has written."""
    try:
        found = envfile.parse(data)
    except OSError as error:
        assert error.errno == errno.EBADMSG
        assert b"\0" in data
        return
    assert sum(len(name.encode()) + len(value.encode()) for name, value in found.items()) <= len(data)
    for name in found:
        assert name
        # One that begins a line begins a name, for systemd as well.
        assert "=" not in name[1:]
        assert not set("\n\r") & set(name)


@given(NOISE, values)
def test_a_line_after_any_closed_line_counts(noise: bytes, value: str) -> None:
    if b"\\" in noise or b"'" in noise or b'"' in noise:
        noise = noise.translate(None, b"\\'\"")
    data = noise + b"\nLAST=" + envfile.quote(value).encode() + b"\n"
    assert envfile.parse(data)["LAST"] == value
