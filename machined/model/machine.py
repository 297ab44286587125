# SPDX-License-Identifier: LGPL-2.1-or-later
"""A registered machine: what is known of it while it runs."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from machined.linux.escape import unit_name_escape
from machined.linux.process import PidRef
from machined.model.names import HOST

# VMADDR_CID_ANY, vsock(7): no CID is set.
NO_VSOCK_CID = 0xFFFFFFFF


class MachineClass(StrEnum):
    CONTAINER = "container"
    VM = "vm"
    HOST = "host"


class Phase(StrEnum):
    """The State property of org.freedesktop.machine1.Machine."""

    OPENING = "opening"
    RUNNING = "running"
    CLOSING = "closing"


@dataclass(slots=True, eq=False)
class Machine:
    """One registered machine. Times are µs; `leader` is pinned and owned by this object."""

    name: str
    cls: MachineClass
    id: bytes = b""  # 16 bytes, or empty when unset
    service: str = ""
    leader: PidRef | None = None
    leader_pid: int = 0  # still known when the process has gone
    leader_id: int | None = None  # pidfs inode
    supervisor: PidRef | None = None
    supervisor_pid: int = 0
    supervisor_id: int | None = None
    unit: str = ""
    subgroup: str = ""
    root_directory: str = ""
    ifindices: tuple[int, ...] = ()
    realtime: int = 0
    monotonic: int = 0
    uid: int = 0
    vsock_cid: int = NO_VSOCK_CID
    ssh_address: str = ""
    ssh_private_key_path: str = ""
    control_address: str = ""
    scope_job: str = ""  # object path of the pending job of the scope, empty when none
    referenced: bool = False  # PID 1 holds the unit for us (AddRef)
    stopping: bool = False
    started: bool = False  # announced by MachineNew

    @property
    def phase(self) -> Phase:
        if self.cls is MachineClass.HOST:
            return Phase.RUNNING
        if self.stopping:
            return Phase.CLOSING
        return Phase.OPENING if self.scope_job else Phase.RUNNING

    def set_leader(self, leader: PidRef) -> None:
        self.leader = leader
        self.leader_pid = leader.pid
        self.leader_id = leader.id

    def set_supervisor(self, supervisor: PidRef) -> None:
        self.supervisor = supervisor
        self.supervisor_pid = supervisor.pid
        self.supervisor_id = supervisor.id

    def leader_alive(self) -> bool:
        return self.leader is not None and self.leader.alive()

    def is_host(self) -> bool:
        return self.name == HOST

    def owns_unit(self) -> bool:
        """Whether its unit is the machine's alone: to stop the unit is to stop the machine and no more.

        Scopes that were made for it, our own units, and instances of the stock template are. A user chooses
        the name and is in units of the system's that hold more than is his: his own are made for him here.
        """
        if self.is_host():
            return False
        own = {f"machine-{unit_name_escape(self.name)}.scope"}
        if not self.uid:
            own |= {f"machine-{self.name}.service", f"{self.name}.scope"}
            own |= {f"systemd-nspawn@{self.name}.service", f"systemd-vmspawn@{self.name}.service"}
        return self.referenced or self.unit in own

    def close(self) -> None:
        """Give the pinned processes back."""
        for ref in (self.leader, self.supervisor):
            if ref is not None:
                ref.close()
        self.leader = self.supervisor = None
