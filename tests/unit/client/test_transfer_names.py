# SPDX-License-Identifier: LGPL-2.1-or-later
from __future__ import annotations

import pytest

from machinectl import transfer_names as names
from machinectl.errors import CommandError


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("web.tar", "tar", "web"), ("web.tar.xz", "tar", "web"), ("web.tar.gz", "tar", "web"),
        ("web.tar.bz2", "tar", "web"), ("web.tar.zst", "tar", "web"), ("web.tgz", "tar", "web"),
        ("web.tar.tar", "tar", "web.tar"), ("web.zip", "tar", "web.zip"), (".tar", "tar", ".tar"),
        ("web.raw", "raw", "web"), ("web.raw.xz", "raw", "web"), ("web.img.gz", "raw", "web"),
        ("web.qcow2", "raw", "web"), ("web.bin.bz2", "raw", "web"), ("web.raw.raw", "raw", "web"),
        ("web.raw.zst", "raw", "web"), (".raw", "raw", ".raw"), ("web.tar", "raw", "web.tar"),
        ("web.tar", "fs", "web.tar"), ("web.raw", "oci", "web.raw"), ("debian-13.1", "tar", "debian-13.1"),
    ],
)  # fmt: skip
def test_what_a_name_loses(name: str, kind: str, expected: str) -> None:
    assert names.strip(name, kind) == expected


@pytest.mark.parametrize("name", ["a", "a_b", ".hidden", "ä", "a" * 255, "a b", "-x", "#x"])
def test_names_of_images(name: str) -> None:
    assert names.check(name) == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "/", ".#x", "a\nb", "\x7f", "a" * 256, "ä" * 128, "\udcff"]
)
def test_names_no_image_has(name: str) -> None:
    with pytest.raises(CommandError, match="is not a suitable image name"):
        names.check(name)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://host/web.tar", "web.tar"), ("https://host:80/a/b/web.raw.xz?x=/y", "web.raw.xz"),
        ("http://host/web.tar#part", "web.tar"), ("file:///srv/web.tar", "web.tar"),
        ("http://host/a/b/", "b"),
        ("http://host/", ""), ("http://host", ""),
    ],
)  # fmt: skip
def test_urls(url: str, expected: str) -> None:
    assert names.of_url(url) == expected


@pytest.mark.parametrize(
    "url", ["", "x", "ftp://h/x", "http://", "http:///x", "http://h/a b", "http://h/ä", "/x"]
)
def test_no_urls(url: str) -> None:
    with pytest.raises(CommandError, match="is not valid"):
        names.of_url(url)


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("debian", "debian"), ("debian:13", "debian"), ("host:5000/a/web:tag", "web"),
        ("host/a/web@sha256:00", "web"), ("a/web", "web"),
    ],
)  # fmt: skip
def test_references(reference: str, expected: str) -> None:
    assert names.of_reference(reference) == expected
    for wrong in ("", ":tag", "a/", "a b"):
        with pytest.raises(CommandError, match="is not valid"):
            names.of_reference(wrong)


def test_local_names() -> None:
    assert names.local_name(None, "web.tar", "tar", "x") == "web"
    assert names.local_name("mine.tar", "web.tar", "tar", "x") == "mine"
    assert names.local_name("-", "web.tar", "tar", "x") == ""
    with pytest.raises(CommandError, match="no name for an image in 'http://h/'"):
        names.local_name(None, "", "tar", "http://h/")
    with pytest.raises(CommandError, match="not a suitable"):
        names.local_name("a/b", "", "tar", "x")


def test_paths(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(str(tmp_path))
    assert names.of_path("/srv/web.tar") == "web.tar"
    assert names.of_path("tree/") == "tree"
    assert names.of_path(".") == str(tmp_path).rpartition("/")[2]
    assert names.of_path("/") == ""


def test_compression() -> None:
    files = ("a.tar", "a.tar.xz", "a.gz", "a.tgz", "a.bz2", "a.tar.zst", "xz")
    assert [names.compression(file) for file in files] == ["", "xz", "gzip", "gzip", "bzip2", "zstd", ""]
