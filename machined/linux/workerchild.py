# SPDX-License-Identifier: LGPL-2.1-or-later
"""The process of one long operation: reads what to do from its standard input, a socket, and answers there.

It is started for every operation: import nothing here that is not needed for all of them.
"""

from __future__ import annotations

import ctypes
import errno
import importlib
import marshal
import os
import signal
import sys
from typing import Any

_ALLOWED = "machined.linux."
# <linux/prctl.h>
_PR_SET_PDEATHSIG = 1


def _receive(size: int) -> bytes:
    data = b""
    while len(data) < size:
        packet = os.read(0, size - len(data))
        if not packet:
            sys.exit(1)
        data += packet
    return data


def _answer(number: int, value: Any) -> None:
    data = marshal.dumps((number, value))
    while data:
        data = data[os.write(0, data) :]


def _stop(signo: int, frame: object) -> None:
    # Once: whoever takes back what was begun is not to be interrupted.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(1)


def main() -> None:
    """Do the operation and end."""
    # Nothing goes on behind the back of a daemon that was killed, but what was begun is taken back.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    signal.signal(signal.SIGTERM, _stop)
    os.umask(0o022)
    operation, args = marshal.loads(_receive(int.from_bytes(_receive(8), "little")))
    module, _, function = operation.partition(":")
    assert module.startswith(_ALLOWED)
    try:
        value = getattr(importlib.import_module(module), function)(*args)
    except OSError as error:
        _answer(error.errno or errno.EIO, error.strerror or str(error))
    else:
        _answer(0, value)
