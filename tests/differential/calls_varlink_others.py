# SPDX-License-Identifier: LGPL-2.1-or-later
"""varlink: the user database, the hook of name resolution, and io.systemd.service."""

from __future__ import annotations

from functools import partial
from typing import Any

from tests.differential.calls_varlink import HOOK_SOCKET, MACHINE_SOCKET, USER_SOCKET, method
from tests.differential.world import EVERYBODY, MANAGER, ROOT, SUPER, World, add, asking


def _users() -> None:
    prefix, service = "io.systemd.UserDatabase.", "io.systemd.Machine"
    names = (
        "vu-plain-0",
        "vu-private-0",
        "vu-private-1000",
        "vu-private-65535",
        "vu-private-65536",
        "vu-nosuch-0",
        "vu--0",
        "vu-private-",
        "vu-private-x",
        "vu-private--1",
        "vu-private-007",
        "vu-d-vm-0",
        "vu-.host-0",
        "root",
        "",
        "vg-private-0",
        "vu-private-4294967295",
        "x" * 300,
        "vu-d-scope-0",
        "vu-private-+1",
        "vu-private- 1",
    )
    for kind, key, number in (("User", "userName", "uid"), ("Group", "groupName", "gid")):
        call = f"{prefix}Get{kind}Record"
        for name in names:
            wanted = name if kind == "User" else name.replace("vu-", "vg-")
            add(
                f"varlink/userdb/{kind}/{name[:30]!r}",
                asking(World.varlink, USER_SOCKET, method(call, service=service, **{key: wanted})),
                EVERYBODY if name == "vu-private-0" else (SUPER,),
            )
        for value in (0, 1000, 65534, 65535, 65536, 0xFFFFFFFF, 0xFFFFFFFE, -1, 2**32, "0", 1.5, None):
            add(
                f"varlink/userdb/{kind}/number {value!r}",
                asking(World.varlink, USER_SOCKET, method(call, service=service, **{number: value})),
                (SUPER,),
            )
        odd: dict[str, dict[str, Any]] = {
            "no service": {key: "vu-private-0"},
            "bad service": {"service": "x", key: "vu-private-0"},
            "service number": {"service": 1},
            "nothing": {"service": service},
            "unknown": {"service": service, "x": 1},
        }
        for label, row in odd.items():
            add(
                f"varlink/userdb/{kind}/{label}",
                asking(World.varlink, USER_SOCKET, method(call, **row)),
                (SUPER,),
            )
        add(
            f"varlink/userdb/{kind}/all",
            asking(World.varlink, USER_SOCKET, method(call, more=True, service=service)),
        )
        add(f"varlink/userdb/{kind}/shifted", partial(_shifted, call, key, number))
    memberships: dict[str, dict[str, Any]] = {
        "nothing": {},
        "user": {"userName": "vu-private-0"},
        "group": {"groupName": "vg-private-0"},
        "both": {"userName": "a", "groupName": "b"},
        "bad service": {"service": "x"},
        "number": {"userName": 1},
    }
    for label, row in memberships.items():
        for more in (False, True):
            add(
                f"varlink/userdb/memberships/{label}/{more}",
                asking(
                    World.varlink,
                    USER_SOCKET,
                    method(f"{prefix}GetMemberships", more=more, **{"service": service} | row),
                ),
                (SUPER,),
            )


def _shifted(call: str, key: str, number: str, w: World) -> None:
    answer = w.bus.call(ROOT, MANAGER, "GetMachineUIDShift", "s", ("private",))
    shift = answer["reply"][1][0] if "reply" in answer else 0
    letter = key[0]
    for values in (
        {number: shift},
        {number: shift + 1000},
        {number: shift + 65535},
        {number: shift + 65536},
        {number: shift, key: f"v{letter}-private-0"},
        {number: shift, key: f"v{letter}-private-1"},
        {number: shift, key: f"v{letter}-nosuch-0"},
    ):
        w.varlink(USER_SOCKET, method(call, service="io.systemd.Machine", **values))


_users()


def _others() -> None:
    rows: dict[str, dict[str, Any]] = {
        "ping": method("io.systemd.service.Ping"),
        "ping with": method("io.systemd.service.Ping", x=1),
        "level": method("io.systemd.service.GetLogLevel"),
        "environment": method("io.systemd.service.GetEnvironment"),
        "reload": method("io.systemd.service.Reload"),
        "set level 9": method("io.systemd.service.SetLogLevel", level=9),
        "set level string": method("io.systemd.service.SetLogLevel", level="x"),
        "set level nothing": method("io.systemd.service.SetLogLevel"),
        "set level -1": method("io.systemd.service.SetLogLevel", level=-1),
    }
    for label, row in rows.items():
        add(f"varlink/service/{label}", asking(World.varlink, MACHINE_SOCKET, row))
    add("varlink/service/set level", _set_level, (SUPER, "tester"))
    prefix = "io.systemd.Resolve.Hook."
    keys: dict[str, Any] = {
        "plain A": [("plain", 1)],
        "plain AAAA": [("plain", 28)],
        "private": [("private", 1)],
        "vm": [("d-vm", 1)],
        "nobody": [("nosuch", 1)],
        "below": [("x.plain", 1)],
        "two": [("plain", 1), ("plain", 28)],
        "mixed": [("plain", 1), ("nosuch", 1)],
        "MX": [("plain", 15)],
        "host": [("_host", 1)],
        "none": [],
        "capitals": [("PLAIN", 1)],
    }
    for label, questions in keys.items():
        question = [{"key": {"class": 1, "type": kind, "name": name}} for name, kind in questions]
        question = [entry["key"] for entry in question]
        add(
            f"varlink/hook/{label}",
            asking(World.varlink, HOOK_SOCKET, method(f"{prefix}ResolveRecord", question=question)),
            (SUPER,),
        )
    for label, row in {
        "no question": method(f"{prefix}ResolveRecord"),
        "question": method(f"{prefix}ResolveRecord", question=1),
        "key": method(f"{prefix}ResolveRecord", question=[{}]),
        "filter": method(f"{prefix}QueryFilter"),
    }.items():
        add(f"varlink/hook/odd/{label}", asking(World.varlink, HOOK_SOCKET, row))
    add(
        "varlink/hook/filter with more",
        asking(
            World.varlink, HOOK_SOCKET, method(f"{prefix}QueryFilter", more=True), fence=False, seconds=1
        ),
        (SUPER,),
    )


def _set_level(w: World) -> None:
    w.varlink(
        MACHINE_SOCKET,
        method("io.systemd.service.SetLogLevel", level=4),
        method("io.systemd.service.GetLogLevel"),
        method("io.systemd.service.SetLogLevel", level=6),
    )


_others()
