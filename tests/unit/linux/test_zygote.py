# SPDX-License-Identifier: LGPL-2.1-or-later
"""Helpers that are forks of a process that is kept."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from machined.linux import helper, netlink, zygote
from machined.linux.process import PidRef
from tests.settled import children
from tests.until import until

from .conftest import Guest


@pytest.fixture
async def kept() -> AsyncIterator[int]:
    """The number of the process."""
    before = set(children())
    async with helper.kept():
        (pid,) = set(children()) - before
        yield pid


@pytest.fixture
def deaf(tmp_path: Path) -> Iterator[dict[str, object]]:
    """Arguments of a job that hangs: to connect to somebody who takes no more connections."""
    path = str(tmp_path / "full")
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as first:
        server.bind(path)
        server.listen(0)
        first.connect(path)
        yield {"path": path, "timeout_msec": 60_000}


async def test_many_jobs_and_no_other_process(kept: int) -> None:
    replies = await asyncio.gather(*(helper.run("root", None, {}) for _ in range(2 * helper.CONCURRENCY)))
    for reply in replies:
        with reply.fds as fds:
            assert os.path.samestat(os.fstat(fds.peek(0)), os.stat("/"))
    assert kept in children()


async def test_in_a_guest(kept: int, guest: Guest) -> None:
    with (await helper.run("root", guest.ref, {})).fds as fds:
        assert os.path.samestat(os.fstat(fds.peek(0)), guest.tree.stat())
    reply = await helper.run("addresses", guest.ref, {})
    assert [netlink.text(a) for a in netlink.usable(netlink.decode(reply.data["addresses"]))] == [
        "192.0.2.7"
    ]


async def test_an_error_comes_back(kept: int) -> None:
    with pytest.raises(FileNotFoundError, match="'/no such file': No such file"):
        await helper.run("read", None, {"paths": ["/no such file"]})


async def test_one_that_hangs_is_killed_alone(kept: int, deaf: dict[str, object]) -> None:
    with socket.socket(socket.AF_UNIX) as client, pytest.raises(TimeoutError, match="took longer than"):
        await helper.run("connect", None, deaf, [client.fileno()], timeout=0.2)
    await _none_left(kept)
    (await helper.run("root", None, {})).fds.close()


async def _none_left(kept: int) -> None:
    await until(lambda: not forks(kept))


def has_begun() -> bool:
    """Whether the daemon's side has been told so of a job."""
    process = helper._keepers[asyncio.get_running_loop()]._zygote
    return process is not None and any(job.pidfd is not None for job in process._jobs.values())


def forks(kept: int) -> list[int]:
    """The numbers of the zygote's children."""
    return [int(pid) for pid in Path(f"/proc/{kept}/task/{kept}/children").read_text().split()]


async def test_a_dead_zygote_is_replaced(kept: int, deaf: dict[str, object]) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        task = asyncio.ensure_future(helper.run("connect", None, deaf, [client.fileno()]))
        await until(has_begun)
        with PidRef.open(forks(kept)[0]) as job, PidRef.open(kept) as process:
            process.kill(signal.SIGKILL)
            with pytest.raises(OSError, match="died during 'connect'") as caught:
                await task
            assert caught.value.errno == errno.EIO
            await until(lambda: not job.alive())
    (await helper.run("root", None, {})).fds.close()
    assert kept not in children()


async def test_the_end_ends_what_is_under_way(deaf: dict[str, object]) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        async with helper.kept():
            task = asyncio.ensure_future(helper.run("connect", None, deaf, [client.fileno()]))
            await asyncio.sleep(0.1)
        with pytest.raises(OSError, match="died during 'connect'"):
            await task


async def test_without_a_zygote_there_are_processes(kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(self: zygote.Zygote, sock: socket.socket) -> zygote.Job:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(zygote.Zygote, "begin", busy)
    (await helper.run("root", None, {})).fds.close()
