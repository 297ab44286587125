# SPDX-License-Identifier: LGPL-2.1-or-later
"""The text agent of polkit: asks for a password on the terminal when a call needs one."""

from __future__ import annotations

import os
import signal

_PROGRAM = "/usr/bin/pkttyagent"


class Agent:
    """A running agent, ended by `stop`."""

    def __init__(self, pid: int) -> None:
        self._pid = pid

    @classmethod
    def start(cls) -> Agent | None:
        """An agent for this process, ready to ask; None for root, without a terminal or without polkit."""
        if os.geteuid() == 0 or not (os.isatty(0) and os.isatty(2)) or not os.access(_PROGRAM, os.X_OK):
            return None
        ready, notify = os.pipe()
        os.set_inheritable(notify, True)
        # --fallback: an agent of the desktop's goes first.
        command = [_PROGRAM, "--notify-fd", str(notify), "--fallback", "--process", str(os.getpid())]
        try:
            pid = os.posix_spawn(_PROGRAM, command, os.environ)
        except OSError:
            os.close(ready)
            return None
        finally:
            os.close(notify)
        # It closes its end when it is registered, or when it dies.
        os.read(ready, 1)
        os.close(ready)
        return cls(pid)

    def stop(self) -> None:
        os.kill(self._pid, signal.SIGTERM)
        os.kill(self._pid, signal.SIGCONT)  # it may have been stopped for touching the terminal
        os.waitpid(self._pid, 0)
