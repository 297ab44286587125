# SPDX-License-Identifier: LGPL-2.1-or-later
"""What dbus-fast's transport lacks for a root daemon with hostile callers, in one place.

dbus-fast 5.2 (1) takes a full socket buffer for a fatal error, (2) receives file descriptors without
close-on-exec and truncates silently past sixteen, (3) reads one connection until it is empty, however much
a caller pipelines, (4) refuses what a bus lets through, such as an array in 63 variants, and takes that
for the end of the connection, and (5) keeps the trees of 4096 signatures, 40 kB each if a caller wants it.
What is here mends these; the codec and the authentication stay the library's.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import errno
import itertools
import logging
import os
import socket
import struct
from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from dbus_fast import Message
from dbus_fast._private.unmarshaller import Unmarshaller
from dbus_fast.signature import get_signature_tree

if TYPE_CHECKING:
    from machined.bus.connection import Bus

log = logging.getLogger(__name__)

# The kernel's limit of descriptors in one message (SCM_MAX_FD, unix(7)).
MAX_FDS: Final = 253
# Messages served from one connection before the other descriptors of the loop get their turn.
BATCH: Final = 32
# Decoding takes some twenty times the size of a message in memory. Nobody has to tell us that much.
MAX_MESSAGE: Final = 2 * 1024 * 1024
# Parsed signatures kept for the next message; all of ours are fewer.
MAX_SIGNATURES: Final = 256
# D-Bus specification, "Message Format": other types are to be ignored.
_TYPES: Final = frozenset(range(1, 5))
_CALL: Final = 1
_SIGNAL: Final = 4
_NO_REPLY: Final = 0x1
# Fields of a header, as they begin: their number and their type.
_PATH: Final = b"\x01\x01o\0"
_SENDER: Final = b"\x07\x01s\0"
_VERSION: Final = 1
# Bytes in which the header of a usual call ends.
_HEAD: Final = 512


# Plain numbers: arithmetic on the flags of the socket module takes longer than the system calls.
_CLOEXEC: Final = int(socket.MSG_CMSG_CLOEXEC)
_TRUNCATED: Final = int(socket.MSG_CTRUNC)
_PEEK: Final = int(socket.MSG_PEEK)
_NOSIGNAL: Final = int(socket.MSG_NOSIGNAL)
# Messages that leave in one system call.
GATHER: Final = 64


class Next(Enum):
    """What the connection has for us."""

    NOTHING = "nothing"
    MESSAGE = "message"
    DROPPED = "dropped"


class BusSocket(socket.socket):
    """A stream socket whose received descriptors are close-on-exec from the first moment.

    `budget` bounds the bytes that a peer may send in all (None: no bound), for peers that are not trusted.
    """

    budget: int | None = None
    framed = False
    """Whether the message that is being read has a header that tells its length for sure."""
    refuses: Callable[[str], bool] = staticmethod(lambda sender: False)
    """Whether a call of this sender that wants no reply would be refused: to decode it costs far more."""
    ignores: Callable[[str], bool] = staticmethod(lambda path: False)
    """Whether nobody wants to know of a signal of the object at this path."""
    _dropping = 0
    _arrived: tuple[int, ...] = ()

    def recvmsg(
        self, bufsize: int, ancbufsize: int = 0, flags: int = 0
    ) -> tuple[bytes, list[tuple[int, int, bytes]], int, Any]:
        """As socket.recvmsg; of a truncated list of descriptors none is kept, so a bad call fails alone."""
        room = socket.CMSG_SPACE(MAX_FDS * 4) if ancbufsize else 0
        data, ancillary, msg_flags, address = super().recvmsg(bufsize, room, flags | _CLOEXEC)
        if ancillary:
            self._arrived += tuple(_descriptors(ancillary))
        if msg_flags & _TRUNCATED:
            self.discard()
            ancillary = []
        if self.budget is not None:
            self.budget -= len(data)
            if self.budget < 0:
                raise OSError(errno.EMSGSIZE, "the other side sent more than is allowed")
        return data, ancillary, msg_flags, address

    def hand_over(self) -> None:
        """The descriptors that have arrived are another's to close."""
        self._arrived = ()

    def discard(self) -> None:
        """Close the descriptors of a message that nobody gets."""
        fds, self._arrived = self._arrived, ()
        for fd in fds:
            os.close(fd)

    def look(self) -> Next:
        """What comes next, between two messages; of one that nobody wants, what has come is dropped.

        Its sender gets no answer. Raises OSError, EOFError.
        """
        try:
            if not self._dropping:
                self._dropping = self._unwanted()
            if not self._dropping:
                return Next.MESSAGE
            while self._dropping:
                # Without room for them the kernel closes the descriptors that come along.
                taken = len(self.recv(min(self._dropping, 1 << 16)))
                if not taken:
                    raise EOFError
                self._dropping -= taken
        except BlockingIOError:
            return Next.NOTHING
        return Next.DROPPED

    def _unwanted(self) -> int:
        """Bytes of the next message if it is too large, of no known type, or unwanted; else 0."""
        head = self.recv(_HEAD, _PEEK)
        self.framed = len(head) >= 16 and head[:1] in {b"l", b"B"} and head[3] == _VERSION
        if not self.framed:
            return 0
        body, _, fields = struct.unpack("<3I" if head[:1] == b"l" else ">3I", head[4:16])
        length = 16 + (fields + 7) // 8 * 8 + body
        if head[1] == _CALL and head[2] & _NO_REPLY and self.refuses(_field(head, _SENDER)):
            return int(length)
        if head[1] == _SIGNAL and self.ignores(_field(head, _PATH)):
            return int(length)
        if length <= MAX_MESSAGE and head[1] in _TYPES:
            return 0
        log.warning("Discarding a message of type %d, %d bytes", head[1], length)
        return int(length)


def _field(head: bytes, field: bytes) -> str:
    """A field in the beginning of a message, which the bus has checked; empty when it is not seen whole.

    A caller that has spelled it before within another field only has its own message taken for another's.
    """
    found = head.find(field, 16)
    begin = found + 8  # the length of the text is between
    end = head.find(b"\0", begin)
    return head[begin:end].decode("ascii", "replace") if found >= 0 and end >= 0 else ""


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> array.array[int]:
    fds = array.array("i")
    for level, kind, payload in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
    return fds


class Writer:
    """Sends messages in order; a full socket buffer waits for room instead of ending the connection."""

    def __init__(self, bus: Bus, sock: socket.socket) -> None:
        self._bus = bus
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._queue: deque[tuple[memoryview, list[int], asyncio.Future[None] | None]] = deque()
        self._waiting = False
        self._scheduled = False

    def schedule_write(self, msg: Message, future: asyncio.Future[None] | None = None) -> None:
        """Queue one message; `future` resolves when its last byte is with the kernel.

        The descriptors in msg.unix_fds must stay open until then.
        """
        # The library types the buffer's flag as bool; marshalling raises on a body that misses its
        # signature.
        self._schedule(msg._marshall(True), list(msg.unix_fds or ()), future)

    def schedule_bytes(self, data: bytes) -> None:
        """Queue a message that is marshalled, and has no descriptors."""
        self._schedule(data, [], None)

    def _schedule(
        self, data: bytes | bytearray, fds: list[int], future: asyncio.Future[None] | None
    ) -> None:
        self._queue.append((memoryview(data), fds, future))
        if not (self._waiting or self._scheduled):
            # What is said in one turn of the loop, as a signal and a reply, is sent together.
            self._scheduled = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._scheduled = False
        try:
            while self._queue:
                try:
                    sent = self._send()
                except (BlockingIOError, InterruptedError):
                    if not self._waiting:
                        self._loop.add_writer(self._sock.fileno(), self._flush)
                        self._waiting = True
                    return
                self._sent(sent)
            if self._waiting:
                self._loop.remove_writer(self._sock.fileno())
                self._waiting = False
        except OSError as error:
            self._bus.lost(error)

    def _send(self) -> int:
        """Send what is first in the queue, and with it what follows without descriptors."""
        data, fds, _ = self._queue[0]
        if fds:
            return socket.send_fds(self._sock, [data], fds, _NOSIGNAL)
        if len(self._queue) == 1:
            return self._sock.send(data, _NOSIGNAL)
        run = [data]
        for data, fds, _ in itertools.islice(self._queue, 1, GATHER):
            if fds:
                break
            run.append(data)
        return self._sock.sendmsg(run, (), _NOSIGNAL)

    def _sent(self, count: int) -> None:
        while count:
            data, _, future = self._queue[0]
            if count < len(data):
                # The descriptors went with the first byte.
                self._queue[0] = (data[count:], [], future)
                return
            count -= len(data)
            self._queue.popleft()
            if future is not None and not future.done():
                future.set_result(None)

    def close(self, error: Exception | None) -> None:
        """Send what can be sent at once, if nothing is wrong, and give up the rest.

        The owners of descriptors hear of it through their futures.
        """
        if error is None and self._scheduled and not self._waiting:
            with contextlib.suppress(OSError):
                while self._queue:
                    self._sent(self._send())
        if self._waiting:
            self._loop.remove_writer(self._sock.fileno())
            self._waiting = False
        while self._queue:
            _, _, future = self._queue.popleft()
            if future is not None and not future.done():
                future.set_exception(error or ConnectionResetError("the bus connection was closed"))
                # Nobody has to look: most senders do not wait for their message to leave.
                future.exception()


def reader(
    sock: BusSocket, process: Callable[[Message], object], lost: Callable[[Exception], None]
) -> Callable[[], None]:
    """A callback for loop.add_reader that serves at most BATCH messages and comes again for the rest.

    `process` says whether somebody has waited for the message: who has goes on before the next is served.
    With descriptors negotiated the unmarshaller reads exactly one message at a time, so nothing is left in a
    buffer of ours when we return and the (level-triggered) poll reports the rest.
    """
    unmarshaller = Unmarshaller(None, sock, True)
    between = True

    def read() -> None:
        nonlocal between, unmarshaller
        try:
            for _ in range(BATCH):
                if between:
                    following = sock.look()
                    if following is Next.NOTHING:
                        return
                    if following is Next.DROPPED:
                        continue
                try:
                    message = unmarshaller.unmarshall()
                except (OSError, EOFError):
                    raise
                except Exception as error:
                    if not sock.framed:
                        raise
                    # All of it has been read: the next one begins where it should.
                    log.warning("Discarding a message that cannot be decoded: %s", error)
                    sock.discard()
                    unmarshaller, between = Unmarshaller(None, sock, True), True
                    continue
                finally:
                    if get_signature_tree.cache_info().currsize > MAX_SIGNATURES:
                        get_signature_tree.cache_clear()
                between = message is not None
                if message is None:
                    return
                sock.hand_over()
                if process(message):
                    return
        except Exception as error:
            sock.discard()
            lost(error)

    return read
