# SPDX-License-Identifier: LGPL-2.1-or-later
"""varlink: the methods of io.systemd.Machine that do something to a machine, or tell one thing of it."""

from __future__ import annotations

from typing import Any

from tests.differential.calls_bus import TARGETS
from tests.differential.calls_varlink import MACHINE_SOCKET, method
from tests.differential.world import MANAGER, ROOT, SUPER, World, add, asking


def _changing() -> None:
    for name in (
        "Unregister",
        "Terminate",
        "Kill",
        "Open",
        "BindMount",
        "CopyFrom",
        "CopyTo",
        "OpenRootDirectory",
        "MapFrom",
        "MapTo",
    ):
        every: dict[str, dict[str, Any]] = {
            "Kill": {"signal": 28},
            "Open": {"mode": "tty"},
            "BindMount": {"source": "/srv/nosuch"},
            "CopyFrom": {"source": "/srv/nosuch"},
            "CopyTo": {"source": "/srv/nosuch"},
            "MapFrom": {"uid": 0},
            "MapTo": {"uid": 0},
        }
        rest = every.get(name, {})
        rows: dict[str, dict[str, Any]] = {
            "nobody": {"name": "nosuch"},
            "nothing": {},
            "bad name": {"name": "a/b"},
            "number": {"name": 1},
            "unknown": {"name": "plain", "nosuch": 1},
            "pid of nobody": {"pid": {"pid": 1}},
            "pid number": {"pid": 1},
            "self": {"pid": {"pid": 0}},
            "null": {"name": None},
            "empty": {"name": ""},
        }
        targets = (".host",) if name in {"Unregister", "Terminate", "Kill"} else TARGETS
        rows |= {target: {"name": target} for target in targets if name not in {"MapTo"}}
        for label, row in rows.items():
            add(
                f"varlink/{name}/{label}",
                asking(World.varlink, MACHINE_SOCKET, method(name, **row, **rest)),
            )
        for label, flags in (("more", {"more": True}), ("oneway", {"oneway": True})):
            add(
                f"varlink/{name}/{label}",
                asking(World.varlink, MACHINE_SOCKET, method(name, name="nosuch", **rest, **flags)),
                (SUPER,),
            )
        if rest:
            add(
                f"varlink/{name}/without",
                asking(World.varlink, MACHINE_SOCKET, method(name, name="plain")),
            )
    kills: dict[str, dict[str, Any]] = {
        "signal 0": {"signal": 0},
        "signal 65": {"signal": 65},
        "signal -1": {"signal": -1},
        "signal string": {"signal": "28"},
        "signal float": {"signal": 28.5},
        "whom": {"signal": 28, "whom": "nosuch"},
        "whom number": {"signal": 28, "whom": 1},
        "whom empty": {"signal": 28, "whom": ""},
        "supervisor": {"signal": 28, "whom": "supervisor"},
        "leader": {"signal": 28, "whom": "leader"},
        "both wrong": {"signal": 0, "whom": "nosuch"},
        "huge": {"signal": 2**40},
    }
    for label, row in kills.items():
        add(
            f"varlink/Kill/odd/{label}",
            asking(World.varlink, MACHINE_SOCKET, method("Kill", name="plain", **row)),
        )
    opens: dict[str, dict[str, Any]] = {
        "no mode": {},
        "null mode": {"mode": None},
        "empty mode": {"mode": ""},
        "unknown mode": {"mode": "nosuch"},
        "login": {"mode": "login"},
        "shell": {"mode": "shell", "path": "/bin/true"},
        "relative": {"mode": "shell", "path": "true"},
        "user": {"mode": "shell", "user": "nosuch", "path": "/bin/true"},
        "bad user": {"mode": "shell", "user": "a b"},
        "arguments": {"mode": "shell", "path": "/bin/true", "args": ["x", 1]},
        "environment": {"mode": "shell", "path": "/bin/true", "environment": ["A=b", "bad"]},
        "tty with user": {"mode": "tty", "user": "root"},
        "environment string": {"mode": "shell", "environment": "A=b"},
        "default": {"mode": "shell"},
        "login with a user": {"mode": "login", "user": "root", "path": "/bin/true"},
    }
    for label, row in opens.items():
        add(
            f"varlink/Open/odd/{label}",
            asking(World.varlink, MACHINE_SOCKET, method("Open", name="plain", **row)),
        )
    maps: dict[str, dict[str, Any]] = {
        "nothing": {},
        "uid": {"uid": 0},
        "gid": {"gid": 0},
        "both": {"uid": 0, "gid": 0},
        "65536": {"uid": 65536},
        "65535": {"uid": 65535},
        "most": {"uid": 0xFFFFFFFF},
        "big": {"uid": 2**32},
        "below": {"uid": -1},
        "string": {"uid": "0"},
        "100000": {"uid": 100000, "gid": 100000},
    }
    for label, row in maps.items():
        for name in ("private", "plain"):
            add(
                f"varlink/MapFrom/odd/{name} {label}",
                asking(World.varlink, MACHINE_SOCKET, method("MapFrom", name=name, **row)),
                (SUPER,),
            )
        add(f"varlink/MapTo/odd/{label}", asking(World.varlink, MACHINE_SOCKET, method("MapTo", **row)))
    add("varlink/MapTo/shifted", _map_shifted)
    files: dict[str, dict[str, Any]] = {
        "relative": {"source": "x"},
        "dots": {"source": "/a/../b"},
        "empty": {"source": ""},
        "destination": {"source": "/srv/nosuch", "destination": "x"},
        "destination dots": {"source": "/srv/nosuch", "destination": "/a/../b"},
        "string": {"source": "/srv/nosuch", "replace": "x", "mkdir": "x"},
        "slash": {"source": "/"},
    }
    for label, row in files.items():
        for name in ("BindMount", "CopyFrom", "CopyTo"):
            if (name, label) == ("BindMount", "slash"):
                continue  # it would hide all of the container from whoever comes after
            values = {
                k: v
                for k, v in row.items()
                if (k != "mkdir") == (name != "BindMount") or k in {"source", "destination"}
            }
            add(
                f"varlink/{name}/odd/{label}",
                asking(World.varlink, MACHINE_SOCKET, method(name, name="plain", **values)),
                (SUPER,),
            )


def _map_shifted(w: World) -> None:
    answer = w.bus.call(ROOT, MANAGER, "GetMachineUIDShift", "s", ("private",))
    shift = answer["reply"][1][0] if "reply" in answer else 0
    w.varlink(
        MACHINE_SOCKET,
        method("MapTo", uid=shift),
        method("MapTo", gid=shift + 5),
        method("MapTo", uid=shift, gid=shift + 1),
    )


_changing()
