# SPDX-License-Identifier: LGPL-2.1-or-later
"""The methods of Manager and Machine that read, and the ways in."""

from __future__ import annotations

from functools import partial
from typing import Any, Final

from tests.differential.calls_bus import HOSTILE, OBJECTS, TARGETS
from tests.differential.wire import INTERACTIVE
from tests.differential.world import MACHINE, MANAGER, PROPERTIES, ROOT, SUPER, World, add, asking

# Manager methods that take a machine's name and change nothing: signature and what comes after the name.
READING: Final[dict[str, tuple[str, tuple[Any, ...]]]] = {
    "GetMachine": ("s", ()),
    "GetMachineAddresses": ("s", ()),
    "GetMachineSSHInfo": ("s", ()),
    "GetMachineOSRelease": ("s", ()),
    "GetMachineUIDShift": ("s", ()),
    "OpenMachineRootDirectory": ("s", ()),
    "MapFromMachineUser": ("su", (0,)),
    "MapFromMachineGroup": ("su", (0,)),
}
ON_MACHINE: Final = ("GetAddresses", "GetSSHInfo", "GetOSRelease", "GetUIDShift", "OpenRootDirectory")


def _reading() -> None:
    for method, (signature, rest) in READING.items():
        for target in TARGETS:
            add(
                f"bus/{method}/{target}",
                asking(World.manager, method, signature, target, *rest),
            )
        for label, name in HOSTILE.items():
            add(
                f"bus/{method}/{label}",
                asking(World.manager, method, signature, name, *rest),
                (SUPER,),
            )
        add(
            f"bus/{method}/interactive",
            asking(World.manager, method, signature, "plain", *rest, flags=INTERACTIVE),
        )
        add(f"bus/{method}/wrong", asking(World.manager, method, "ay", b"plain"))
    for method in ON_MACHINE:
        for target in ("plain", "private", "scope", "vm", "host", "nosuch", "self"):
            add(
                f"bus/machine/{method}/{target}",
                asking(World.call, OBJECTS[target], MACHINE, method),
            )
        add(f"bus/machine/{method}/wrong", asking(World.call, OBJECTS["plain"], MACHINE, method, "s", "x"))


_reading()


def _maps() -> None:
    for kind in ("User", "Group"):
        numbers = (0, 1, 1000, 65533, 65534, 65535, 65536, 0xFFFFFFFE, 0xFFFFFFFF, 524288)
        for target in ("private", "plain"):
            for number in numbers:
                add(
                    f"bus/MapFromMachine{kind}/{target}/{number}",
                    asking(World.manager, f"MapFromMachine{kind}", "su", target, number),
                    (SUPER,),
                )
        for number in numbers:
            add(
                f"bus/MapToMachine{kind}/{number}",
                asking(World.manager, f"MapToMachine{kind}", "u", number),
            )
        add(f"bus/MapToMachine{kind}/shifted", partial(_map_shifted, kind))
        add(f"bus/MapToMachine{kind}/wrong", asking(World.manager, f"MapToMachine{kind}", "i", -1))


def _map_shifted(kind: str, w: World) -> None:
    answer = w.bus.call(ROOT, MANAGER, "GetMachineUIDShift", "s", ("private",))
    shift = answer["reply"][1][0] if "reply" in answer else 0
    for inside in (0, 1000, 65534, 65535):
        w.manager(f"MapToMachine{kind}", "u", shift + inside)


_maps()


def _by_pid() -> None:
    for pid in (0, 1, 2, 4194304, 0xFFFFFFFF):
        add(f"bus/GetMachineByPID/{pid}", asking(World.manager, "GetMachineByPID", "u", pid))
    for target in ("plain", "private", "d-scope", "d-vm"):
        add(f"bus/GetMachineByPID/leader of {target}", asking(_pid_of, target))
    add("bus/GetMachineByPID/own", lambda w: w.manager("GetMachineByPID", "u", next(iter(w.labels))))


def _pid_of(w: World, target: str) -> None:
    path = w.bus.call(ROOT, MANAGER, "GetMachine", "s", (target,))["reply"][1][0]
    answer = w.bus.call(path, PROPERTIES, "Get", "ss", (MACHINE, "Leader"))
    w.manager("GetMachineByPID", "u", answer["reply"][1][0][1])


_by_pid()


def _lists() -> None:
    add("bus/ListMachines", World.machines)
    add("bus/ListImages", _images)


def _images(w: World) -> None:
    answer = w.bus.call(ROOT, MANAGER, "ListImages")
    w.note({"images": sorted(answer["reply"][1][0])} if "reply" in answer else answer)


_lists()


def _ways_in() -> None:
    for target in (*TARGETS, "nosuch", ""):
        add(f"bus/OpenMachinePTY/{target}", asking(World.manager, "OpenMachinePTY", "s", target))
        add(f"bus/OpenMachineLogin/{target}", asking(World.manager, "OpenMachineLogin", "s", target))
        add(
            f"bus/OpenMachineShell/{target}",
            asking(World.manager, "OpenMachineShell", "sssasas", target, "root", "/bin/true", [], []),
        )
    for target in ("plain", "private", "scope", "vm", "host", "nosuch"):
        path = OBJECTS[target]
        add(f"bus/machine/OpenPTY/{target}", asking(World.call, path, MACHINE, "OpenPTY"))
        add(f"bus/machine/OpenLogin/{target}", asking(World.call, path, MACHINE, "OpenLogin"))
        add(
            f"bus/machine/OpenShell/{target}",
            asking(World.call, path, MACHINE, "OpenShell", "ssasas", "", "", [], []),
        )
    shells: dict[str, tuple[Any, ...]] = {
        "no user": ("", "/bin/true", [], []),
        "no path": ("root", "", [], []),
        "no path, arguments": ("root", "", ["a", "b"], []),
        "relative path": ("root", "true", [], []),
        "dotted path": ("root", "/bin/../bin/true", [], []),
        "no such path": ("root", "/no/such", [], []),
        "unknown user": ("nosuch", "/bin/true", [], []),
        "numeric user": ("0", "/bin/true", [], []),
        "numeric user 65534": ("65534", "/bin/true", [], []),
        "bad user": ("a b", "/bin/true", [], []),
        "user with a colon": ("ro:ot", "/bin/true", [], []),
        "user with a newline": ("root\n", "/bin/true", [], []),
        "long user": ("u" * 300, "/bin/true", [], []),
        "format": ("%s", "/bin/true", [], []),
        "arguments": ("root", "/bin/echo", ["echo", "a b", "", "%n", "ü"], []),
        "environment": ("root", "/bin/true", [], ["A=b", "C="]),
        "environment without =": ("root", "/bin/true", [], ["A"]),
        "environment with a bad name": ("root", "/bin/true", [], ["1A=b"]),
        "environment without a name": ("root", "/bin/true", [], ["=b"]),
        "environment with a newline": ("root", "/bin/true", [], ["A=b\nc"]),
        "environment with a control character": ("root", "/bin/true", [], ["A=b\x01c"]),
        "environment twice": ("root", "/bin/true", [], ["A=b", "A=c"]),
        "many arguments": ("root", "/bin/true", ["true", *["x"] * 2000], []),
    }
    for label, row in shells.items():
        add(f"bus/shell/{label}", asking(World.manager, "OpenMachineShell", "sssasas", "plain", *row))
    add(
        "bus/shell/interactive",
        asking(World.manager, "OpenMachineShell", "sssasas", "plain", "", "", [], [], flags=INTERACTIVE),
    )
    add("bus/shell/wrong", asking(World.manager, "OpenMachineShell", "sssas", "plain", "", "", []))


_ways_in()
