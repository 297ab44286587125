# SPDX-License-Identifier: LGPL-2.1-or-later
"""How machines come and go: calls, the signals around them, records, scopes, and what is left at the end."""

from __future__ import annotations

import os
import select
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from tests.differential.calls_bus import HOSTILE, MACHINES, OBJECTS
from tests.differential.wire import INTERACTIVE, NO_REPLY
from tests.differential.world import (
    MACHINE,
    MANAGER,
    PROPERTIES,
    ROOT,
    SUPER,
    TRUSTED,
    World,
    add,
    asking,
    case,
)

ID: Final = bytes(range(16))
SIGNATURE: Final = "sayssus"
SCOPE_PROPERTIES: Final = (
    "Id",
    "Description",
    "Slice",
    "Delegate",
    "CollectMode",
    "TasksMax",
    "ActiveState",
    "SubState",
    "Transient",
    "KillMode",
    "KillSignal",
    "SendSIGHUP",
    "User",
    "MemoryMax",
    "CPUWeight",
    "After",
    "Before",
    "Controller",
    "Requires",
    "Wants",
    "DevicePolicy",
    "TimeoutStopUSec",
    "RuntimeMaxUSec",
    "OOMPolicy",
)


def register(name: str, leader: int, **other: Any) -> tuple[Any, ...]:
    """The arguments of RegisterMachine."""
    values = {"id": ID, "service": "diff-test", "cls": "container", "root": "/srv/root"} | other
    return name, values["id"], values["service"], values["cls"], leader, values["root"]


def look(w: World, *names: str) -> None:
    w.fence()
    w.records(*names)
    w.machines()
    for name in names:
        w.call(f"{MACHINES}/{name.replace('-', '_2d')}", PROPERTIES, "GetAll", "s", MACHINE)


@case("lifecycle/register and unregister")
def _register(w: World) -> None:
    leader = w.service("d-leader", "<leader>")
    try:
        w.manager("RegisterMachine", SIGNATURE, *register("d-one", leader))
        look(w, "d-one")
        w.manager("RegisterMachine", SIGNATURE, *register("d-one", leader))
        w.manager("GetMachineByPID", "u", leader)
        w.manager("UnregisterMachine", "s", "d-one")
        look(w, "d-one")
        w.manager("UnregisterMachine", "s", "d-one")
        w.unit("d-leader.service", "ActiveState")
    finally:
        w.stop("d-leader")


@case("lifecycle/register, the unit ends")
def _unit_ends(w: World) -> None:
    leader = w.service("d-leader", "<leader>")
    w.manager("RegisterMachine", SIGNATURE, *register("d-one", leader))
    w.stop("d-leader")
    w.gone("d-one")
    look(w, "d-one")


def _leader_dies(script: str, w: World) -> None:
    """A child of the unit's main process is the leader and dies."""
    w.service("d-leader", "<main>")
    w.stop("d-leader")
    w.program("systemd-run", "--quiet", "--collect", "--unit=d-leader", "sh", "-c", script, note=False)
    child = 0
    while not child:
        try:
            with open("/run/d-child", encoding="ascii") as file:
                child = int(file.read() or "0")
        except FileNotFoundError:
            continue
    os.unlink("/run/d-child")
    w.label(child, "<child>")
    try:
        w.manager("RegisterMachine", SIGNATURE, *register("d-one", child))
        # What was told before is not to be told after.
        w.manager("GetMachineOSRelease", "s", "d-one")
        fd = os.pidfd_open(child)
        os.kill(child, 9)
        _wait_readable(fd)
        while "wait" in script and os.path.exists(f"/proc/{child}"):
            os.sched_yield()
        w.fence()
        w.manager("GetMachine", "s", "d-one")
        w.records("d-one")
        w.manager("KillMachine", "ssi", "d-one", "leader", 15)
        w.manager("GetMachineByPID", "u", child)
        w.manager("GetMachineUIDShift", "s", "d-one")
        w.manager("GetMachineOSRelease", "s", "d-one")
        w.manager("GetMachineAddresses", "s", "d-one")
        w.manager("OpenMachineRootDirectory", "s", "d-one")
        w.manager("OpenMachinePTY", "s", "d-one")
    finally:
        w.stop("d-leader")
    w.gone("d-one")
    look(w, "d-one")


for _label, _script in {
    "the leader dies and the unit stays": "sleep 3600 & echo $! >/run/d-child; wait $!; exec sleep 3600",
    "the leader stays as a zombie": "sleep 3600 & echo $! >/run/d-child; exec sleep 3600",
}.items():
    add(f"lifecycle/register, {_label}", partial(_leader_dies, _script), (SUPER,))


def _wait_readable(fd: int) -> None:

    poll = select.poll()
    poll.register(fd, select.POLLIN)
    poll.poll(5000)
    os.close(fd)


@case("lifecycle/terminate a service")
def _terminate_service(w: World) -> None:
    leader = w.service("d-leader", "<leader>")
    w.manager("RegisterMachine", SIGNATURE, *register("d-one", leader))
    w.manager("TerminateMachine", "s", "d-one")
    w.gone("d-one")
    look(w, "d-one")
    w.unit("d-leader.service", "ActiveState")


@case("lifecycle/create, kill and terminate a scope")
def _create(w: World) -> None:
    with w.child("<leader>") as leader:
        w.manager("CreateMachine", f"{SIGNATURE}a(sv)", *register("d-one", leader), [])
        look(w, "d-one")
        w.unit("machine-d\\x2done.scope", *SCOPE_PROPERTIES)
        w.manager("CreateMachine", f"{SIGNATURE}a(sv)", *register("d-one", leader), [])
        w.manager("KillMachine", "ssi", "d-one", "leader", 0)
        w.manager("KillMachine", "ssi", "d-one", "all", 28)
        w.manager("TerminateMachine", "s", "d-one")
        w.gone("d-one")
        look(w, "d-one")
        w.unit("machine-d\\x2done.scope", "ActiveState", "LoadState")


@case("lifecycle/create, killed")
def _create_killed(w: World) -> None:
    with w.child("<leader>") as leader:
        w.manager("CreateMachine", f"{SIGNATURE}a(sv)", *register("d-one", leader, cls="vm"), [])
        w.unit("machine-d\\x2done.scope", *SCOPE_PROPERTIES)
        w.manager("KillMachine", "ssi", "d-one", "", 9)
        w.gone("d-one")
        look(w, "d-one")


@case("lifecycle/create, unregister and create again")
def _create_unregister(w: World) -> None:
    with w.child("<leader>") as leader:
        w.manager("CreateMachine", f"{SIGNATURE}a(sv)", *register("d-one", leader), [])
        w.manager("UnregisterMachine", "s", "d-one")
        look(w, "d-one")
        if w.version < 258:  # see STOPS_THE_CALLER
            w.manager("CreateMachine", f"{SIGNATURE}a(sv)", *register("d-one", leader), [])
            look(w, "d-one")
        w.stop("machine-d\\x2done.scope")
        if w.bus.call(ROOT, MANAGER, "GetMachine", "s", ("d-one",)).get("reply"):
            w.gone("d-one")
        look(w, "d-one")


_SCOPES: Final[dict[str, list[Any]]] = {
    "description": [("Description", ("s", "Of mine"))],
    "slice": [("Slice", ("s", "system.slice"))],
    "empty slice": [("Slice", ("s", ""))],
    "several": [
        ("TasksMax", ("t", 33333333)),
        ("MemoryMax", ("t", 1 << 30)),
        ("After", ("as", ["basic.target"])),
        ("SendSIGHUP", ("b", True)),
        ("KillSignal", ("i", 1)),
    ],
    "unknown": [("NoSuchProperty", ("s", "x"))],
    "wrong type": [("TasksMax", ("s", "x"))],
    "bad slice": [("Slice", ("s", "no slice"))],
    "pids": [("PIDs", ("au", []))],
    "not of scopes": [("ExecStart", ("a(sasb)", []))],
    "no delegation": [("Delegate", ("b", False))],
    "devices": [("DevicePolicy", ("s", "strict")), ("DeviceAllow", ("a(ss)", [("/dev/null", "rwm")]))],
}


def _scope(properties: list[Any], w: World) -> None:
    with w.child("<leader>") as leader:
        answer = w.manager("CreateMachine", f"{SIGNATURE}a(sv)", *register("d-one", leader), properties)
        look(w, "d-one")
        w.unit("machine-d\\x2done.scope", *SCOPE_PROPERTIES)
        w.stop("machine-d\\x2done.scope")
        if "reply" in answer:
            w.gone("d-one")
        w.fence()
        w.manager("UnregisterMachine", "s", "d-one")


# Where PID 1 refuses the scope, stock of 258 and later stops the unit of whoever asked: that would be ours.
STOPS_THE_CALLER: Final = frozenset(
    {"unknown", "wrong type", "bad slice", "empty slice", "pids", "not of scopes", "no delegation"}
)

for _label, _properties in _SCOPES.items():
    _until = 258 if _label in STOPS_THE_CALLER else 1000
    add(f"lifecycle/scope/{_label}", partial(_scope, _properties), (SUPER,), until=_until)


def _refused() -> None:
    """Calls that fail, or are refused, and so change nothing."""
    for label, name in HOSTILE.items():
        for method, rest in (("UnregisterMachine", ()), ("TerminateMachine", ()), ("KillMachine", ("", 0))):
            signature = "s" if not rest else "ssi"
            add(
                f"lifecycle/{method}/{label}",
                asking(World.manager, method, signature, name, *rest),
                (SUPER,),
            )
    kills: dict[str, tuple[Any, ...]] = {
        "signal 0": ("leader", 0),
        "signal 65": ("leader", 65),
        "signal -1": ("leader", -1),
        "signal most": ("leader", 2**31 - 1),
        "whom": ("nosuch", 28),
        "whom and signal": ("nosuch", 0),
        "supervisor": ("supervisor", 28),
        "leader": ("leader", 28),
        "capitals": ("LEADER", 28),
        "newline": ("leader\n", 28),
        "huge whom": ("x" * 65536, 28),
        "real-time": ("leader", 64),
    }
    for label, rest in kills.items():
        target = "d-vm" if label == "real-time" else "plain"
        if label == "real-time":
            continue
        add(f"lifecycle/kill/{label}", asking(World.manager, "KillMachine", "ssi", target, *rest))
        add(
            f"lifecycle/machine kill/{label}",
            asking(World.call, OBJECTS["plain"], MACHINE, "Kill", "si", *rest),
            (SUPER,),
        )
    host: dict[str, Callable[[World], object]] = {
        "unregister": asking(World.manager, "UnregisterMachine", "s", ".host"),
        "terminate": asking(World.manager, "TerminateMachine", "s", ".host"),
        "kill": asking(World.manager, "KillMachine", "ssi", ".host", "leader", 28),
        "kill, wrong": asking(World.manager, "KillMachine", "ssi", ".host", "x", 0),
        "object terminate": asking(World.call, OBJECTS["host"], MACHINE, "Terminate"),
        "object kill": asking(World.call, OBJECTS["host"], MACHINE, "Kill", "si", "all", 28),
    }
    for label, run in host.items():
        add(f"lifecycle/host/{label}", run)
    for method in ("UnregisterMachine", "TerminateMachine"):
        add(
            f"lifecycle/{method}/interactive",
            asking(World.manager, method, "s", "nosuch", flags=INTERACTIVE),
        )
        add(f"lifecycle/{method}/no reply", asking(World.manager, method, "s", "nosuch", flags=NO_REPLY))
        add(f"lifecycle/{method}/wrong", asking(World.manager, method, "u", 1))
    add("lifecycle/KillMachine/wrong", asking(World.manager, "KillMachine", "ssu", "plain", "", 9))


_refused()


@case("lifecycle/refused to users", ("tester",))
def _refused_to_users(w: World) -> None:
    for flags in (0, INTERACTIVE):
        w.manager("UnregisterMachine", "s", "d-vm", flags=flags)
        w.manager("TerminateMachine", "s", "d-vm", flags=flags)
        w.manager("KillMachine", "ssi", "d-vm", "all", 28, flags=flags)
        w.call(OBJECTS["vm"], MACHINE, "Terminate", flags=flags)
        w.call(OBJECTS["vm"], MACHINE, "Kill", "si", "all", 28, flags=flags)
        w.manager("RegisterMachine", SIGNATURE, *register("d-one", 0), flags=flags)
    look(w, "d-vm")


@case("lifecycle/allowed to the trusted", (TRUSTED,))
def _allowed(w: World) -> None:
    w.manager("KillMachine", "ssi", "d-vm", "all", 28)
    w.manager("KillMachine", "ssi", "d-vm", "leader", 28)
    w.call(OBJECTS["vm"], MACHINE, "Kill", "si", "leader", 28)
    w.manager("UnregisterMachine", "s", ".host")
    look(w, "d-vm")


@case("lifecycle/a container of systemd-nspawn")
def _nspawn(w: World) -> None:
    """A tree with one program in it, run by systemd-nspawn, which registers it in its own way."""
    run = [
        "systemd-run",
        "--quiet",
        "--collect",
        "--unit=d-nspawn",
        "--property=Type=notify",
        "--slice=machine.slice",
        "--property=Delegate=yes",
        "--property=DelegateSubgroup=supervisor",
        "systemd-nspawn",
        "--quiet",
        "--keep-unit",
        "--register=yes",
        "--directory=/srv/nspawn",
        "--uuid=00112233445566778899aabbccddeeff",
        "--machine=d-nspawn",
        "/usr/bin/sleep",
        "3600",
    ]
    w.program(*run)
    answer = w.bus.call(ROOT, MANAGER, "GetMachine", "s", ("d-nspawn",))
    if "reply" in answer:
        path = answer["reply"][1][0]
        leader = w.bus.call(path, PROPERTIES, "Get", "ss", (MACHINE, "Leader"))["reply"][1][0][1]
        w.label(leader, "<leader>")
        supervisor = w.bus.call(path, PROPERTIES, "Get", "ss", (MACHINE, "Supervisor"))
        if "reply" in supervisor:
            w.label(supervisor["reply"][1][0][1], "<supervisor>")
    look(w, "d-nspawn")
    w.program("/usr/bin/machinectl", "show", "d-nspawn")
    w.manager("GetMachineOSRelease", "s", "d-nspawn")
    w.manager("GetMachineAddresses", "s", "d-nspawn")
    w.manager("TerminateMachine", "s", "d-nspawn")
    if "reply" in answer:
        w.gone("d-nspawn")
    look(w, "d-nspawn")
