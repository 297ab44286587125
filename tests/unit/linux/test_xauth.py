# SPDX-License-Identifier: LGPL-2.1-or-later
"""Cookies of X servers: made good for any host, and found by the socket of a server."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
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


SERVER = (
    "import socket, sys; s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(); "
    "print('up', flush=True); sys.stdin.read()"
)


@contextmanager
def server(path: Path, *words: str) -> Iterator[None]:
    argv = [sys.executable, "-c", SERVER, str(path), *words]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        yield
        process.communicate()


def test_the_file_of_a_server(tmp_path: Path) -> None:
    file, path = tmp_path / "auth", tmp_path / "X0"
    file.touch()
    assert xauth.server_file(str(path)) == ""
    with server(path, "-auth", str(file)):
        assert xauth.server_file(str(path)) == str(file)
        file.unlink()
        assert xauth.server_file(str(path)) == ""
    path.unlink()
    with server(path, "-auth"):
        assert xauth.server_file(str(path)) == ""
