# SPDX-License-Identifier: LGPL-2.1-or-later

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from machined.linux import syscalls
from machined.linux.fds import OwnedFd


def test_openat2_stays_in_the_root(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "passwd").write_text("inside")
    (tmp_path / "link").symlink_to("/etc/passwd")
    with OwnedFd(os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)) as root:
        with OwnedFd(
            syscalls.openat2(root.fileno(), "link", os.O_RDONLY, resolve=syscalls.RESOLVE_IN_ROOT)
        ) as fd:
            assert os.read(fd.fileno(), 100) == b"inside"
            assert not os.get_inheritable(fd.fileno())
        with pytest.raises(OSError, match="symbolic links") as caught:
            syscalls.openat2(root.fileno(), "link", os.O_RDONLY, resolve=syscalls.RESOLVE_NO_SYMLINKS)
        assert (caught.value.errno, caught.value.filename) == (errno.ELOOP, "link")


def test_errors_carry_the_number() -> None:
    with pytest.raises(FileNotFoundError):
        syscalls.open_tree(syscalls.AT_FDCWD, "/no such path", 0)
    with OwnedFd(os.open("/dev/null", os.O_RDONLY)) as fd, pytest.raises(OSError, match="Invalid") as caught:
        syscalls.setns(fd.fileno(), syscalls.CLONE_NEWNET)
    assert caught.value.errno == errno.EINVAL


CODE = """
import os, tempfile
from machined.linux import syscalls
from machined.linux.mounts import flags_of
with tempfile.TemporaryDirectory() as directory:
    source, target = os.path.join(directory, "source"), os.path.join(directory, "target")
    os.mkdir(source)
    os.mkdir(target)
    open(os.path.join(source, "file"), "w").close()
    tree = syscalls.open_tree(
        syscalls.AT_FDCWD, source, syscalls.OPEN_TREE_CLONE | syscalls.OPEN_TREE_CLOEXEC
    )
    syscalls.mount_setattr(tree, "", syscalls.AT_EMPTY_PATH, set_attributes=syscalls.MOUNT_ATTR_RDONLY)
    syscalls.move_mount(tree, "", syscalls.AT_FDCWD, target, syscalls.MOVE_MOUNT_F_EMPTY_PATH)
    print(*os.listdir(target), "ro" in flags_of(target), "ro" in flags_of(source))
    syscalls.umount2(target, syscalls.MNT_DETACH | syscalls.UMOUNT_NOFOLLOW)
    print(*os.listdir(target))
"""


def test_bind_mount(in_mount_namespace: Callable[[str], list[str]]) -> None:
    assert in_mount_namespace(CODE) == ["file True False", ""]
