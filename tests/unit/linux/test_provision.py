# SPDX-License-Identifier: LGPL-2.1-or-later

from __future__ import annotations

import os
from pathlib import Path

import pytest

from machined.linux import passwords, provision
from machined.linux.rootwrite import Root

SHADOW = "daemon:*:1:0:99999:7:::\nroot:*:20000:0:99999:7:::\n"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    top = tmp_path / "tree"
    for directory in ("etc/default", "root", "usr/share/zoneinfo/Europe", "var/lib/dbus"):
        (top / directory).mkdir(parents=True)
    (top / "usr/share/zoneinfo/Europe/Berlin").touch()
    (top / "etc/passwd").write_text("root::0:0::/root:/bin/sh\n", encoding="ascii")
    (top / "etc/shadow").write_text(SHADOW, encoding="ascii")
    (top / "etc/shadow").chmod(0o640)
    return top


def test_everything(tree: Path) -> None:
    (tree / "etc/timezone").write_text("UTC\n", encoding="ascii")
    settings = {
        "hostname": "web", "locale": "de_DE.UTF-8", "timezone": "Europe/Berlin", "password": "$6$x$y",
        "ssh-key": "ssh-rsa A\n",
    }  # fmt: skip
    for _ in range(2):  # also over what is there
        provision.apply(str(tree), settings, False, False)
    assert (tree / "etc/hostname").read_text(encoding="ascii") == "web\n"
    assert (tree / "etc/default/locale").read_text(encoding="ascii") == "LANG=de_DE.UTF-8\n"
    assert os.readlink(tree / "etc/localtime") == "../usr/share/zoneinfo/Europe/Berlin"
    assert (tree / "etc/timezone").read_text(encoding="ascii") == "Europe/Berlin\n"
    lines = (tree / "etc/shadow").read_text(encoding="ascii").splitlines()
    assert lines[0] == SHADOW.splitlines()[0]
    assert lines[1].startswith("root:$6$x$y:")
    assert lines[1].endswith(":0:99999:7:::")
    assert not lines[1].startswith("root:$6$x$y:20000")
    assert (tree / "etc/shadow").stat().st_mode & 0o777 == 0o640
    assert (tree / "etc/passwd").read_text(encoding="ascii") == "root:x:0:0::/root:/bin/sh\n"
    assert (tree / "root/.ssh/authorized_keys").read_text(encoding="ascii") == "ssh-rsa A\n"
    assert (tree / "root/.ssh").stat().st_mode & 0o777 == 0o700
    assert (tree / "root/.ssh/authorized_keys").stat().st_mode & 0o777 == 0o600
    assert not list(tree.rglob(".#*"))


def test_a_tree_without_shadow(tree: Path) -> None:
    (tree / "etc/shadow").unlink()
    provision.apply(str(tree), {"password": "$6$x"}, False, False)
    assert (tree / "etc/shadow").read_text(encoding="ascii").startswith("root:$6$x:")
    assert (tree / "etc/shadow").stat().st_mode & 0o777 == 0o600


def test_an_identity_of_its_own(tree: Path) -> None:
    for content in (b"0" * 32, b"uninitialized\n", None):
        if content is None:
            (tree / "etc/machine-id").unlink()
        else:
            (tree / "etc/machine-id").write_bytes(content)
        (tree / "etc/hostname").touch()
        provision.apply(str(tree), {}, True, True)
        assert (tree / "etc/machine-id").read_bytes() == b""
        assert not (tree / "etc/hostname").exists()


def test_an_unknown_time_zone(tree: Path) -> None:
    with pytest.raises(FileNotFoundError, match="tzdata"):
        provision.apply(str(tree), {"timezone": "Mars/Olympus"}, False, False)


@pytest.mark.parametrize("where", ["absolute", "relative"])
def test_links_stay_in_the_tree(tree: Path, tmp_path: Path, where: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "shadow").write_text(SHADOW, encoding="ascii")
    (outside / "target").write_text("keep\n", encoding="ascii")
    base = str(outside) if where == "absolute" else "../../outside"
    (tree / "etc/hostname").symlink_to(f"{base}/target")
    (tree / "etc/shadow").unlink()
    (tree / "etc/shadow").symlink_to(f"{base}/shadow")
    (tree / "root").rmdir()
    (tree / "root").symlink_to(base)
    with pytest.raises(OSError):
        provision.apply(
            str(tree), {"hostname": "x", "password": "$6$x", "ssh-key": "ssh-rsa A\n"}, True, True
        )
    assert (outside / "shadow").read_text(encoding="ascii") == SHADOW
    assert sorted(path.name for path in outside.iterdir()) == ["shadow", "target"]
    assert (outside / "target").read_text(encoding="ascii") == "keep\n"
    assert not (tree / "etc/hostname").is_symlink()


def test_fifos_and_devices_do_not_block(tree: Path) -> None:
    (tree / "etc/shadow").unlink()
    os.mkfifo(tree / "etc/shadow")
    with Root(str(tree)) as root:
        assert root.read("etc/shadow") is None
        assert root.kind("etc/shadow") == "other"
    provision.apply(str(tree), {"password": "$6$x"}, False, False)
    assert (tree / "etc/shadow").is_file()


def test_kinds(tree: Path) -> None:
    (tree / "etc/masked").symlink_to("/dev/null")
    (tree / "etc/dangling").symlink_to("/nowhere")
    with Root(str(tree)) as root:
        found = {
            path: root.kind(path) for path in ("etc/masked", "etc/dangling", "etc/passwd", "etc", "none/x")
        }
    assert found == {
        "etc/masked": "null", "etc/dangling": "", "etc/passwd": "file", "etc": "directory", "none/x": "",
    }  # fmt: skip


def test_a_hash_is_that_of_the_password() -> None:
    first, second = passwords.hashed("correct horse"), passwords.hashed("correct horse")
    assert first != second
    assert first.startswith("$6$rounds=100000$")
    # The same salt gives the same hash, which is how a login compares.
    import ctypes

    library = ctypes.CDLL("libcrypt.so.1")
    library.crypt.restype = ctypes.c_char_p
    assert library.crypt(b"correct horse", first.encode()).decode() == first
    assert library.crypt(b"wrong horse", first.encode()).decode() != first
