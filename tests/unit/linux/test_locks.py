# SPDX-License-Identifier: LGPL-2.1-or-later

from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path

import pytest

from machined.linux.locks import FileLock, holder_conflict


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / ".#image.lck")


def test_exclusive(path: str) -> None:
    with FileLock.acquire(path) as lock:
        assert os.stat(path).st_mode & 0o7777 == 0o600
        assert not os.get_inheritable(lock.fileno())
        for exclusive in (True, False):
            with pytest.raises(BlockingIOError, match="somebody else") as caught:
                FileLock.acquire(path, exclusive=exclusive)
            assert caught.value.filename == path
    assert not os.path.exists(path)


def test_shared(path: str) -> None:
    first, second = FileLock.acquire(path, exclusive=False), FileLock.acquire(path, exclusive=False)
    with pytest.raises(BlockingIOError):
        FileLock.acquire(path)
    first.release()
    assert os.path.exists(path)
    second.release()
    assert not os.path.exists(path)
    second.release()


def test_close_of_the_same_file_does_not_unlock(path: str) -> None:
    with FileLock.acquire(path):
        os.close(os.open(path, os.O_RDWR))
        with pytest.raises(BlockingIOError):
            FileLock.acquire(path)


def test_an_abandoned_lock_ends(path: str) -> None:
    lock = FileLock.acquire(path)
    del lock
    FileLock.acquire(path).release()


def test_a_symlink_is_refused(tmp_path: Path, path: str) -> None:
    os.symlink(tmp_path / "elsewhere", path)
    with pytest.raises(OSError, match="symbolic links"):
        FileLock.acquire(path)
    assert not (tmp_path / "elsewhere").exists()


def test_missing_directory(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        FileLock.acquire(str(tmp_path / "none" / "lock"))


def test_waiting_ends_with_a_file_that_guards(path: str) -> None:
    """Who waited on the file that its holder removed has to start over."""
    first = FileLock.acquire(path)
    taken: list[FileLock] = []
    waiter = threading.Thread(target=lambda: taken.append(FileLock.acquire(path, nonblocking=False)))
    waiter.start()
    first.release()
    waiter.join()
    assert os.path.samestat(os.stat(path), os.fstat(taken[0].fileno()))
    taken[0].release()


def test_unlinked_between_open_and_lock(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = fcntl.fcntl
    opened: list[int] = []

    def lock(fd: int, command: int, argument: bytes) -> object:
        if not opened:
            os.unlink(path)
        opened.append(fd)
        return real(fd, command, argument)

    monkeypatch.setattr(fcntl, "fcntl", lock)
    with FileLock.acquire(path):
        assert len(opened) == 2
        assert os.path.exists(path)


def test_release_leaves_another_s_file(path: str) -> None:
    lock = FileLock.acquire(path)
    os.unlink(path)
    with FileLock.acquire(path):
        lock.release()
        assert os.path.exists(path)


def test_conflict_is_only_looked_at(path: str) -> None:
    assert not holder_conflict(path)
    assert not os.path.exists(path)
    with FileLock.acquire(path, exclusive=False):
        assert holder_conflict(path)
        assert not holder_conflict(path, exclusive=False)
    with FileLock.acquire(path):
        assert holder_conflict(path, exclusive=False)
    Path(path).touch()
    assert not holder_conflict(path)
