# SPDX-License-Identifier: LGPL-2.1-or-later

from __future__ import annotations

import os
from pathlib import Path

import pytest

from machined.linux import pty

pytestmark = pytest.mark.skipif(
    not os.access("/dev/ptmx", os.R_OK | os.W_OK), reason="/dev/ptmx cannot be opened"
)


def test_both_ends() -> None:
    master, number = pty.open_pty()
    with master, pty.open_peer(master.fileno()) as peer:
        assert os.isatty(peer.fileno())
        assert os.ttyname(peer.fileno()) == f"/dev/pts/{number}"
        assert not os.get_inheritable(master.fileno())
        assert not os.get_inheritable(peer.fileno())
        pty.set_size(master.fileno(), 24, 80)
        assert os.get_terminal_size(peer.fileno()) == (80, 24)
        os.write(master.fileno(), b"hello\n")
        assert os.read(peer.fileno(), 100) == b"hello\n"


def test_it_does_not_become_our_terminal() -> None:
    def terminal() -> str:
        return Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()[4]

    before = terminal()
    master, _ = pty.open_pty()
    with master, pty.open_peer(master.fileno()):
        assert terminal() == before


def test_what_is_no_multiplexer(tmp_path: Path) -> None:
    (tmp_path / "ptmx").touch()
    with pytest.raises(OSError, match="Inappropriate ioctl"):
        pty.open_pty(str(tmp_path / "ptmx"))
    with pytest.raises(FileNotFoundError):
        pty.open_pty(str(tmp_path / "none"))
