# SPDX-License-Identifier: LGPL-2.1-or-later
"""The arguments of all Register and Create methods, right and wrong, and the records they lead to."""

from __future__ import annotations

import os
from functools import partial
from typing import Any, Final

from tests.differential.calls_bus import HOSTILE
from tests.differential.calls_lifecycle import ID, SCOPE_PROPERTIES, SIGNATURE, look, register
from tests.differential.world import EVERYBODY, SUPER, TRUSTED, World, add, case

_REGISTRATIONS: Final[dict[str, dict[str, Any]]] = {
    "no id": {"id": b""},
    "null id": {"id": bytes(16)},
    "short id": {"id": b"x" * 15},
    "long id": {"id": b"x" * 17},
    "huge id": {"id": b"x" * 65536},
    "vm": {"cls": "vm"},
    "host": {"cls": "host"},
    "no class": {"cls": ""},
    "bad class": {"cls": "nosuch"},
    "class in capitals": {"cls": "VM"},
    "class with a newline": {"cls": "vm\n"},
    "no service": {"service": ""},
    "odd service": {"service": "a b\\c\"d'e\n\t%s$x;#ü`"},
    "long service": {"service": "s" * 5000},
    "no root": {"root": ""},
    "relative root": {"root": "x"},
    "odd root": {"root": "/a b\\c\"d'e\n%s$x;#ü`"},
    "root with dots": {"root": "/a/../b//c/"},
    "long root": {"root": "/" + "r" * 5000},
    "top": {"root": "/"},
}


def _registration(values: dict[str, Any], w: World) -> None:
    leader = w.service("d-leader", "<leader>")
    try:
        w.manager("RegisterMachine", SIGNATURE, *register("d-one", leader, **values))
        look(w, "d-one")
        w.manager("UnregisterMachine", "s", "d-one")
        w.fence()
    finally:
        w.stop("d-leader")


for _label, _values in _REGISTRATIONS.items():
    add(f"lifecycle/register/{_label}", partial(_registration, _values), (SUPER,))

_LEADERS: Final = {"one": 1, "two": 2, "none": 4194304, "most": 0xFFFFFFFF, "sign": 0x80000000, "caller": 0}


def _leader(leader: int, w: World) -> None:
    w.manager("RegisterMachine", SIGNATURE, *register("d-one", leader))
    look(w, "d-one")
    w.manager("UnregisterMachine", "s", "d-one")
    w.fence()


for _label, _number in _LEADERS.items():
    add(f"lifecycle/register/leader {_label}", partial(_leader, _number))


def _name(name: str, w: World) -> None:
    w.manager("RegisterMachine", SIGNATURE, *register(name, 0))
    w.records(name)
    w.manager("UnregisterMachine", "s", name)
    w.fence()


for _label, _text in HOSTILE.items():
    add(f"lifecycle/register/name {_label}", partial(_name, _text), (SUPER,))


def _several_wrong(w: World) -> None:
    """Which of several faults is told first."""
    for row in (
        ("a_b", b"x", "s", "nosuch", 1, "x"),
        ("d-one", b"x", "s", "nosuch", 1, "x"),
        ("d-one", b"", "s", "nosuch", 1, "x"),
        ("d-one", b"", "s", "", 1, "x"),
        ("d-one", b"", "s", "", 4194304, "x"),
        ("d-one", b"", "s", "", 4194304, ""),
        ("plain", b"", "s", "", 4194304, ""),
        ("plain", b"", "s", "container", 4194304, ""),
        ("plain", b"", "s", "", 0, ""),
        (".host", b"", "s", "container", 0, ""),
    ):
        w.manager("RegisterMachine", SIGNATURE, *row)
        w.manager("CreateMachine", f"{SIGNATURE}a(sv)", *row, [])
        w.manager("RegisterMachineWithNetwork", f"{SIGNATURE}ai", *row, [0])
    w.manager("RegisterMachineWithNetwork", f"{SIGNATURE}ai", *register("d-one", 4194304), [1, -1])
    w.manager("RegisterMachineWithNetwork", f"{SIGNATURE}ai", *register("d-one", 4194304), [2**31 - 1])


add("lifecycle/register/several faults", _several_wrong)


@case("lifecycle/register with network")
def _with_network(w: World) -> None:
    leader = w.service("d-leader", "<leader>")
    try:
        for links in ([1], [1, 1], [1, 2**31 - 1], [], list(range(10_000_000, 10_000_300))):
            w.manager("RegisterMachineWithNetwork", f"{SIGNATURE}ai", *register("d-one", leader), links)
            look(w, "d-one")
            w.manager("UnregisterMachine", "s", "d-one")
    finally:
        w.stop("d-leader")


@case("lifecycle/create with network")
def _create_with_network(w: World) -> None:
    with w.child("<leader>") as leader:
        arguments = (*register("d-one", leader), [1], [("Description", ("s", "x"))])
        w.manager("CreateMachineWithNetwork", f"{SIGNATURE}aia(sv)", *arguments)
        look(w, "d-one")
        w.manager("TerminateMachine", "s", "d-one")
        w.gone("d-one")


_EX: Final[dict[str, list[Any]]] = {
    "all": [
        ("Id", ("ay", ID)),
        ("Service", ("s", "ex")),
        ("Class", ("s", "vm")),
        ("RootDirectory", ("s", "/x")),
        ("NetworkInterfaces", ("ai", [1])),
        ("VSockCID", ("u", 7)),
        ("SSHAddress", ("s", "vsock/7")),
        ("SSHPrivateKeyPath", ("s", "/run/key")),
    ],
    "class alone": [("Class", ("s", "container"))],
    "nothing": [],
    "unknown": [("NoSuch", ("s", "x")), ("Class", ("s", "vm"))],
    "wrong type": [("Class", ("u", 1))],
    "bad class": [("Class", ("s", "host"))],
    "empty class": [("Class", ("s", ""))],
    "bad id": [("Id", ("ay", b"x")), ("Class", ("s", "vm"))],
    "relative root": [("RootDirectory", ("s", "x")), ("Class", ("s", "vm"))],
    "bad link": [("NetworkInterfaces", ("ai", [0])), ("Class", ("s", "vm"))],
    "pid alone": [("LeaderPID", ("u", 1)), ("Class", ("s", "vm"))],
    "pid and wrong id": [("LeaderPID", ("u", 2)), ("LeaderPIDFDID", ("t", 1)), ("Class", ("s", "vm"))],
    "vsock 0": [("VSockCID", ("u", 0)), ("Class", ("s", "vm"))],
    "vsock 1": [("VSockCID", ("u", 1)), ("Class", ("s", "vm"))],
    "vsock any": [("VSockCID", ("u", 0xFFFFFFFF)), ("Class", ("s", "vm"))],
    "relative key": [("SSHPrivateKeyPath", ("s", "key")), ("Class", ("s", "vm"))],
    "twice": [("Class", ("s", "vm")), ("Class", ("s", "container"))],
    "address": [("SSHAddress", ("s", "")), ("Class", ("s", "vm"))],
}


def _ex(properties: list[Any], w: World) -> None:
    w.manager("RegisterMachineEx", "sa(sv)", "d-one", properties)
    look(w, "d-one")
    w.manager("GetMachineSSHInfo", "s", "d-one")
    w.manager("UnregisterMachine", "s", "d-one")
    w.fence()


for _label, _properties in _EX.items():
    add(f"lifecycle/ex/{_label}", partial(_ex, _properties), (SUPER, TRUSTED))


@case("lifecycle/ex/descriptor", (SUPER, TRUSTED))
def _ex_descriptor(w: World) -> None:
    with w.child("<leader>") as leader:
        fd = os.pidfd_open(leader)
        class_ = ("Class", ("s", "container"))
        w.manager("RegisterMachineEx", "sa(sv)", "d-one", [("LeaderPIDFD", ("h", fd)), class_])
        look(w, "d-one")
        w.manager("UnregisterMachine", "s", "d-one")
        with open("/dev/null", "rb") as null:
            w.manager("RegisterMachineEx", "sa(sv)", "d-one", [("LeaderPIDFD", ("h", null)), class_])
        both = [("LeaderPIDFD", ("h", fd)), ("LeaderPID", ("u", leader)), class_]
        w.manager("RegisterMachineEx", "sa(sv)", "d-one", both)
        w.manager("UnregisterMachine", "s", "d-one")
        numbers = [("LeaderPID", ("u", leader)), ("LeaderPIDFDID", ("t", os.fstat(fd).st_ino)), class_]
        w.manager("RegisterMachineEx", "sa(sv)", "d-one", numbers)
        w.manager("UnregisterMachine", "s", "d-one")
        w.fence()
        w.manager("CreateMachineEx", "sa(sv)a(sv)", "d-one", numbers, [("Description", ("s", "ex"))])
        look(w, "d-one")
        os.close(fd)
        if w.in_scope("d-one"):
            w.manager("TerminateMachine", "s", "d-one")
            w.gone("d-one")
        w.manager("UnregisterMachine", "s", "d-one")


@case("lifecycle/of a user", EVERYBODY, since=258)
def _of_user(w: World) -> None:
    with w.child("<leader>") as leader:
        w.manager("RegisterMachine", SIGNATURE, *register("d-mine", leader))
        look(w, "d-mine")
        w.manager("OpenMachinePTY", "s", "d-mine")
        w.manager("OpenMachineShell", "sssasas", "d-mine", "root", "/bin/true", [], [])
        w.manager("OpenMachineRootDirectory", "s", "d-mine")
        w.manager("KillMachine", "ssi", "d-mine", "leader", 28)
        w.manager("UnregisterMachine", "s", "d-mine")
        w.fence()
        w.manager("RegisterMachine", SIGNATURE, *register("d-mine", 1))
        w.manager("RegisterMachine", SIGNATURE, *register("d-mine", 2))
        w.manager("CreateMachine", f"{SIGNATURE}a(sv)", *register("d-mine", leader), [])
        look(w, "d-mine")
        w.unit("machine-d\\x2dmine.scope", *SCOPE_PROPERTIES)
        if w.in_scope("d-mine"):
            w.manager("TerminateMachine", "s", "d-mine")
            w.gone("d-mine")
        w.manager("UnregisterMachine", "s", "d-mine")
