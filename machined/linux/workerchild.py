# SPDX-License-Identifier: LGPL-2.1-or-later
"""The process of one long operation: reads what to do from a socket, and answers there.

It is started for every operation: import nothing here that is not needed for all of them.
"""

from __future__ import annotations

import errno
import importlib
import marshal
import os
import signal
import sys
from typing import Any

from machined.linux.syscalls import die_with_parent

_ALLOWED = "machined.linux."


def _receive(sock: int, size: int) -> bytes:
    data = b""
    while len(data) < size:
        packet = os.read(sock, size - len(data))
        if not packet:
            sys.exit(1)
        data += packet
    return data


def _answer(sock: int, number: int, value: Any) -> None:
    data = marshal.dumps((number, value))
    while data:
        data = data[os.write(sock, data) :]
    os.close(sock)  # the end of the answer: nobody has to wait until this process is taken apart


def _stop(signo: int, frame: object) -> None:
    # Once: whoever takes back what was begun is not to be interrupted.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(1)


def main(sock: int) -> None:
    """Do the operation that comes in on this socket and end."""
    # Nothing goes on behind the back of a daemon that was killed, but what was begun is taken back.
    die_with_parent(signal.SIGTERM)
    signal.signal(signal.SIGTERM, _stop)
    os.umask(0o022)
    operation, args = marshal.loads(_receive(sock, int.from_bytes(_receive(sock, 8), "little")))
    module, _, function = operation.partition(":")
    assert module.startswith(_ALLOWED)
    try:
        value = getattr(importlib.import_module(module), function)(*args)
    except OSError as error:
        _answer(sock, error.errno or errno.EIO, error.strerror or str(error))
    else:
        _answer(sock, 0, value)
