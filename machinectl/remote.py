# SPDX-License-Identifier: LGPL-2.1-or-later
"""The system bus of another host (-H) or of a container (-M): systemd-stdio-bridge behind a socket pair.

jeepney wants a socket, and the container's bus must be reached from inside its namespaces; a process that
runs in there and passes the bytes on does both, the way systemd's own tools reach a user's bus in a
container.
"""

from __future__ import annotations

import os
import socket

from . import bus
from .errors import BusError, CommandError


def host_command(spec: str, *, user: bool = False) -> list[str]:
    """[USER@]HOST[:PORT][/CONTAINER] as an ssh command line."""
    host, _, container = spec.partition("/")
    host, colon, port = host.rpartition(":") if host.count(":") == 1 else (host, "", "")
    if not host or host.startswith("-") or (colon and not port.isdigit()):
        raise CommandError(f"'{spec}' is not a host: expected [USER@]HOST[:PORT][/CONTAINER].")
    inside = [f"--machine={container}"] if container else []
    inside += ["--user"] if user else []
    return ["ssh", "-xT", *(["-p", port] if colon else []), "--", host, "systemd-stdio-bridge", *inside]


def machine_command(spec: str, *, user: bool = False) -> list[str]:
    """[USER@]CONTAINER as a systemd-run command line; `user`: to the bus of that user."""
    login, _, name = spec.rpartition("@")
    if not name or name.startswith("-"):
        raise CommandError(f"'{spec}' is not a container: expected [USER@]CONTAINER.")
    if user:
        # It knows the way to a user's bus itself, by a login of that user.
        return ["systemd-stdio-bridge", f"--machine={spec}", "--user"]
    switch = [f"--property=User={login}", "--property=PAMName=login"] if login else []
    command = ["systemd-run", f"--machine={name}", "--pipe", "--quiet", "--wait", "--collect", *switch]
    return [*command, "--", "systemd-stdio-bridge"]


class RemoteBus:
    """A connection through a bridge process; `close` ends both."""

    def __init__(self, command: list[str], what: str, *, fds: bool, interactive: bool) -> None:
        """Raises CommandError when the bridge cannot be started or does not lead to a bus."""
        ours, theirs = socket.socketpair()
        try:
            actions = [(os.POSIX_SPAWN_DUP2, theirs.fileno(), 0), (os.POSIX_SPAWN_DUP2, theirs.fileno(), 1)]
            self._pid = os.posix_spawnp(command[0], command, os.environ, file_actions=actions)
        except OSError as error:
            ours.close()
            raise CommandError(f"Failed to run {command[0]} to reach {what}: {error.strerror}") from error
        finally:
            theirs.close()
        try:
            self.bus = bus.adopt(ours, fds=fds, interactive=interactive)
        except (OSError, BusError, RuntimeError) as error:
            ours.close()
            status = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
            raise CommandError(
                f"Failed to connect to the system bus of {what}: {command[0]} ended with status {status}.",
                "It needs systemd and D-Bus running over there, and the right to go there.",
            ) from error
        except BaseException:
            ours.close()
            os.waitpid(self._pid, 0)
            raise

    def close(self) -> None:
        self.bus.close()
        os.waitpid(self._pid, 0)
