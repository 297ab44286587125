# SPDX-License-Identifier: LGPL-2.1-or-later

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys

import pytest

from machined.linux import process
from machined.linux.process import PidRef

from .conftest import Guest, line, started

Sleeper = subprocess.Popen[bytes]


def gone() -> int:
    """The number of a process that has been reaped just now."""
    child = subprocess.Popen(["true"])
    child.wait()
    return child.pid


def test_open(sleeper: Sleeper) -> None:
    with PidRef.open(sleeper.pid) as ref:
        assert ref.pid == sleeper.pid
        assert ref.alive()
        assert not os.get_inheritable(ref.fileno())


@pytest.mark.parametrize("pid", [0, -1])
def test_open_refuses_what_is_no_number(pid: int) -> None:
    with pytest.raises(ProcessLookupError, match=str(pid)):
        PidRef.open(pid)


def test_open_of_a_missing_process() -> None:
    pid = gone()
    with pytest.raises(ProcessLookupError, match=str(pid)):
        PidRef.open(pid)


def test_the_identity_is_the_process_s(sleeper: Sleeper) -> None:
    with (
        PidRef.open(sleeper.pid) as one,
        PidRef.open(sleeper.pid) as same,
        PidRef.open(os.getpid()) as other,
    ):
        if one.id is None:
            pytest.skip("this kernel's pidfds have no inodes of their own (Linux 6.9 has)")
        assert one.id == same.id != other.id


def test_adopt(sleeper: Sleeper) -> None:
    with PidRef.adopt(os.pidfd_open(sleeper.pid)) as ref:
        assert ref.pid == sleeper.pid


def test_adopt_of_the_dead(sleeper: Sleeper) -> None:
    pidfd = os.pidfd_open(sleeper.pid)
    sleeper.kill()
    sleeper.wait()
    with pytest.raises(ProcessLookupError, match="gone"):
        PidRef.adopt(pidfd)


def test_adopt_of_something_else() -> None:
    one, other = socket.socketpair()
    with other, pytest.raises(OSError, match="no pidfd"):
        PidRef.adopt(one.detach())


def test_kill_and_zombie(sleeper: Sleeper) -> None:
    with PidRef.open(sleeper.pid) as ref:
        ref.kill(signal.SIGTERM)
        os.waitid(os.P_PIDFD, ref.fileno(), os.WEXITED | os.WNOWAIT)
        assert not ref.alive()
        assert sleeper.wait() == -signal.SIGTERM
        with pytest.raises(ProcessLookupError):
            ref.kill(signal.SIGTERM)


def test_closed_reference(sleeper: Sleeper) -> None:
    ref = PidRef.open(sleeper.pid)
    ref.close()
    ref.close()
    with pytest.raises(ValueError, match="closed"):
        ref.alive()


def test_dup_outlives_the_original(sleeper: Sleeper) -> None:
    with PidRef.open(sleeper.pid) as ref:
        other = ref.dup()
    with other:
        assert (other.pid, other.alive()) == (sleeper.pid, True)


async def test_watch_calls_once(sleeper: Sleeper) -> None:
    loop = asyncio.get_running_loop()
    calls: list[int] = []
    with PidRef.open(sleeper.pid) as ref:
        exited = loop.create_future()

        def exit_once() -> None:
            calls.append(1)
            exited.set_result(None)

        ref.watch(loop, exit_once)
        with pytest.raises(RuntimeError, match="watched already"):
            ref.watch(loop, lambda: None)
        ref.kill(signal.SIGKILL)
        await exited
        assert calls == [1]
        again = loop.create_future()
        ref.watch(loop, lambda: again.set_result(None))  # the dead may be watched too
        await again


async def test_close_ends_the_watch(sleeper: Sleeper) -> None:
    loop = asyncio.get_running_loop()
    ref = PidRef.open(sleeper.pid)
    other = ref.dup()
    exited = loop.create_future()
    ref.watch(loop, lambda: pytest.fail("the reference is closed"))
    other.watch(loop, lambda: exited.set_result(None))
    ref.close()
    other.kill(signal.SIGKILL)
    await exited
    other.close()


def test_facts() -> None:
    with started("sh", "-c", "echo ready; read line") as child:
        assert line(child) == "ready"
        assert process.comm(child.pid) == "sh"
        assert process.parent(child.pid) == os.getpid()
        assert process.real_uid(child.pid) == os.getuid()
        assert process.same_namespace(child.pid, "net")


def test_facts_of_the_missing() -> None:
    pid = gone()
    for call in (process.comm, process.parent, process.real_uid):
        with pytest.raises(ProcessLookupError):
            call(pid)
    with pytest.raises(ProcessLookupError):
        process.same_namespace(pid, "mnt")
    with pytest.raises(ProcessLookupError):
        process.id_map(pid, "uid")
    with pytest.raises(ProcessLookupError):
        process.handles_signal(pid, signal.SIGTERM)


def test_handled_signals() -> None:
    code = """
import signal as s
s.signal(s.SIGUSR1, print)
s.signal(s.SIGHUP, s.SIG_IGN)
s.pthread_sigmask(s.SIG_BLOCK, [s.SIGUSR2, s.SIGRTMIN + 4])
print("ready", flush=True)
s.pause()
"""
    with started(sys.executable, "-c", code) as child:
        assert line(child) == "ready"
        handled = {s for s in range(1, 65) if process.handles_signal(child.pid, s)}
    expected = {signal.SIGUSR1, signal.SIGUSR2, signal.SIGRTMIN + 4, signal.SIGKILL, signal.SIGSTOP}
    assert handled == expected | {signal.SIGINT}  # which Python catches


def test_own_id_map() -> None:
    for kind in ("uid", "gid"):
        lines = process.id_map(os.getpid(), kind)
        assert all(count > 0 for _, _, count in lines)
        assert len(lines) >= 1


def test_guest(guest: Guest) -> None:
    assert process.id_map(guest.ref.pid, "uid") == [(0, 100_000, 65536)]
    assert process.real_uid(guest.ref.pid) == 100_000
    for kind in ("mnt", "pid", "net", "user"):
        assert not process.same_namespace(guest.ref.pid, kind)
    assert process.same_namespace(guest.ref.pid, "uts")


def test_clocks() -> None:
    realtime, monotonic = process.now_usec()
    later, later_monotonic = process.now_usec()
    assert monotonic <= later_monotonic
    assert 0 < process.boot_time_realtime_usec() < min(realtime, later)
