# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whether the other side of a connection is still there, noticed without reading what it has sent."""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

T = TypeVar("T")


class PeerLostError(ConnectionError):
    """The peer left, or does not take a reply."""


@contextlib.contextmanager
def hung_up(sock: socket.socket) -> Iterator[asyncio.Future[None]]:
    """A future that is done when the peer has closed its socket; one that only stops sending has not."""
    loop = asyncio.get_running_loop()
    left: asyncio.Future[None] = loop.create_future()
    # The loop watches for input, of which there may be some for long: a set that is itself readable only
    # when the socket is in one of the two states that epoll always reports, EPOLLHUP and EPOLLERR.
    with select.epoll(1) as states:
        states.register(sock.fileno(), 0)

        def gone() -> None:
            loop.remove_reader(states.fileno())
            if not left.done():
                left.set_result(None)

        loop.add_reader(states.fileno(), gone)
        try:
            yield left
        finally:
            loop.remove_reader(states.fileno())
            left.cancel()


async def while_there(sock: socket.socket, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`; PeerLostError, with the work cancelled, if the peer leaves before."""
    task = asyncio.ensure_future(work)
    try:
        with hung_up(sock) as left:
            waiting: set[asyncio.Future[Any]] = {task, left}
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise PeerLostError("the peer left before its call was served")
    finally:
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
