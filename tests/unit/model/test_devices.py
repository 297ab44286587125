# SPDX-License-Identifier: LGPL-2.1-or-later
"""Nodes of devices: made for a machine and its users, and taken away again. As root."""

from __future__ import annotations

import asyncio
import os
import stat
import threading
from pathlib import Path
from typing import Any

import pytest

from machined.linux import devnodes
from machined.model import devices
from machined.model.devices import Devices
from machined.model.errors import MachineError, Problem
from machined.model.settings import layers, merge
from machined.model.settings.merge import Effective

NULL = os.makedev(1, 3)
FULL = os.makedev(1, 7)


def _may_make_nodes() -> bool:
    path = Path(f"/dev/machined-test-node-{os.getpid()}")
    try:
        os.mknod(path, stat.S_IFCHR | 0o600, NULL)
    except OSError:
        return False
    path.unlink()
    return True


pytestmark = pytest.mark.skipif(os.geteuid() != 0 or not _may_make_nodes(), reason="needs to make devices")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(devices, "DIRECTORY", tmp_path / "nodes")
    monkeypatch.setattr(devices, "COOKIES", tmp_path / "cookies")
    monkeypatch.setattr(devices, "ALLOWED", tmp_path / "allowed")
    return tmp_path / "nodes"


def settings(*words: str) -> Effective:
    effective = merge.merge([layers.from_command_line(words, 257)])
    assert not effective.errors()
    return effective


def made(path: Path) -> tuple[int, int, int, int]:
    status = os.lstat(path)
    assert stat.S_ISCHR(status.st_mode)
    return status.st_rdev, stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid


async def test_the_machines_own(place: Path) -> None:
    nodes = Devices()
    said = settings("Device=/dev/null", "Device=/dev/full:/dev/other:r")
    prepared = await nodes.prepare("web", said, "", 0x80000)
    assert prepared.options == (f"--bind={place}/web/0:/dev/null", f"--bind={place}/web/1:/dev/other")
    [allow] = prepared.properties
    assert (allow.name, allow.value) == ("DeviceAllow", [["/dev/null", "rw"], ["/dev/full", "r"]])
    assert prepared == devices.plan("web", said)
    permissions = stat.S_IMODE(os.stat("/dev/null").st_mode)
    assert made(place / "web/0") == (NULL, permissions, 0x80000, 0x80000)
    assert made(place / "web/1")[0] == FULL
    assert stat.S_IMODE(os.lstat(place).st_mode) == 0o700
    run = nodes.run("web")
    assert run
    await nodes.prepare("web", settings("Device=/dev/full"), "", 0)
    assert nodes.run("web") != run
    assert made(place / "web/0")[0] == FULL
    nodes.release("web")
    nodes.release("web")
    assert not nodes.run("web")
    assert not (place / "web").exists()


async def test_groups_are_those_of_the_tree(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = tmp_path / "tree"
    (tree / "etc").mkdir(parents=True)
    (tree / "etc/group").write_text("root:x:0:\nrender:x:105:\nbad:x:70000:\nrest\n", encoding="utf-8")
    monkeypatch.setattr(devices, "_group_name", lambda number: "render")
    nodes = Devices()
    await nodes.prepare("web", settings("Device=/dev/null"), str(tree), 0x80000)
    assert made(place / "web/0")[2:] == (0x80000, 0x80000 + 105)
    monkeypatch.setattr(devices, "_group_name", lambda number: "bad")
    await nodes.prepare("web", settings("Device=/dev/null"), str(tree), 0)
    assert made(place / "web/0")[2:] == (0, 0)
    await nodes.prepare("web", settings("Device=/dev/null"), str(tree), None)
    assert made(place / "web/0")[1:] == (0o666, 0, 0)
    nodes.release("web")


async def test_directories(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    top = Path(f"/dev/machined-test-{os.getpid()}")
    (top / "by-path").mkdir(parents=True)
    try:
        os.mknod(top / "by-path/one", stat.S_IFCHR | 0o660, NULL)
        os.mknod(top / "two", stat.S_IFCHR | 0o600, FULL)
        (top / "link").symlink_to("/etc/shadow")
        (top / "nowhere").symlink_to("nothing")
        (top / "name").symlink_to("two")
        (top / "file").touch()
        nodes = Devices()
        prepared = await nodes.prepare("web", settings(f"Device={top}"), "", 0)
        paths = [row[0] for row in prepared.properties[0].value]
        assert paths == [f"{top}/by-path/one", f"{top}/name", f"{top}/two"]
        assert made(place / "web/0/by-path/one")[0] == NULL
        assert made(place / "web/0/two")[0] == FULL
        assert sorted(os.listdir(place / "web/0")) == ["by-path", "name", "two"]
        monkeypatch.setattr(devices, "NODES_MAX", 1)
        with pytest.raises(MachineError) as raised:
            await nodes.prepare("web", settings(f"Device={top}"), "", 0)
        assert raised.value.problem is Problem.INVALID_SETTINGS
        assert not (place / "web").exists()
    finally:
        devnodes.remove(top)


async def test_what_is_not_there(place: Path) -> None:
    nodes = Devices()
    for path in ("/dev/machined-nothing", "/dev/pts"):
        if path == "/dev/pts" and os.listdir(path):
            continue
        with pytest.raises(MachineError) as raised:
            await nodes.prepare("web", settings(f"Device={path}"), "", 0)
        assert path in raised.value.text
    assert not (place / "web").exists()


async def test_after_a_restart(place: Path) -> None:
    before = Devices()
    for name in ("up", "down"):
        await before.prepare(name, settings("Device=/dev/null"), "", 0)
    after = Devices()
    after.adopt(lambda name: name == "up")
    assert after.run("up")
    assert not after.run("down")
    assert os.listdir(place) == ["up"]
    after.release("up")


def test_most_have_none(place: Path) -> None:
    nodes = Devices()
    assert asyncio.run(nodes.prepare("web", settings(), "", 0)) == devices.Prepared()
    assert not nodes.run("web")
    assert not place.exists()


def test_never_less_than_every_machine_may_do() -> None:
    said = settings("Device=/dev/null:r", "Device=/dev/null:/dev/other:w")
    [allow] = devices.plan("web", said).properties
    assert allow.value == [["/dev/null", "rw"]]
    if Path("/dev/fuse").exists():
        assert devices.plan("web", settings("Device=/dev/fuse:r")).properties == ()


async def test_what_was_told_stays_known(place: Path) -> None:
    nodes = Devices()
    await nodes.prepare("web", settings("Device=/dev/full:r"), "", 0)
    assert nodes.allowed("web") == [["/dev/full", "r"]]
    after = Devices()
    after.adopt(lambda name: True)
    assert after.allowed("web") == [["/dev/full", "r"]]
    assert after.allowed("other") == []
    after.release("web")
    assert after.allowed("web") == []
    assert os.listdir(devices.ALLOWED) == []


async def test_a_start_that_is_cancelled(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread goes on; what it makes is there when the caller hears of it."""
    began, go = threading.Event(), threading.Event()
    make = devnodes.make

    def slow(*args: Any) -> None:
        began.set()
        go.wait(10)
        make(*args)

    monkeypatch.setattr(devnodes, "make", slow)
    nodes = Devices()
    start = asyncio.ensure_future(nodes.prepare("web", settings("Device=/dev/null"), "", 0))
    await asyncio.to_thread(began.wait, 10)
    start.cancel()
    await asyncio.sleep(0)
    start.cancel()
    assert not start.done()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await start
    nodes.release("web")
    assert os.listdir(place) == []


async def test_disks_are_not_for_everybody(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devnodes.Node, "is_block", True)
    with pytest.raises(MachineError) as raised:
        await Devices().prepare("web", settings("Device=/dev/null"), "", None)
    assert "PrivateUsers=" in raised.value.text
    assert os.listdir(place) == []


async def test_cookies(place: Path, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"\1\0" + b"\0\1a" * 4)
    nodes = Devices()
    prepared = await nodes.prepare("web", settings(f"XAuthority={path}"), "", 0)
    cookies = devices.COOKIES / "web"
    assert prepared.options == (
        f"--bind-ro={cookies}:/run/host/xauthority",
        "--setenv=XAUTHORITY=/run/host/xauthority",
    )
    assert cookies.read_bytes() == b"\xff\xff" + b"\0\1a" * 4
    assert stat.S_IMODE(os.lstat(devices.COOKIES).st_mode) == 0o700
    nodes.release("web")
    assert os.listdir(devices.COOKIES) == []
    path.write_bytes(b"no cookie")
    with pytest.raises(MachineError, match="it ends in the middle"):
        await nodes.prepare("web", settings(f"XAuthority={path}"), "", 0)
