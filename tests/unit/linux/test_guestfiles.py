# SPDX-License-Identifier: LGPL-2.1-or-later
"""Bind mounts into guests and copies to and from them, through the helper, with guests that set traps."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import signal
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from machined.linux import helper, mounts
from machined.linux.process import PidRef

from .conftest import Guest, guest_with


@pytest.fixture(scope="module")
def plain() -> Iterator[Guest]:
    """A guest with the host's users."""
    with guest_with("mnt", "pid") as guest:
        yield guest


def seen(guest: Guest) -> dict[str, mounts.Mount]:
    """What is mounted in the guest, by path there."""
    data = Path(f"/proc/{guest.ref.pid}/mountinfo").read_bytes()
    return {mount.target.removeprefix(str(guest.tree)): mount for mount in mounts.parse(data)}


def inside(guest: Guest, path: str) -> Path:
    """A path as the guest sees it, mounts of its own included."""
    return Path(f"/proc/{guest.ref.pid}/root{path}")


def how_often(guest: Guest, path: str) -> int:
    """How many mounts lie at a path of the guest."""
    return Path(f"/proc/{guest.ref.pid}/mountinfo").read_text().count(f"{path} ")


async def bind(guest: Guest, source: Path | str, target: str, **more: Any) -> None:
    arguments = {"source": str(source), "destination": target, "read_only": False, "mkdir": False, **more}
    (await helper.run("bind", guest.ref, arguments)).fds.close()


async def copy(guest: Guest, host: Path, there: str, to_guest: bool = True, **more: Any) -> dict[str, Any]:
    path = Path(there)
    arguments = {
        "host": (str(host.parent), host.name),
        "guest": (str(path.parent), path.name),
        "to_guest": to_guest,
        "owner": None,
        "replace": False,
        **more,
    }
    with (reply := await helper.run("copy", guest.ref, arguments, timeout=None, in_turn=False)).fds:
        return reply.data


class TestBind:
    async def test_a_directory(self, plain: Guest, tmp_path: Path) -> None:
        (tmp_path / "inside").write_text("here")
        (plain.tree / "one").mkdir()
        await bind(plain, tmp_path, "/one")
        assert inside(plain, "/one/inside").read_text() == "here"
        assert "ro" not in seen(plain)["/one"].options
        assert not list((plain.tree / "one").iterdir()), "our own mounts are to stay as they are"

    async def test_read_only_and_again(self, plain: Guest, tmp_path: Path) -> None:
        """A second mount takes the place of the first."""
        await bind(plain, tmp_path, "/two/deep", mkdir=True)
        await bind(plain, tmp_path, "/two/deep", mkdir=True, read_only=True)
        assert "ro" in seen(plain)["/two/deep"].options
        assert how_often(plain, "/two/deep") == 1
        assert stat.S_IMODE((plain.tree / "two").stat().st_mode) == 0o755
        assert stat.S_IMODE((plain.tree / "two/deep").stat().st_mode) == 0o700

    @pytest.mark.parametrize("kind", ["file", "fifo", "link", "node"])
    async def test_what_is_no_directory(self, plain: Guest, tmp_path: Path, kind: str) -> None:
        source = tmp_path / kind
        if kind == "fifo":
            os.mkfifo(source)
        elif kind == "node":
            os.mknod(source, stat.S_IFCHR | 0o600, os.makedev(1, 3))
        else:
            (tmp_path / "file").write_text("here")
        if kind == "link":
            source.symlink_to("file")
        await bind(plain, source, f"/single/{kind}", mkdir=True)
        assert os.path.samestat(inside(plain, f"/single/{kind}").lstat(), source.stat())
        assert stat.S_ISREG((plain.tree / f"single/{kind}").stat().st_mode)

    async def test_a_file_in_place_of_a_mounted_one(self, plain: Guest, tmp_path: Path) -> None:
        for text in ("first", "second"):
            (tmp_path / text).write_text(text)
            await bind(plain, tmp_path / text, "/exchanged", mkdir=True)
        assert inside(plain, "/exchanged").read_text() == "second"
        assert how_often(plain, "/exchanged") == 1

    @pytest.mark.parametrize(
        ("source", "target", "mkdir", "number"),
        [
            ("missing", "/three", True, errno.ENOENT),
            ("directory", "/four", False, errno.ENOENT),
            ("directory", "/a-file", False, errno.EINVAL),
            ("file", "/etc", False, errno.EINVAL),
            ("file", "/a-file/x", True, errno.ENOTDIR),
            ("/proc/self/ns/net", "/five", True, errno.ENOENT),
            ("loop", "/six", True, errno.ELOOP),
        ],
    )
    async def test_refused(
        self, plain: Guest, tmp_path: Path, source: str, target: str, mkdir: bool, number: int
    ) -> None:
        (tmp_path / "directory").mkdir()
        (tmp_path / "file").touch()
        (tmp_path / "loop").symlink_to("loop")
        (plain.tree / "a-file").touch()
        with pytest.raises(OSError) as caught:
            await bind(plain, tmp_path / source, target, mkdir=mkdir)
        assert caught.value.errno == number

    async def test_links_lead_nowhere_else(self, plain: Guest, tmp_path: Path) -> None:
        """Out of the guest's tree there is no way, neither for the mount nor for what it needs made."""
        outside = tmp_path / "outside"
        outside.mkdir()
        (tmp_path / "source").mkdir()
        depth = "/.." * 20
        (plain.tree / "absolute").symlink_to(outside)
        (plain.tree / "upwards").symlink_to(depth + str(outside))
        for name in ("absolute", "upwards"):
            with pytest.raises(OSError):
                await bind(plain, tmp_path / "source", f"/{name}")
            with pytest.raises(FileNotFoundError):
                await bind(plain, tmp_path / "source", f"/{name}/below", mkdir=True)
        namesake = plain.tree / str(outside)[1:]
        namesake.mkdir(parents=True)
        for name in ("absolute", "upwards"):
            await bind(plain, tmp_path / "source", f"/{name}/{name}", mkdir=True)
            assert (namesake / name).is_dir()
        assert not list(outside.iterdir())
        assert not mounts.below(str(outside))

    async def test_processes_from_the_host_are_no_way_out(self, plain: Guest, tmp_path: Path) -> None:
        (tmp_path / "source").mkdir()
        (plain.tree / "proc").mkdir(exist_ok=True)
        await bind(plain, "/proc", "/proc")
        (plain.tree / "magic").symlink_to(f"/proc/{os.getpid()}/cwd")
        with pytest.raises(OSError) as caught:
            await bind(plain, tmp_path / "source", "/magic/tests", mkdir=True)
        assert caught.value.errno == errno.ELOOP
        assert (await copy(plain, tmp_path / "source", "/magic/x"))["errno"] == errno.ELOOP


class TestCopy:
    async def test_both_ways(self, plain: Guest, tmp_path: Path) -> None:
        source = tmp_path / "source"
        (source / "sub").mkdir(parents=True)
        (source / "sub/file").write_text("text")
        os.chown(source / "sub/file", 4711, 4712)
        assert await copy(plain, source, "/etc/arrived") == {}
        arrived = plain.tree / "etc/arrived/sub/file"
        assert (arrived.read_text(), arrived.stat().st_uid, arrived.stat().st_gid) == ("text", 4711, 4712)
        assert await copy(plain, tmp_path / "back", "/etc/arrived", to_guest=False, owner=0) == {}
        back = tmp_path / "back/sub/file"
        assert (back.read_text(), back.stat().st_uid, back.stat().st_gid) == ("text", 0, 0)

    async def test_with_users_of_its_own(self, guest: Guest, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("text")
        assert await copy(guest, tmp_path / "file", "/etc/mine", owner=100_000) == {}
        status = (guest.tree / "etc/mine").stat()
        assert (status.st_uid, status.st_gid) == (100_000, 100_000)

    async def test_failures_say_where(self, plain: Guest, tmp_path: Path) -> None:
        missing = {"errno": errno.ENOENT}
        assert await copy(plain, tmp_path / "none/x", "/etc/y") == {"failed": "host", **missing}
        assert await copy(plain, tmp_path / "none", "/etc/y") == {"failed": "copy", **missing}
        (tmp_path / "file").touch()
        assert await copy(plain, tmp_path / "file", "/none/y") == {"failed": "copy", **missing}
        assert await copy(plain, tmp_path / "file", "/etc/z") == {}
        there = {"failed": "copy", "errno": errno.EEXIST}
        assert await copy(plain, tmp_path / "file", "/etc/z") == there
        assert await copy(plain, tmp_path / "file", "/etc/z", replace=True) == {}

    async def test_links_are_those_of_the_guest(self, plain: Guest, tmp_path: Path) -> None:
        outside = tmp_path / "outside"
        outside.mkdir()
        (outside / "secret").write_text("secret")
        (tmp_path / "file").write_text("text")
        (plain.tree / "way-out").symlink_to("/.." * 20 + str(outside))
        assert (await copy(plain, tmp_path / "file", "/way-out/escaped"))["errno"] == errno.ENOENT
        stolen = await copy(plain, tmp_path / "stolen", "/way-out/secret", to_guest=False)
        assert stolen["errno"] == errno.ENOENT
        (plain.tree / "etc/trap").symlink_to(outside / "secret")
        assert await copy(plain, tmp_path / "file", "/etc/trap", replace=True) == {}
        assert (outside / "secret").read_text() == "secret"
        assert [p.name for p in outside.iterdir()] == ["secret"]

    async def test_it_ends_when_nobody_wants_it(self, plain: Guest, tmp_path: Path) -> None:
        """While it waits for a file that another process has a lease of, see fcntl(2)."""
        broken = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGIO, broken.set)
        lent = os.open(tmp_path / "lent", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            try:
                fcntl.fcntl(lent, fcntl.F_SETLEASE, fcntl.F_WRLCK)
            except OSError as error:
                pytest.skip(f"no leases on this file system: {error}")
            task = asyncio.ensure_future(copy(plain, tmp_path / "lent", "/etc/never"))
            await asyncio.wait_for(broken.wait(), 20)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        finally:
            os.close(lent)
            loop.remove_signal_handler(signal.SIGIO)
        assert not (plain.tree / "etc/never").exists()

    async def test_a_guest_that_is_gone(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with guest_with("mnt", "pid") as guest:
            pinned = guest.ref.dup()
        with pinned:
            gone = Guest(pinned, tmp_path)
            answer = await copy(gone, tmp_path / "file", "/x")
            assert answer == {"failed": "copy", "errno": errno.ESRCH}
            with pytest.raises(ProcessLookupError):
                await bind(gone, tmp_path, "/x")
        assert isinstance(pinned, PidRef)
