# SPDX-License-Identifier: LGPL-2.1-or-later
"""Python processes that do one thing for the daemon: isolated, lean, each with its own process group."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Final

from machined.linux.process import PidRef

_PACKAGES: Final = str(Path(__file__).parent.parent.parent)
_ENVIRONMENT: Final = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
    "SYSTEMD_BYPASS_USERDB": "1",
}


def program(module: str) -> str:
    """What runs main(number of the socket) of a module."""
    # Imported from the package rather than run by path: only imported modules have their byte code cached.
    return f"import sys\nsys.path.append(sys.argv[1])\nfrom {module} import main\nmain(int(sys.argv[2]))\n"


def start(text: str, sock: socket.socket) -> subprocess.Popen[bytes]:
    """Run a program, whose arguments are where our packages are and the number of this socket."""
    return subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", text, _PACKAGES, str(sock.fileno())],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        pass_fds=[sock.fileno()],
        env=_ENVIRONMENT,
        cwd="/",
        process_group=0,
    )


class Interpreter:
    """One such process, from its start to its reaping, which needs nobody to wait for it."""

    def __init__(self, text: str, sock: socket.socket) -> None:
        """As start()."""
        # Popen rather than asyncio's subprocesses: those are reaped behind our back (on 3.11 by a thread),
        # and a process group may only be signalled while its leader is not reaped.
        self._process = start(text, sock)
        loop = asyncio.get_running_loop()
        self.gone: asyncio.Future[int] = loop.create_future()
        """Done when it is reaped; its result is what Popen calls returncode. Shield it."""
        self._ref = PidRef.open(self._process.pid)
        self._ref.watch(loop, self._reap)

    def _reap(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.kill()  # the last chance to name what it may have started
        self._process.wait()
        self._ref.close()
        self.gone.set_result(self._process.returncode)

    def terminate(self) -> None:
        """Ask it to end; to be called until it is gone."""
        # Not by Popen, which reaps a process that has ended instead: then its group had no name any more.
        with contextlib.suppress(ProcessLookupError):
            self._ref.kill(signal.SIGTERM)

    def kill(self) -> None:
        """End it and all it has started; to be called until it is gone."""
        os.killpg(self._process.pid, signal.SIGKILL)
