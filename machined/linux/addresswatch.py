# SPDX-License-Identifier: LGPL-2.1-or-later
"""The addresses of one network namespace, kept until the kernel says that they have changed."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from typing import Final

from machined.linux import netlink, rtdump
from machined.linux.netlink import Address

# Notifications thrown away before a new look; more come in meanwhile only from somebody who floods us.
_DRAIN: Final = 1024


class AddressWatch:
    """Owns a route socket. The first change wakes the loop, the next ones nobody before a new look."""

    def __init__(self, sock: socket.socket) -> None:
        """Takes over the socket, which tells the namespace. Raises OSError (and closes it)."""
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._listening = False
        self._known: list[Address] | None = None
        self._texts: list[str] | None = None
        self.usable = True
        """Whether there is a point in asking again: False when there were too many, see rtdump."""
        try:
            sock.setblocking(False)
            sock.bind((0, netlink.RTMGRP_IPV4_IFADDR | netlink.RTMGRP_IPV6_IFADDR))
        except BaseException:
            sock.close()
            raise

    def addresses(self) -> list[Address]:
        """Usable addresses in the order of use. Raises OSError, TimeoutError."""
        if self._known is not None:
            return self._known
        self._drain()
        outcome = rtdump.Outcome()
        found = netlink.usable(Address(*row) for row in rtdump.dump(self._sock, outcome))
        self._texts = None
        self.usable = not outcome.broken_off
        if not (outcome.noticed or outcome.broken_off):
            self._known = found
            self._loop.add_reader(self._sock.fileno(), self._changed)
            self._listening = True
        return found

    def texts(self) -> list[str]:
        """The same as people write them."""
        found = self.addresses()
        if self._known is None:
            return [netlink.text(address) for address in found]
        if self._texts is None:
            self._texts = [netlink.text(address) for address in found]
        return self._texts

    def _drain(self) -> None:
        for _ in range(_DRAIN):
            try:
                self._sock.recv(1)  # the rest of a datagram goes with it
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:  # some were lost, all are out of date anyway
                    raise
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    def _changed(self) -> None:
        self._known = self._texts = None
        self._stop()

    def _stop(self) -> None:
        if self._listening:
            self._loop.remove_reader(self._sock.fileno())
            self._listening = False

    def close(self) -> None:
        """Idempotent."""
        self._stop()
        self._known = None
        self.usable = False
        self._sock.close()
