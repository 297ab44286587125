# SPDX-License-Identifier: LGPL-2.1-or-later
"""What io.systemd.Machine's methods do: the machine looked up, polkit asked, the model called."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from machined.linux import process
from machined.linux.process import PidRef
from machined.model.core import Core
from machined.model.errors import MachineError, Problem, no_such_machine
from machined.model.machine import NO_VSOCK_CID, Machine, MachineClass
from machined.model.names import HOST, is_machine_name
from machined.model.registrar import Registration
from machined.model.terminals import ShellRequest, is_assignment, open_login, open_pty, open_shell
from machined.varlink.server import Call
from machined.varlink.table import (
    VarlinkError,
    invalid_parameter,
)

ACTION: Final = "org.freedesktop.machine1."

# Asks polkit about a peer: (peer call, action, details, interactive).
Authorize = Callable[[Call, str, Mapping[str, str], bool], Awaitable[None]]


class Handlers:
    """The methods, over a Core."""

    def __init__(self, core: Core, authorize: Authorize) -> None:
        self._core = core
        self._authorize = authorize

    # -- looking up ----------------------------------------------------------------------------------------

    def _lookup(self, call: Call, given: Mapping[str, Any]) -> Machine:
        """The machine that name and/or pid mean. Raises MachineError, VarlinkError."""
        found: Machine | None = None
        if "name" in given:
            name = given["name"]
            if name != HOST and not is_machine_name(name):
                raise invalid_parameter("name")
            found = self._core.registry.find(name)
        if "pid" in given:
            with self._process(call, given["pid"]) as meant:
                of_process = self._core.registry.of_process(meant)
            if of_process is None or (found is not None and of_process is not found):
                raise no_such_machine(str(given["pid"]["pid"]))
            found = of_process
        if found is None:
            raise no_such_machine("")
        return found

    def _process(self, call: Call, given: Mapping[str, Any]) -> PidRef:
        """A ProcessId, pinned.

        0 is the peer itself. Raises ProcessLookupError when it is not the one meant.
        """
        if given["pid"] == 0:
            return call.peer.process()
        if not 0 < given["pid"] < 2**31:
            raise invalid_parameter("pid")
        meant = PidRef.open(given["pid"])
        if meant.id is not None and given.get("pidfdId") not in {None, 0, meant.id}:
            meant.close()
            raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
        return meant

    # -- registering ---------------------------------------------------------------------------------------

    async def register(self, call: Call, given: Mapping[str, Any]) -> None:
        core = self._core
        if not is_machine_name(given["name"]):
            raise invalid_parameter("name")
        if given["class"] not in {MachineClass.CONTAINER, MachineClass.VM}:
            raise invalid_parameter("class")
        cls = MachineClass(given["class"])
        for key in ("rootDirectory", "sshPrivateKeyPath"):
            if not given.get(key, "/").startswith("/"):
                raise invalid_parameter(key)
        if not 2 < given.get("vSockCid", 3) <= NO_VSOCK_CID - 1:
            raise invalid_parameter("vSockCid")
        indices = given.get("ifIndices", [])
        if any(not 0 < i < 2**31 for i in indices):
            raise invalid_parameter("ifIndices")
        try:
            machine_id = bytes.fromhex(given.get("id", "").replace("-", ""))
        except ValueError:
            raise invalid_parameter("id") from None
        if len(machine_id) not in {0, 16}:
            raise invalid_parameter("id")
        allocate = given.get("allocateUnit", False)
        action = "create-machine" if allocate or core.version < 258 else "register-machine"
        interactive = given.get("allowInteractiveAuthentication", False)
        await self._authorize(
            call, ACTION + action, {"name": given["name"], "class": cls.value}, interactive
        )
        leader = self._leader(call, given)
        try:
            supervisor = self._supervisor(call, leader)
        except BaseException:
            leader.close()
            raise
        await core.registrar.register(
            Registration(
                name=given["name"],
                cls=cls,
                leader=leader,
                id=machine_id,
                service=given.get("service", ""),
                root_directory=given.get("rootDirectory", ""),
                ifindices=tuple(indices),
                supervisor=supervisor,
                uid=call.peer.uid,
                vsock_cid=given.get("vSockCid"),
                ssh_address=given.get("sshAddress", ""),
                ssh_private_key_path=given.get("sshPrivateKeyPath", ""),
                control_address=given.get("controlAddress", ""),
                scope=[] if allocate else None,
            )
        )

    def _leader(self, call: Call, given: Mapping[str, Any]) -> PidRef:
        if "leaderProcessId" in given:
            leader = self._process(call, given["leaderProcessId"])
            if given.get("leader", leader.pid) != leader.pid:
                leader.close()
                raise invalid_parameter("leader")
        elif "leader" in given:
            leader = self._process(call, {"pid": given["leader"]})
        else:
            leader = call.peer.process()
        if call.peer.uid != 0 and process.real_uid(leader.pid) != call.peer.uid:
            leader.close()
            raise MachineError(Problem.ACCESS_DENIED, "Only root may register machines for other users")
        return leader

    def _supervisor(self, call: Call, leader: PidRef) -> PidRef | None:
        if self._core.version < 258 or call.peer.pid == leader.pid:
            return None
        try:
            return call.peer.process()
        except ProcessLookupError:
            return None

    # -- acting --------------------------------------------------------------------------------------------

    async def _may_manage(self, call: Call, machine: Machine, verb: str, given: Mapping[str, Any]) -> None:
        core = self._core
        if core.version >= 258 and not machine.is_host() and call.peer.uid == machine.uid:
            return
        details = {"name": machine.name, "verb": verb}
        interactive = given.get("allowInteractiveAuthentication", False)
        await self._authorize(call, ACTION + "manage-machines", details, interactive)
        core.registry.still(machine)

    async def unregister(self, call: Call, given: Mapping[str, Any]) -> None:
        machine = self._lookup(call, given)
        await self._may_manage(call, machine, "unregister", given)
        self._core.registrar.unregister(machine)

    async def terminate(self, call: Call, given: Mapping[str, Any]) -> None:
        machine = self._lookup(call, given)
        await self._may_manage(call, machine, "terminate", given)
        await self._core.registrar.terminate(machine)

    async def kill(self, call: Call, given: Mapping[str, Any]) -> None:
        machine = self._lookup(call, given)
        whom = given.get("whom", "all")
        if whom not in {"leader", "all"} and not (whom == "supervisor" and self._core.version >= 258):
            raise invalid_parameter("whom")
        if not 1 <= given["signal"] <= signal.SIGRTMAX:
            raise invalid_parameter("signal")
        await self._may_manage(call, machine, "kill", given)
        await self._core.registrar.kill(machine, whom, given["signal"])

    async def open(self, call: Call, given: Mapping[str, Any]) -> dict[str, Any]:
        core = self._core
        machine = self._lookup(call, given)
        mode = given["mode"]
        request = ShellRequest(
            given.get("user", ""), given.get("path", ""), given.get("args", ()), given.get("environment", ())
        )
        if request.path and not request.path.startswith("/"):
            raise invalid_parameter("path")
        if not all(map(is_assignment, request.environment)):
            raise invalid_parameter("environment")
        details = {"machine": machine.name}
        if mode == "shell":
            program, argv = request.command()
            details |= {"user": request.user or "root", "program": program, "command_line": " ".join(argv)}
        if mode != "tty":
            details["verb"] = mode
        action = ("host-" if machine.is_host() else "") + {"tty": "open-pty"}.get(mode, mode)
        owner = core.version >= 258 and not machine.is_host() and call.peer.uid == machine.uid
        if not owner:
            interactive = given.get("allowInteractiveAuthentication", False)
            await self._authorize(call, ACTION + action, details, interactive)
            core.registry.still(machine)
        if mode == "tty":
            terminal = await open_pty(machine)
        elif mode == "login":
            terminal = await open_login(machine, core.connector)
        else:
            terminal = await open_shell(machine, core.connector, request)
        return {"ptyFileDescriptor": call.attach(terminal.master), "ptyPath": terminal.path}

    # -- listing -------------------------------------------------------------------------------------------

    async def list(self, call: Call, given: Mapping[str, Any]) -> dict[str, Any]:
        core = self._core
        metadata = given.get("acquireMetadata", "no")
        if metadata != "no" and core.version >= 262:
            interactive = given.get("allowInteractiveAuthentication", False)
            await self._authorize(call, ACTION + "inspect-machines", {"verb": "list"}, interactive)
        if "name" in given or "pid" in given:
            return await self._describe(self._lookup(call, given), metadata)
        if not call.more:
            raise VarlinkError("org.varlink.service.ExpectedMore")
        machines = list(core.registry)
        if not machines:
            raise no_such_machine("")
        for machine in machines[:-1]:
            await call.reply(await self._describe(machine, metadata))
        return await self._describe(machines[-1], metadata)

    async def _describe(self, machine: Machine, metadata: str) -> dict[str, Any]:
        modern = self._core.version >= 258
        row: dict[str, Any] = {
            "name": machine.name,
            "id": machine.id.hex(),
            "class": machine.cls.value,
            "service": machine.service,
            "rootDirectory": machine.root_directory,
            "unit": machine.unit,
            "leader": _process_id(machine.leader_pid, machine.leader_id),
            "timestamp": {"realtime": machine.realtime, "monotonic": machine.monotonic},
            "vSockCid": None if machine.vsock_cid == NO_VSOCK_CID else machine.vsock_cid,
            "sshAddress": machine.ssh_address,
            "sshPrivateKeyPath": machine.ssh_private_key_path,
        }
        if modern:
            row["subgroup"] = machine.subgroup
            row["supervisor"] = _process_id(machine.supervisor_pid, machine.supervisor_id)
            row["UID"] = machine.uid
        if self._core.version >= 261:
            row["controlAddress"] = machine.control_address
        if metadata != "no":
            row |= await self._metadata(machine, graceful=metadata == "graceful")
        return {key: value for key, value in row.items() if value is not None and value != ""}

    async def _metadata(self, machine: Machine, *, graceful: bool) -> dict[str, Any]:
        guests = self._core.guests
        row: dict[str, Any] = {}

        async def addresses() -> None:
            found = await guests.addresses(machine)
            row["addresses"] = [
                {"ifindex": a.ifindex, "family": int(a.family), "address": list(a.address)} for a in found
            ]

        async def os_release() -> None:
            row["OSRelease"] = [
                f"{key}={value}" for key, value in (await guests.os_release(machine)).items()
            ]

        async def uid_shift() -> None:
            row["UIDShift"] = guests.uid_shift(machine)

        for step in (addresses, os_release, uid_shift):
            try:
                await step()
            except (MachineError, OSError, TimeoutError):
                if not graceful:
                    raise
        return row


def _process_id(pid: int, pidfd_id: int | None) -> dict[str, int] | None:
    if not pid:
        return None
    return {"pid": pid, "pidfdId": pidfd_id} if pidfd_id else {"pid": pid}
