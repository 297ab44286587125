# SPDX-License-Identifier: LGPL-2.1-or-later
"""Cookies of X servers, made good for any host."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from machined.linux import xauth


def entry(family: int, *fields: bytes) -> bytes:
    return family.to_bytes(2, "big") + b"".join(len(field).to_bytes(2, "big") + field for field in fields)


REST = (b"host", b"0", b"MIT-MAGIC-COOKIE-1", bytes(range(16)))


def test_for_any_host() -> None:
    assert xauth.for_any_host(entry(256, *REST) + entry(0, b"", b"", b"", b"")) == (
        entry(0xFFFF, *REST) + entry(0xFFFF, b"", b"", b"", b"")
    )


@pytest.mark.parametrize("size", range(len(entry(256, *REST))))
def test_no_cookies(size: int) -> None:
    with pytest.raises(ValueError, match=r"it ends|no cookie"):
        xauth.for_any_host(entry(256, *REST)[:size])


def test_reading(tmp_path: Path) -> None:
    path = tmp_path / "cookies"
    path.write_bytes(entry(256, *REST))
    assert xauth.read(str(path)) == entry(0xFFFF, *REST)
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(OSError, match=r"symbolic"):
        xauth.read(str(tmp_path / "link"))
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ValueError, match="no regular file"):
        xauth.read(str(tmp_path / "fifo"))
    path.write_bytes(entry(256, *REST) * 2000)
    with pytest.raises(ValueError, match="larger than 64 KiB"):
        xauth.read(str(path))
