# SPDX-License-Identifier: LGPL-2.1-or-later

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from machined.linux import worker
from machined.linux.interpreter import Interpreter
from machined.linux.worker import TooManyError, Workers
from tests.settled import children

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


class Lock:
    """What is held during operations, and how often it was taken."""

    def __init__(self) -> None:
        self.held = 0
        self.taken = 0

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        self.held += 1
        self.taken += 1
        try:
            yield
        finally:
            self.held -= 1


def read(workers: Workers, where: Path, hold: Lock) -> asyncio.Future[object]:
    return asyncio.ensure_future(
        workers.share("machined.linux.rootfiles:read", str(where), (("none",),), hold=hold, timeout=30)
    )


async def test_those_who_ask_for_the_same_share_it(tmp_path: Path) -> None:
    workers, lock = Workers(2, wait=True), Lock()
    (tmp_path / "other").mkdir()
    same = [read(workers, tmp_path, lock) for _ in range(1000)]
    other = read(workers, tmp_path / "other", lock)
    await asyncio.sleep(0.01)
    same[0].cancel()  # the others want it still
    assert await asyncio.gather(*same[1:], other) == [[None]] * 1000
    assert (lock.taken, lock.held) == (2, 0)
    assert await read(workers, tmp_path, lock) == [None]  # what is over is not given again
    assert lock.taken == 3


async def test_nothing_is_held_by_those_who_wait(tmp_path: Path) -> None:
    workers, lock = Workers(1, wait=True), Lock()
    endless = asyncio.ensure_future(workers.run(f"{TREES}:run", "cat", fifo(tmp_path)))
    waiting = read(workers, tmp_path, lock)
    await asyncio.sleep(0.05)
    assert lock.taken == 0
    endless.cancel()
    assert await waiting == [None]
    assert (lock.taken, lock.held) == (1, 0)


async def test_what_nobody_waits_for_ends(tmp_path: Path) -> None:
    workers, lock = Workers(1, wait=True), Lock()
    cat = "cat", fifo(tmp_path)
    asking = [asyncio.ensure_future(workers.share(f"{TREES}:run", *cat, hold=lock)) for _ in range(3)]
    await asyncio.sleep(0.05)
    assert lock.held == 1
    for one in asking:
        one.cancel()
    await asyncio.gather(*asking, return_exceptions=True)
    assert lock.held == 0
    assert not workers.full
    assert await read(workers, tmp_path, lock) == [None]


async def test_all_are_told_what_went_wrong(tmp_path: Path) -> None:
    workers = Workers(1, wait=True)

    def busy() -> contextlib.AbstractContextManager[None]:
        raise OSError(errno.EBUSY, "busy")

    asking = [workers.share(f"{TREES}:unlink", (), hold=busy) for _ in range(3)]
    answers = await asyncio.gather(*asking, return_exceptions=True)
    assert [getattr(answer, "errno", None) for answer in answers] == [errno.EBUSY] * 3


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


def at_work() -> list[int]:
    """The processes of operations."""
    return [pid for pid, command in children().items() if "workerchild" in command]


async def reaped(before: set[int]) -> None:
    """Until there are no children but these: a killed one ends when the kernel is done with it."""
    async with asyncio.timeout(30):
        while set(children()) - before:  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def copying(workers: Workers, where: Path) -> asyncio.Future[object]:
    """A copy of "tree" to "copy" that is under way, with more to take back than goes in no time."""
    source = where / "tree"
    os.mkdir(source)
    for number in range(2000):
        (source / str(number)).write_bytes(b"x" * 65536)
    arguments: tuple[object, ...] = (str(source), str(where / "copy"), False, [])
    copy = asyncio.ensure_future(workers.run(f"{TREES}:copy_tree", *arguments))
    async with asyncio.timeout(30):
        while not await asyncio.to_thread(begun, where):  # noqa: ASYNC110 - another process does it
            await asyncio.sleep(0.005)
    return copy


async def test_what_was_begun_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "GRACE", 60.0)
    workers = Workers()
    copy = await copying(workers, tmp_path)
    await workers.close()
    await asyncio.gather(copy, return_exceptions=True)
    assert left(tmp_path) == ["tree"]


async def free(workers: Workers) -> None:
    async with asyncio.timeout(30):
        while workers.full:  # noqa: ASYNC110 - another process does it
            await asyncio.sleep(0.005)


async def test_it_takes_its_time_to_be_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for that, but it counts as long as it lasts."""
    monkeypatch.setattr(worker, "GRACE", 0.0)
    workers = Workers(1)
    copy = await copying(workers, tmp_path)
    (child,) = at_work()
    os.kill(child, signal.SIGSTOP)
    copy.cancel()
    await asyncio.wait([copy])
    assert copy.cancelled()
    assert workers.full
    os.kill(child, signal.SIGCONT)
    await free(workers)
    assert left(tmp_path) == ["tree"]


@pytest.mark.parametrize("cancelled", [True, False])
async def test_what_does_not_end_is_killed_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cancelled: bool
) -> None:
    monkeypatch.setattr(worker, "GRACE", 0.1)
    before = set(children())
    workers = Workers()
    copy = await copying(workers, tmp_path)
    os.kill(at_work()[0], signal.SIGSTOP)
    if cancelled:
        copy.cancel()
        await asyncio.wait([copy])
        assert at_work()
    await workers.close()
    await asyncio.gather(copy, return_exceptions=True)
    await reaped(before)
    assert any(name.startswith(".#machined-") for name in left(tmp_path)), "for the next start to sweep"


async def test_what_is_out_of_time_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is to be taken back of what has a limit, and it may hang for ever."""
    monkeypatch.setattr(worker, "GRACE", 0.1)
    before = set(children())
    workers = Workers()
    hanging = asyncio.ensure_future(workers.run(f"{TREES}:run", "cat", fifo(tmp_path), timeout=60))
    async with asyncio.timeout(30):
        while not at_work():  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    os.kill(at_work()[0], signal.SIGSTOP)
    hanging.cancel()
    await asyncio.wait([hanging])
    async with asyncio.timeout(30):
        while at_work():  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    await workers.close()
    await reaped(before)


# -- interpreters of their own -----------------------------------------------------------------------------

ENDS = "pass"  # without a word


def zombie(interpreter: Interpreter, wait: int = 0) -> bool:
    """Whether it is over, but not reaped: the loop does not turn, so its watcher has not heard of it."""
    with contextlib.suppress(ChildProcessError):
        flags = os.WEXITED | os.WNOWAIT | wait
        return os.waitid(os.P_PID, interpreter._process.pid, flags) is not None
    return False


async def test_who_is_told_to_end_too_late_is_reaped_by_its_watcher() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        interpreter = Interpreter(ENDS, theirs)
        assert zombie(interpreter)
        interpreter.terminate()
        assert zombie(interpreter, os.WNOHANG), "its group cannot be anybody else's yet"
        assert await interpreter.gone == 0


async def test_who_was_reaped_by_others_is_gone() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        interpreter = Interpreter(ENDS, theirs)
        interpreter._process.wait()
        async with asyncio.timeout(30):
            assert await interpreter.gone == 0
