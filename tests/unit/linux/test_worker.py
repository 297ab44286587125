# SPDX-License-Identifier: LGPL-2.1-or-later

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from machined.linux.worker import TooManyError, Workers

TREES = "machined.linux.trees"


async def test_results_and_errors_come_back(tmp_path: Path) -> None:
    workers = Workers()
    (tmp_path / "one").write_bytes(b"data")
    await workers.run(f"{TREES}:rename", str(tmp_path / "one"), str(tmp_path / "two"), [])
    assert (tmp_path / "two").read_bytes() == b"data"
    found = await workers.run("machined.linux.rootfiles:read", str(tmp_path), [["none", "two"], ["none"]])
    assert found == [b"data", None]
    (tmp_path / "one").touch()
    with pytest.raises(FileExistsError):
        await workers.run(f"{TREES}:rename", str(tmp_path / "one"), str(tmp_path / "two"), [])
    with pytest.raises(OSError, match="died"):
        await workers.run("machined.model.images:nothing")
    assert not workers.full


def fifo(tmp_path: Path) -> str:
    """What `cp` of it waits for ever."""
    os.mkfifo(tmp_path / "fifo")
    return str(tmp_path / "fifo")


async def test_there_is_a_limit(tmp_path: Path) -> None:
    workers = Workers(1)
    endless = asyncio.ensure_future(workers.run(f"{TREES}:run", "cat", fifo(tmp_path)))
    await asyncio.sleep(0)
    with pytest.raises(TooManyError):
        await workers.run(f"{TREES}:unlink", [])
    endless.cancel()
    await asyncio.gather(endless, return_exceptions=True)
    assert endless.cancelled()
    await workers.run(f"{TREES}:unlink", [])


async def test_others_wait_their_turn(tmp_path: Path) -> None:
    workers = Workers(1, wait=True)
    runs = [workers.run("machined.linux.rootfiles:read", str(tmp_path), [["none"]]) for _ in range(3)]
    assert await asyncio.gather(*runs) == [[None]] * 3


async def test_time_is_limited(tmp_path: Path) -> None:
    workers = Workers()
    with pytest.raises(TimeoutError) as caught:
        await workers.run(f"{TREES}:run", "cat", fifo(tmp_path), timeout=0.3)
    assert caught.value.errno is not None
    assert not workers.full


def begun(where: Path) -> bool:
    return any(where.glob(".#machined-*/*"))


def left(where: Path) -> list[str]:
    return [path.name for path in where.iterdir()]


async def test_what_was_begun_is_taken_back(tmp_path: Path) -> None:
    workers = Workers()
    source = tmp_path / "tree"
    os.mkdir(source)
    for number in range(2000):
        (source / str(number)).write_bytes(b"x" * 65536)
    arguments: tuple[object, ...] = (str(source), str(tmp_path / "copy"), False, [])
    copy = asyncio.ensure_future(workers.run(f"{TREES}:copy_tree", *arguments))
    async with asyncio.timeout(30):
        while not await asyncio.to_thread(begun, tmp_path):  # noqa: ASYNC110 - another process does it
            await asyncio.sleep(0.005)
    await workers.close()
    await asyncio.gather(copy, return_exceptions=True)
    assert left(tmp_path) == ["tree"]
