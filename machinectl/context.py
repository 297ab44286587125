# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a verb works with: the options, the bus when it asks for one, the password agent with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .errors import BusError, CommandError, explain
from .table import Options, Verb

if TYPE_CHECKING:
    from .agent import Agent
    from .bus import Bus
    from .remote import RemoteBus


class Context:
    """One run of one verb; `close` ends whatever it started."""

    def __init__(self, options: Options, verb: Verb) -> None:
        self.options = options
        self.verb = verb
        self._bus: Bus | None = None
        self._remote: RemoteBus | None = None
        self._agent: Agent | None = None

    @property
    def local(self) -> bool:
        return not self.options.host and self.options.machine in ("", ".host")

    def bus(self, *, fds: bool = False) -> Bus:
        """The connection, made at the first call. Raises CommandError."""
        if self._bus is None:
            self._bus = self._connect(fds)
        return self._bus

    def mutating_bus(self, *, fds: bool = False) -> Bus:
        """The same, with an agent at hand that can ask for a password where polkit wants one."""
        self.start_agent()
        return self.bus(fds=fds)

    def start_agent(self) -> None:
        """From here on somebody asks for the passwords polkit wants, unless that is not wished for."""
        if self._agent is None and self.options.ask_password and self.local:
            from .agent import Agent

            self._agent = Agent.start()

    def end_agent(self) -> None:
        """From here on nobody asks for passwords: the terminal is needed for something else."""
        if self._agent is not None:
            self._agent.stop()
            self._agent = None

    def failure(self, error: BusError, what: str) -> CommandError:
        return explain(error, what, self.verb.name, asking=self.options.ask_password)

    def close(self) -> None:
        self.end_agent()
        if self._remote is not None:
            self._remote.close()
        elif self._bus is not None:
            self._bus.close()

    def _connect(self, fds: bool) -> Bus:
        from . import bus

        options = self.options
        if options.host and options.machine:
            raise CommandError("--host= and --machine= cannot be combined.")
        if self.local:
            return bus.open_local_bus(user=options.user, fds=fds, interactive=options.ask_password)
        from . import remote

        if options.host:
            command = remote.host_command(options.host, user=options.user)
            what = f"host '{options.host}'"
        else:
            command = remote.machine_command(options.machine, user=options.user)
            what = f"container '{options.machine}'"
        self._remote = remote.RemoteBus(command, what, fds=fds, interactive=options.ask_password)
        return self._remote.bus
