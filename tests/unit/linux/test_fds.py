# SPDX-License-Identifier: LGPL-2.1-or-later

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator

import pytest

from machined.linux.fds import FdSet, OwnedFd, recv_with_fds, send_with_fds

Pair = tuple[socket.socket, socket.socket]


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def null() -> int:
    return os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)


@pytest.fixture(params=[socket.SOCK_STREAM, socket.SOCK_SEQPACKET])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    one, other = socket.socketpair(socket.AF_UNIX, request.param)
    with one, other:
        yield one, other


def test_owned_closes_once() -> None:
    fd = OwnedFd(null())
    number = fd.fileno()
    fd.close()
    fd.close()
    assert not is_open(number)
    assert fd.closed
    with pytest.raises(ValueError, match="closed"):
        fd.fileno()


def test_owned_closes_when_collected() -> None:
    fd = OwnedFd(null())
    number = fd.fileno()
    del fd
    assert not is_open(number)


def test_owned_detaches() -> None:
    with OwnedFd(null()) as fd:
        number = fd.detach()
    assert is_open(number)
    os.close(number)


def test_owned_duplicates() -> None:
    with OwnedFd(null()) as fd, fd.dup() as other:
        assert other.fileno() != fd.fileno()
        assert os.path.sameopenfile(other.fileno(), fd.fileno())
        assert not os.get_inheritable(other.fileno())


def test_owned_refuses_what_is_none() -> None:
    with pytest.raises(ValueError, match="-1"):
        OwnedFd(-1)


def test_set_makes_them_close_on_exec() -> None:
    number = null()
    os.set_inheritable(number, True)
    with FdSet([number]):
        assert not os.get_inheritable(number)


def test_set_keeps_places_after_stealing() -> None:
    numbers = [null(), null(), null()]
    with FdSet(numbers) as fds:
        assert fds.steal(0) == numbers[0]
        assert (len(fds), fds.peek(1)) == (3, numbers[1])
        for place in (0, 3, -1):
            with pytest.raises(IndexError):
                fds.peek(place)
    assert [is_open(number) for number in numbers] == [True, False, False]
    os.close(numbers[0])


def test_set_closes_when_collected() -> None:
    number = null()
    fds = FdSet([number])
    del fds
    assert not is_open(number)


def test_passing(pair: Pair) -> None:
    with OwnedFd(null()) as fd:
        send_with_fds(pair[0], b"hello", [fd.fileno(), fd.fileno()])
        data, fds = recv_with_fds(pair[1], 100, 2)
        with fds:
            assert (data, len(fds)) == (b"hello", 2)
            assert os.path.sameopenfile(fds.peek(0), fd.fileno())
            assert not os.get_inheritable(fds.peek(0))


def test_passing_none(pair: Pair) -> None:
    send_with_fds(pair[0], b"hello")
    data, fds = recv_with_fds(pair[1], 100, 0)
    assert (data, len(fds)) == (b"hello", 0)


def test_end_of_stream(pair: Pair) -> None:
    pair[0].close()
    data, fds = recv_with_fds(pair[1], 100, 1)
    assert (data, len(fds)) == (b"", 0)


@pytest.mark.parametrize("sent", [1, 2, 3, 4, 5])
def test_more_than_expected_are_all_closed(pair: Pair, sent: int) -> None:
    """Also when the rounding of the buffer lets one more in than was asked for."""
    with OwnedFd(null()) as fd:
        send_with_fds(pair[0], b"hello", [fd.fileno()] * sent)
        before = len(os.listdir("/proc/self/fd"))
        with pytest.raises(OSError, match="file descriptors") as caught:
            recv_with_fds(pair[1], 100, sent - 1)
        assert caught.value.errno == errno.EMSGSIZE
        assert len(os.listdir("/proc/self/fd")) == before


def test_cut_packet_is_an_error() -> None:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with one, other, OwnedFd(null()) as fd:
        send_with_fds(one, b"hello", [fd.fileno()])
        with pytest.raises(OSError, match="more than 4 bytes"):
            recv_with_fds(other, 4, 1)
