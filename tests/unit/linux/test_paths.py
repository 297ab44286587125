# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which paths callers may name, and where their last component begins."""

from __future__ import annotations

import errno
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from machined.linux import paths


@pytest.mark.parametrize(
    ("path", "normalized"),
    [
        ("/", True),
        ("/a/b", True),
        ("/a/b/", True),
        ("/...", True),
        ("/" + "a" * 255, True),
        ("/" + "a/" * 2047, True),
        ("", False),
        ("a", False),
        ("./a", False),
        ("//", False),
        ("/a//b", False),
        ("/a/./b", False),
        ("/a/.", False),
        ("/a/../b", False),
        ("/..", False),
        ("/a\0b", False),
        ("/" + "a" * 256, False),
        ("/" + "ü" * 128, False),
        ("/" + "a/" * 2048, False),
    ],
)
def test_normalized(path: str, normalized: bool) -> None:
    assert paths.is_normalized(path) is normalized


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        ("/a", ("/", "a")),
        ("/a/b/c", ("/a/b", "c")),
        ("//a//b//", ("/a", "b")),
        ("/a/../b", ("/a/..", "b")),
        ("/a/./b/.", ("/a", "b")),
    ],
)
def test_split(path: str, parts: tuple[str, str]) -> None:
    assert paths.split(path) == parts


@pytest.mark.parametrize(
    ("path", "number"),
    [
        ("/", errno.EADDRNOTAVAIL),
        ("///./", errno.EADDRNOTAVAIL),
        ("/a/..", errno.EINVAL),
        ("/a\0b", errno.EINVAL),
        ("/" + "a" * 256, errno.EINVAL),
        ("/" + "a/" * 2048, errno.EINVAL),
    ],
)
def test_not_to_be_split(path: str, number: int) -> None:
    with pytest.raises(OSError) as caught:
        paths.split(path)
    assert caught.value.errno == number


@given(st.lists(st.sampled_from(["a", "b.c", ".", "..", "", "..."]), max_size=8))
def test_a_split_path_means_the_same(parts: list[str]) -> None:
    path = "/" + "/".join(parts)
    try:
        directory, name = paths.split(path)
    except OSError:
        return
    assert "/" not in name and name not in {"", ".", ".."}
    assert os.path.normpath(f"{directory}/{name}").lstrip("/") == os.path.normpath(path).lstrip("/")
