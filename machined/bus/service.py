# SPDX-License-Identifier: LGPL-2.1-or-later
"""The model on the system bus: objects, signals, and the name that is taken last."""

from __future__ import annotations

import asyncio
import logging
from collections import deque

from dbus_fast import Message

from machined.bus import images, logcontrol, machine1, machined1, manager1
from machined.bus.connection import DBUS, DBUS_PATH, Bus
from machined.bus.dispatch import Dispatcher
from machined.bus.names import IMAGES, JOBS, LOG_CONTROL, MACHINES, ROOT, SERVICE, job_path, machine_path
from machined.bus.polkit import Polkit
from machined.bus.systemd1 import Systemd1
from machined.bus.vtable import Fallback, Fixed
from machined.linux.escape import bus_label_escape
from machined.model.core import Core
from machined.model.jobs import Job, Result
from machined.model.machine import Machine
from machined.model.state import State

log = logging.getLogger(__name__)

# Replies of RequestName (D-Bus specification).
PRIMARY_OWNER = 1
# Seconds that the word of a changed state may wait for something more urgent.
STATES_DELAY = 0.001


class NameTakenError(Exception):
    """Somebody else owns the name of the service."""


class BusService:
    """Serves a Core on one connection."""

    def __init__(self, bus: Bus, core: Core, systemd: Systemd1, control: logcontrol.LogControl) -> None:
        self._bus = bus
        self._core = core
        self._systemd = systemd
        self._polkit = Polkit(bus, core.version)
        self.dispatcher = Dispatcher(bus, self._polkit, core.version)
        self.lost_name: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._states: deque[tuple[str, State, State]] = deque()
        self._manager = manager1.table(core.version)
        self._own_machine = machined1.machine_table(core)
        self._add_objects(control)
        core.registry.on_new.append(self._machine_new)
        core.registry.on_removed.append(self._machine_removed)
        core.states.changed.append(self._state_changed)
        core.jobs.on_new.append(self._job_new)
        core.jobs.on_removed.append(self._job_removed)
        bus.on_signal = self._signal
        self.dispatcher.start()

    @property
    def polkit(self) -> Polkit:
        return self._polkit

    def _add_objects(self, control: logcontrol.LogControl) -> None:
        core = self._core
        find = machine1.finder(core)
        self.dispatcher.add(Fixed(ROOT, core, (self._manager, machined1.MANAGER)))
        self.dispatcher.add(
            Fallback(MACHINES, machine1.machine_table(core), find, machine1.enumerator(core))
        )
        self.dispatcher.add(
            Fallback(MACHINES, self._own_machine, machined1.machine_finder(core, find), list)
        )
        self.dispatcher.add(
            Fallback(
                IMAGES,
                images.image_table(core),
                lambda call, label: core.images.find(label),
                lambda: [bus_label_escape(image.name) for image in core.images.list()],
            )
        )
        self.dispatcher.add(
            Fallback(
                JOBS, machined1.JOB, machined1.job_finder(core), lambda: [str(job.id) for job in core.jobs]
            )
        )
        self.dispatcher.add(Fixed(LOG_CONTROL, control, (logcontrol.TABLE,)))

    async def acquire_name(self) -> None:
        """Take the service's name; raises NameTakenError. From here on callers come."""
        await self._bus.add_match(
            f"type='signal',sender='{DBUS}',interface='{DBUS}',member='NameLost',arg0='{SERVICE}'"
        )
        # Callers that leave: arg2 is the new owner, which there is none of then.
        await self._bus.add_match(f"type='signal',sender='{DBUS}',member='NameOwnerChanged',arg2=''")
        reply = await self._bus.request(DBUS, DBUS_PATH, DBUS, "RequestName", "su", [SERVICE, 0])
        if reply[0] != PRIMARY_OWNER:
            raise NameTakenError(
                f"The name {SERVICE} on the system bus belongs to another process; "
                f"stop the other systemd-machined first."
            )

    # -- signals in ----------------------------------------------------------------------------------------

    def _signal(self, message: Message) -> None:
        if message.sender == DBUS and message.member == "NameLost" and message.body == [SERVICE]:
            if not self.lost_name.done():
                self.lost_name.set_result(None)
            return
        if message.sender == DBUS and message.member == "NameOwnerChanged" and not message.body[2]:
            self.dispatcher.sender_left(message.body[0])
        self._polkit.handle_signal(message)
        self._systemd.handle_signal(message)

    # -- signals out ---------------------------------------------------------------------------------------

    def _machine_new(self, machine: Machine) -> None:
        self.dispatcher.emit(ROOT, self._manager, "MachineNew", machine.name, machine_path(machine.name))

    def _machine_removed(self, machine: Machine) -> None:
        self._tell_states()
        self.dispatcher.emit(ROOT, self._manager, "MachineRemoved", machine.name, machine_path(machine.name))

    def _state_changed(self, name: str, state: State, previous: State) -> None:
        # Who registers a machine waits for the reply, and not for what others hear of it.
        if not self._states:
            asyncio.get_running_loop().call_later(STATES_DELAY, self._tell_states)
        self._states.append((name, state, previous))

    def _tell_states(self) -> None:
        """Emit what is waiting, in order; nothing that follows from it may be said before."""
        while self._states:
            self._tell_state(*self._states.popleft())

    def _tell_state(self, name: str, state: State, previous: State) -> None:
        path = machine_path(name)
        self.dispatcher.emit(
            ROOT, machined1.MANAGER, "MachineStateChanged", name, path, state.value, previous.value
        )
        self._changed(name, ["State", "StateTimestamp", "Result"])

    def _job_new(self, job: Job) -> None:
        self._tell_states()
        path = job_path(job.id)
        self.dispatcher.emit(ROOT, machined1.MANAGER, "JobNew", job.id, path, job.machine, job.verb.value)
        self._changed(job.machine, ["Job"])

    def _job_removed(self, job: Job, result: Result, message: str) -> None:
        self._tell_states()
        path = job_path(job.id)
        self.dispatcher.emit(
            ROOT,
            machined1.MANAGER,
            "JobRemoved",
            job.id,
            path,
            job.machine,
            job.verb.value,
            result.value,
            message,
        )
        self._changed(job.machine, ["Job"])

    def _changed(self, name: str, properties: list[str]) -> None:
        self.dispatcher.properties_changed(
            machine_path(name), self._own_machine, machined1.Subject(name), properties
        )
