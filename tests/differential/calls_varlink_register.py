# SPDX-License-Identifier: LGPL-2.1-or-later
"""varlink: Register, and what is there afterwards."""

from __future__ import annotations

import os
from functools import partial
from typing import Any, Final

from tests.differential.calls_bus import HOSTILE
from tests.differential.calls_varlink import MACHINE_SOCKET, method
from tests.differential.world import EVERYBODY, SUPER, TRUSTED, World, add, asking, case


def _look(w: World, name: str) -> None:
    w.fence()
    w.records(name)
    w.varlink(MACHINE_SOCKET, method("List", name=name))


_REGISTRATIONS: Final[dict[str, dict[str, Any]]] = {
    "class alone": {},
    "vm": {"class": "vm"},
    "host": {"class": "host"},
    "bad class": {"class": "nosuch"},
    "no class": {"class": None},
    "class number": {"class": 1},
    "all": {
        "class": "vm",
        "id": "000102030405060708090a0b0c0d0e0f",
        "service": "diff-test",
        "rootDirectory": "/srv/root",
        "ifIndices": [1],
        "vSockCid": 7,
        "sshAddress": "vsock/7",
        "sshPrivateKeyPath": "/run/key",
    },
    "id with dashes": {"id": "00010203-0405-0607-0809-0a0b0c0d0e0f"},
    "bad id": {"id": "x"},
    "null id": {"id": "0" * 32},
    "relative root": {"rootDirectory": "x"},
    "root with dots": {"rootDirectory": "/a/../b"},
    "empty root": {"rootDirectory": ""},
    "bad link": {"ifIndices": [0]},
    "link below": {"ifIndices": [-1]},
    "no links": {"ifIndices": []},
    "link string": {"ifIndices": ["1"]},
    "link big": {"ifIndices": [2**31]},
    "vsock 0": {"vSockCid": 0},
    "vsock 2": {"vSockCid": 2},
    "vsock 3": {"vSockCid": 3},
    "vsock any": {"vSockCid": 0xFFFFFFFF},
    "vsock big": {"vSockCid": 2**32},
    "vsock string": {"vSockCid": "7"},
    "relative key": {"sshPrivateKeyPath": "key"},
    "empty key": {"sshPrivateKeyPath": ""},
    "empty address": {"sshAddress": ""},
    "service": {"service": 'a b\\c"d\n'},
    "empty service": {"service": ""},
    "leader 1": {"leader": 1},
    "leader 0": {"leader": 0},
    "leader -1": {"leader": -1},
    "dead leader": {"leader": 4194303},
    "leader string": {"leader": "1"},
    "leader process 0": {"leaderProcessId": {"pid": 0}},
    "leader process 1": {"leaderProcessId": {"pid": 1}},
    "two leaders": {"leader": 1, "leaderProcessId": {"pid": 2}},
    "unknown": {"nosuch": 1},
    "supervisor": {"supervisor": 1},
    "allocate string": {"allocateUnit": "x"},
    "control": {"controlAddress": "/run/x"},
    "bad control": {"controlAddress": "x y"},
    "interactive": {"allowInteractiveAuthentication": True},
}


def _register(values: dict[str, Any], w: World) -> None:
    arguments = {"name": "d-one", "class": "container"} | values
    w.varlink(MACHINE_SOCKET, method("Register", **{k: v for k, v in arguments.items() if v is not None}))
    _look(w, "d-one")
    w.varlink(MACHINE_SOCKET, method("Unregister", name="d-one"))
    w.fence()


def _registrations() -> None:
    for label, values in _REGISTRATIONS.items():
        users = EVERYBODY if label in {"class alone", "leader 1", "interactive"} else (SUPER,)
        add(f"varlink/Register/{label}", partial(_register, values), users)
    for label, name in HOSTILE.items():
        add(
            f"varlink/Register/name {label}",
            asking(
                World.varlink,
                MACHINE_SOCKET,
                method("Register", name=name, **{"class": "vm"}),
                method("Unregister", name=name),
            ),
            (SUPER,),
        )
    add("varlink/Register/nothing", asking(World.varlink, MACHINE_SOCKET, method("Register")))
    add(
        "varlink/Register/name alone",
        asking(World.varlink, MACHINE_SOCKET, method("Register", name="d-one")),
    )


_registrations()


@case("varlink/Register/unit", (SUPER, TRUSTED))
def _unit(w: World) -> None:
    with w.child("<leader>") as leader:
        arguments = {"name": "d-one", "class": "vm", "leader": leader, "allocateUnit": True}
        w.varlink(MACHINE_SOCKET, method("Register", **arguments))
        w.fence()
        w.settle("d-one")
        w.unit(
            "machine-d\\x2done.scope", "Description", "Slice", "Delegate", "TasksMax", "CollectMode", "User"
        )
        _look(w, "d-one")
        w.varlink(MACHINE_SOCKET, method("Register", **arguments))
        w.varlink(MACHINE_SOCKET, method("Kill", name="d-one", signal=28, whom="leader"))
        if w.in_scope("d-one"):
            w.varlink(MACHINE_SOCKET, method("Terminate", name="d-one"))
            w.gone("d-one")
        w.varlink(MACHINE_SOCKET, method("Unregister", name="d-one"))
        _look(w, "d-one")


@case("varlink/Register/leader by its number", (SUPER, TRUSTED))
def _leader(w: World) -> None:
    with w.child("<leader>") as leader:
        fd = os.pidfd_open(leader)
        inode = os.fstat(fd).st_ino
        os.close(fd)
        for process in (
            {"pid": leader, "pidfdId": inode},
            {"pid": leader},
            {"pid": leader, "pidfdId": inode + 1},
        ):
            w.varlink(
                MACHINE_SOCKET, method("Register", name="d-one", **{"class": "vm"}, leaderProcessId=process)
            )
            _look(w, "d-one")
            w.varlink(MACHINE_SOCKET, method("Unregister", pid={"pid": leader}))
