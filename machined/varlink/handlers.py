# SPDX-License-Identifier: LGPL-2.1-or-later
"""What io.systemd.Machine's methods do: the machine looked up, polkit asked, the model called."""

from __future__ import annotations

import errno
import os
import re
import signal
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Final

from machined.linux import process
from machined.linux.process import PidRef
from machined.model.core import Core
from machined.model.errors import MachineError, Problem, no_such_machine, no_such_process
from machined.model.machine import NO_VSOCK_CID, Machine, MachineClass
from machined.model.names import HOST, is_machine_name, is_user_name
from machined.model.request import (
    VARLINK,
    BadFieldError,
    Checked,
    Field,
    check,
    check_owner,
    is_path,
    validate,
)
from machined.model.terminals import ShellRequest, is_assignment, open_login, open_pty, open_shell
from machined.varlink.server import Call
from machined.varlink.table import VarlinkError, invalid_parameter

ACTION: Final = "org.freedesktop.machine1."
INTERFACE: Final = "io.systemd.Machine."

_BOOT_ID: Final = re.compile(r"[0-9a-fA-F]{32}")
_ID: Final = re.compile(r"[0-9a-fA-F]{32}|[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_NUMBER: Final = re.compile(r"[0-9]{1,3}")

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
            try:
                with self._process(call, given["pid"]) as meant:
                    of_process = self._core.registry.of_process(meant)
            except ProcessLookupError:
                of_process = None
            if of_process is None or (found is not None and of_process is not found):
                raise no_such_machine(str(given["pid"]["pid"]))
            found = of_process
        if found is None:
            raise no_such_machine("")
        return found

    def _process(self, call: Call, given: Mapping[str, Any]) -> PidRef:
        """The process that a lookup means, pinned; 0 is the peer itself.

        Raises VarlinkError for what is no ProcessId, ProcessLookupError when there is no such process.
        """
        boot = given.get("bootId")
        if boot is not None and not _BOOT_ID.fullmatch(boot):
            raise invalid_parameter("pid")
        if given["pid"] == 0:
            if boot is not None or "pidfdId" in given:
                raise invalid_parameter("pid")
            return call.peer.process()
        if not 0 < given["pid"] < 2**31:
            raise invalid_parameter("pid")
        if boot is not None and self._core.version >= 258 and not process.is_boot_id(boot):
            raise no_such_process()
        return PidRef.open(given["pid"])

    # -- registering ---------------------------------------------------------------------------------------

    async def register(self, call: Call, given: Mapping[str, Any]) -> None:
        core = self._core
        with ExitStack() as stack:
            checked, leader = self._checked(given, stack)
            allocate = given.get("allocateUnit", False)
            action = "create-machine" if allocate or core.version < 258 else "register-machine"
            details = {"name": checked.name, "class": given["class"]}
            interactive = given.get("allowInteractiveAuthentication", False)
            await self._authorize(call, ACTION + action, details, interactive)
            if leader is None:
                leader = stack.enter_context(call.peer.process())
            if core.version >= 258:
                check_owner(leader, call.peer.uid)
            supervisor = self._supervisor(call, leader)
            stack.pop_all()  # the registration closes them from here on
        await core.registrar.register(
            checked.registration(
                leader,
                supervisor,
                call.peer.uid,
                service=given.get("service", ""),
                scope=[] if allocate else None,
            )
        )

    def _checked(self, given: Mapping[str, Any], stack: ExitStack) -> tuple[Checked, PidRef | None]:
        """The request and the leader if one was named; the fields are looked at as they were sent."""
        fields: dict[Field, Any] = {}
        leader: PidRef | None = None
        for key, value in given.items():
            try:
                if key in {"leader", "leaderProcessId"}:
                    other = stack.enter_context(self._leader(key, value))
                    if leader is not None and leader.pid != other.pid:
                        raise invalid_parameter(key)
                    if leader is not None:
                        leader.close()
                    leader = other
                elif key in set(Field):
                    fields[Field(key)] = value = _machine_id(value) if key == Field.ID else value
                    if key == Field.CLASS and not value:
                        raise invalid_parameter(key)
                    check(VARLINK, Field(key), value)
            except BadFieldError as error:
                raise invalid_parameter(error.field.value) from None
        return validate(VARLINK, fields, ()), leader

    def _leader(self, key: str, given: Any) -> PidRef:
        """Pinned. Raises VarlinkError (InvalidParameter) whatever is wrong with it."""
        wanted = given if isinstance(given, dict) else {"pid": given}
        boot = wanted.get("bootId")
        if (
            wanted["pid"] < 2
            or wanted["pid"] >= 2**31
            or (boot is not None and not process.is_boot_id(boot))
        ):
            raise invalid_parameter(key)
        try:
            leader = PidRef.open(wanted["pid"])
        except ProcessLookupError:
            raise invalid_parameter(key) from None
        if leader.id is not None and wanted.get("pidfdId") not in {None, 0, leader.id}:
            leader.close()
            raise invalid_parameter(key)
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
        with _as_number():
            await self._core.registrar.terminate(machine)

    async def kill(self, call: Call, given: Mapping[str, Any]) -> None:
        signo = _signal_number(given["signal"], names=self._core.version >= 258)
        machine = self._lookup(call, given)
        # From 258 on the table knows the words.
        whom = given.get("whom") or "all"
        if whom not in {"leader", "all"} and self._core.version < 258:
            raise invalid_parameter("whom")
        await self._may_manage(call, machine, "kill", given)
        with _as_number():
            await self._core.registrar.kill(machine, whom, signo)

    async def open(self, call: Call, given: Mapping[str, Any]) -> dict[str, Any]:
        core = self._core
        mode = given["mode"]
        request = ShellRequest(
            given.get("user", ""), given.get("path", ""), given.get("args", ()), given.get("environment", ())
        )
        for key in given:
            if key == "user" and not is_user_name(request.user):
                raise invalid_parameter("user")
            if key == "path" and not is_path(request.path):
                raise invalid_parameter("path")
            if key == "environment" and not all(map(is_assignment, request.environment)):
                raise invalid_parameter("environment")
        machine = self._lookup(call, given)
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
        row: dict[str, Any] = {
            "name": machine.name,
            "id": machine.id.hex(),
            "class": machine.cls.value,
            "service": machine.service,
            "rootDirectory": machine.root_directory,
            "unit": machine.unit,
        }
        if self._core.version >= 258:
            row["subgroup"] = machine.subgroup
        row["leader"] = _process_id(machine.leader_pid, machine.leader_id)
        if self._core.version >= 258:
            row["supervisor"] = _process_id(machine.supervisor_pid, machine.supervisor_id)
        row |= {
            "timestamp": {"realtime": machine.realtime, "monotonic": machine.monotonic},
            # 0 is what 259 and later have for machines that came by D-Bus.
            "vSockCid": machine.vsock_cid if machine.vsock_cid not in {0, NO_VSOCK_CID} else None,
            "sshAddress": machine.ssh_address,
            "sshPrivateKeyPath": machine.ssh_private_key_path,
        }
        if self._core.version >= 261:
            row["controlAddress"] = machine.control_address
        if metadata != "no":
            row |= await self._metadata(machine, graceful=metadata == "graceful")
        if self._core.version >= 258:
            row["UID"] = machine.uid
        return {key: value for key, value in row.items() if value is not None and value not in ("", [])}

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
            except (MachineError, OSError, TimeoutError) as error:
                if graceful:
                    continue
                if isinstance(error, MachineError) and error.problem is Problem.NOT_SUPPORTED:
                    complex_map = step is uid_shift and machine.cls is MachineClass.CONTAINER
                    raise VarlinkError(
                        INTERFACE + ("NoUIDShift" if complex_map else "NotAvailable")
                    ) from error
                raise
        return row


@contextmanager
def _as_number() -> Iterator[None]:
    """Some methods have no error of their own for what cannot be done."""
    try:
        yield
    except MachineError as error:
        if error.problem is not Problem.NOT_SUPPORTED:
            raise
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP)) from error


def _process_id(pid: int, pidfd_id: int | None) -> dict[str, Any] | None:
    if not pid:
        return None
    # The boot is what makes the inode of a pidfd unique.
    return {"pid": pid, "pidfdId": pidfd_id, "bootId": process.boot_id()} if pidfd_id else {"pid": pid}


def _machine_id(text: str) -> bytes:
    """An id in one of the two forms that it is written in. Raises VarlinkError."""
    if not _ID.fullmatch(text):
        raise invalid_parameter("id")
    return bytes.fromhex(text.replace("-", ""))


def _signal_number(given: int | str, *, names: bool) -> int:
    """A number, in digits too, and a name where names will do. Raises VarlinkError (InvalidParameter)."""
    text = str(given)
    if names and not text.isdecimal():
        number = getattr(signal, text if text.startswith("SIG") else "SIG" + text, None)
        if isinstance(number, signal.Signals):
            return int(number)
    if not _NUMBER.fullmatch(text) or not 1 <= int(text) <= signal.SIGRTMAX:
        raise invalid_parameter("signal")
    return int(text)
