# SPDX-License-Identifier: LGPL-2.1-or-later

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from machined.linux.identity import reset_identity

ID = "0123456789abcdef0123456789abcdef\n"
FILES = ("etc/machine-id", "var/lib/dbus/machine-id", "var/lib/systemd/random-seed")
SECRET = "var/lib/systemd/credential.secret"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    for name in (*FILES, SECRET):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(ID, encoding="ascii")
    (root / "etc/machine-id").chmod(0o444)
    return root


def test_a_system_becomes_nobody(tree: Path) -> None:
    reset_identity(str(tree))
    assert (tree / "etc/machine-id").read_bytes() == b""
    assert (tree / "etc/machine-id").stat().st_mode & 0o777 == 0o444
    assert not [name for name in (*FILES[1:], SECRET) if (tree / name).exists()]


@pytest.mark.parametrize("content", ["", "uninitialized\n"])
def test_what_has_no_identity_yet_stays_so(tree: Path, content: str) -> None:
    path = tree / "etc/machine-id"
    path.unlink()
    path.write_text(content, encoding="ascii")
    reset_identity(str(tree))
    assert path.read_text(encoding="ascii") == content


def test_what_is_missing_stays_so(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    reset_identity(str(tmp_path))
    assert list(tmp_path.rglob("*")) == [tmp_path / "etc"]


def outside(tmp_path: Path) -> Path:
    """A tree beside it, of which nothing may change."""
    other = tmp_path / "outside"
    for name in (*FILES, SECRET):
        (other / name).parent.mkdir(parents=True, exist_ok=True)
        (other / name).write_text("of the host", encoding="ascii")
    return other


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("where", ["etc", "var", "var/lib", "var/lib/dbus", "var/lib/systemd"])
def test_directories_that_lead_out(tree: Path, tmp_path: Path, where: str, relative: bool) -> None:
    other = outside(tmp_path)
    shutil.rmtree(tree / where)
    target = other / where
    (tree / where).symlink_to(os.path.relpath(target, (tree / where).parent) if relative else target)
    reset_identity(str(tree))
    assert all((other / name).read_text(encoding="ascii") == "of the host" for name in (*FILES, SECRET))


@pytest.mark.parametrize("name", [*FILES, SECRET])
def test_files_that_are_something_else(tree: Path, tmp_path: Path, name: str) -> None:
    """Links out of the tree, into it, and to themselves; FIFOs, which would hang; and directories."""
    other, path = outside(tmp_path), tree / name
    bystander = tree / "etc/passwd"
    bystander.write_text("root", encoding="ascii")
    for target in (other / name, "/etc/passwd", path.name, "/proc/self/fd/0"):
        path.unlink()
        path.symlink_to(target)
        reset_identity(str(tree))
        assert path.is_symlink()
    path.unlink()
    os.mkfifo(path)
    reset_identity(str(tree))
    assert path.is_fifo()
    path.unlink()
    path.mkdir()
    (path / "inside").touch()
    reset_identity(str(tree))
    assert (path / "inside").exists()
    assert bystander.read_text(encoding="ascii") == "root"
    assert (other / name).read_text(encoding="ascii") == "of the host"


def test_a_file_in_the_place_of_a_directory(tree: Path) -> None:
    shutil.rmtree(tree / "var/lib")
    (tree / "var/lib").write_text("no directory", encoding="ascii")
    reset_identity(str(tree))
    assert (tree / "var/lib").read_text(encoding="ascii") == "no directory"


def test_an_etc_of_another_name_in_the_tree(tree: Path) -> None:
    """A link that stays in the tree is followed, as the guest itself would."""
    (tree / "etc").rename(tree / "config")
    (tree / "etc").symlink_to("/config")
    reset_identity(str(tree))
    assert (tree / "config/machine-id").read_bytes() == b""
