# SPDX-License-Identifier: LGPL-2.1-or-later
"""varlink: what every server answers, frames that are not what they should be, and List."""

from __future__ import annotations

import json
from functools import partial
from typing import Any, Final

from tests.differential.calls_bus import HOSTILE, TARGETS
from tests.differential.wire import varlink
from tests.differential.world import (
    EVERYBODY,
    MACHINE,
    MANAGER,
    PROPERTIES,
    ROOT,
    SUPER,
    World,
    add,
    asking,
    case,
)

MACHINE_SOCKET: Final = "/run/systemd/machine/io.systemd.Machine"
IMAGE_SOCKET: Final = "/run/systemd/machine/io.systemd.MachineImage"
USER_SOCKET: Final = "/run/systemd/userdb/io.systemd.Machine"
HOOK_SOCKET: Final = "/run/systemd/resolve.hook/io.systemd.Machine"
SOCKETS: Final = {"machine": MACHINE_SOCKET, "image": IMAGE_SOCKET, "user": USER_SOCKET, "hook": HOOK_SOCKET}
INTERFACES: Final = (
    "org.varlink.service",
    "io.systemd",
    "io.systemd.Machine",
    "io.systemd.MachineImage",
    "io.systemd.UserDatabase",
    "io.systemd.service",
    "io.systemd.Resolve.Hook",
    "no.such",
    "",
    "x",
    "io.systemd.MachineInstance",
)


def method(name: str, /, more: Any = False, oneway: Any = False, **parameters: Any) -> dict[str, Any]:
    """A call as varlink has it; `name` without a dot is one of io.systemd.Machine."""
    full = name if "." in name else f"io.systemd.Machine.{name}"
    call: dict[str, Any] = {"method": full, "parameters": parameters}
    return call | ({"more": True} if more else {}) | ({"oneway": True} if oneway else {})


def _service() -> None:
    for label, path in SOCKETS.items():
        add(f"varlink/{label}/GetInfo", asking(_info, path))
        for interface in INTERFACES:
            add(
                f"varlink/{label}/description of {interface}",
                asking(_description, path, interface),
            )
        rows: dict[str, Any] = {
            "unknown method": method("NoSuch"),
            "unknown interface": method("no.such.Method"),
            "no interface": {"method": "List"},
            "no method": {"parameters": {}},
            "empty method": {"method": ""},
            "method number": {"method": 7},
            "method null": {"method": None},
            "dots": {"method": "..."},
            "bad name": {"method": "io.systemd.Machine.list"},
            "blank": {"method": "io.systemd.Machine.Li st"},
            "parameters array": {"method": "org.varlink.service.GetInfo", "parameters": []},
            "parameters string": {"method": "org.varlink.service.GetInfo", "parameters": "x"},
            "parameters null": {"method": "no.such.Method", "parameters": None},
            "more as a string": {"method": "no.such.Method", "more": "yes"},
            "more and oneway": {"method": "no.such.Method", "more": True, "oneway": True},
            "more false": {"method": "no.such.Method", "more": False, "oneway": False},
            "unknown key": {"method": "no.such.Method", "nosuch": 1},
            "upgrade": {"method": "no.such.Method", "upgrade": True},
            "oneway unknown": {"method": "no.such.Method", "oneway": True},
            "GetInfo with parameters": method("org.varlink.service.GetInfo", x=1),
            "GetInfo oneway": {"method": "org.varlink.service.GetInfo", "oneway": True},
            "description without interface": method("org.varlink.service.GetInterfaceDescription"),
            "description number": method("org.varlink.service.GetInterfaceDescription", interface=1),
            "description null": method("org.varlink.service.GetInterfaceDescription", interface=None),
            "description and more": method(
                "org.varlink.service.GetInterfaceDescription", interface="x", y=1
            ),
            "array": b"[1]\0",
            "string": b'"x"\0',
            "number": b"7\0",
            "null": b"null\0",
            "junk": b"{nonsense}\0",
            "nothing": b"\0",
            "two nothings": b"\0\0",
            "half": b'{"method":\0',
            "binary": b"\xff\xfe\0",
            "twice the same key": b'{"method":"no.such.A","method":"no.such.B"}\0',
            "blanks": b' \n\t{ "method" : "no.such.A" } \n\0',
            "comment": b'{"method":"no.such.A"} // x\0',
            "trailing comma": b'{"method":"no.such.A",}\0',
            "two in one": b'{"method":"no.such.A"}{}\0',
            "deep": b'{"method":"no.such.A","parameters":' + b'{"a":' * 3000 + b"1" + b"}" * 3000 + b"}\0",
            "a little deep": b'{"method":"no.such.A","parameters":'
            + b'{"a":' * 30
            + b"1"
            + b"}" * 30
            + b"}\0",
            "float": b'{"method":"no.such.A","parameters":{"a":1.5e300}}\0',
            "big number": b'{"method":"no.such.A","parameters":{"a":99999999999999999999999}}\0',
            "nan": b'{"method":"no.such.A","parameters":{"a":NaN}}\0',
            "escapes": b'{"method":"no.such.\\u0041\\ud83d\\ude00"}\0',
            "lone surrogate": b'{"method":"no.such.\\ud800"}\0',
            "escaped nul": b'{"method":"no.such.\\u0000"}\0',
            "reply": b'{"parameters":{},"continues":true}\0',
            "error": b'{"error":"x.y","parameters":{}}\0',
        }
        for name, frame in rows.items():
            add(
                f"varlink/{label}/odd/{name}",
                asking(World.varlink, path, frame),
                EVERYBODY if name == "unknown method" else (SUPER,),
            )


def _info(w: World, path: str) -> None:
    w.varlink(path, method("org.varlink.service.GetInfo"), fence=False)


def _description(w: World, path: str, interface: str) -> None:
    """The description as a list of lines without comments and blanks; errors as they are."""
    frame = (
        json.dumps(method("org.varlink.service.GetInterfaceDescription", interface=interface)).encode()
        + b"\0"
    )
    for answer in varlink(path, [frame], [], fence=True, seconds=3):
        text = answer.get("parameters", {}).get("description") if isinstance(answer, dict) else None
        if text is None:
            w.note(answer)
        else:
            w.note([line for line in map(str.strip, text.splitlines()) if line and not line.startswith("#")])


_service()


@case("varlink/pipelined", EVERYBODY)
def _pipelined(w: World) -> None:
    w.varlink(
        MACHINE_SOCKET,
        method("no.such.A"),
        method("List", name=".host"),
        method("Kill", name="nosuch", signal=9),
        method("no.such.B", oneway=True),
        method("List", name="plain"),
        *[method("no.such.C")] * 40,
    )


@case("varlink/oversize")
def _oversize(w: World) -> None:
    w.varlink(MACHINE_SOCKET, b'{"method":"no.such.A","parameters":{"a":"' + b"x" * (17 << 20) + b'"}}\0')
    w.varlink(MACHINE_SOCKET, b'{"method":"no.such.A","parameters":{"a":"' + b"x" * (1 << 20) + b'"}}\0')


@case("varlink/descriptors nobody asked for", EVERYBODY)
def _descriptors(w: World) -> None:
    with open("/dev/null", "rb") as null:
        w.varlink(MACHINE_SOCKET, method("List", name=".host"), fds=(null.fileno(),), seconds=1)
        w.varlink(
            MACHINE_SOCKET, method("no.such.A"), method("no.such.B"), fds=(null.fileno(),) * 3, seconds=1
        )


def _list() -> None:
    for metadata in (None, "no", "yes", "graceful", "nosuch", 1):
        extra = {} if metadata is None else {"acquireMetadata": metadata}
        for target in (*TARGETS, "nosuch"):
            add(
                f"varlink/List/{target}/{metadata}",
                asking(World.varlink, MACHINE_SOCKET, method("List", name=target, **extra)),
                EVERYBODY if metadata in {None, "yes"} else (SUPER,),
            )
        add(f"varlink/List/all/{metadata}", partial(_list_all, extra))
    for label, name in HOSTILE.items():
        add(
            f"varlink/List/{label}",
            asking(World.varlink, MACHINE_SOCKET, method("List", name=name)),
            (SUPER,),
        )
    rows: dict[str, dict[str, Any]] = {
        "without more": method("List"),
        "oneway": method("List", oneway=True),
        "null name": method("List", name=None),
        "number": method("List", name=1),
        "array": method("List", name=["plain"]),
        "unknown": method("List", nosuch=1),
        "unknown and name": method("List", name="plain", nosuch=1),
        "pid as number": method("List", pid=1),
        "pid as string": method("List", pid="1"),
        "empty pid": method("List", pid={}),
        "pid 0": method("List", pid={"pid": 0}),
        "pid 1": method("List", pid={"pid": 1}),
        "pid -1": method("List", pid={"pid": -1}),
        "big pid": method("List", pid={"pid": 2**31}),
        "huge pid": method("List", pid={"pid": 2**63}),
        "dead pid": method("List", pid={"pid": 4194303}),
        "pid float": method("List", pid={"pid": 1.5}),
        "pid float int": method("List", pid={"pid": 1.0}),
        "pid bool": method("List", pid={"pid": True}),
        "pid null": method("List", pid=None),
        "pid with unknown": method("List", pid={"pid": 1, "nosuch": 1}),
        "pid with a wrong id": method("List", pid={"pid": 1, "pidfdId": 1}),
        "pid with a wrong boot": method("List", pid={"pid": 1, "bootId": "0" * 32}),
        "pid with a bad boot": method("List", pid={"pid": 1, "bootId": "x"}),
        "name and pid": method("List", name="plain", pid={"pid": 1}),
        "interactive": method("List", name="plain", allowInteractiveAuthentication=True),
        "interactive as string": method("List", name="plain", allowInteractiveAuthentication="x"),
        "more and a name": method("List", more=True, name="plain"),
        "more and nobody": method("List", more=True, name="nosuch"),
        "no parameters": {"method": "io.systemd.Machine.List"},
        "null parameters": {"method": "io.systemd.Machine.List", "parameters": None},
    }
    for label, row in rows.items():
        add(f"varlink/List/odd/{label}", asking(World.varlink, MACHINE_SOCKET, row))
    add("varlink/List/by leader", partial(_by_leader, "plain"))
    add("varlink/List/by leader, wrong name", partial(_by_leader, "private"))


def _list_all(extra: dict[str, Any], w: World) -> None:
    frame = json.dumps(method("List", more=True, **extra)).encode() + b"\0"
    answers = varlink(MACHINE_SOCKET, [frame], [], fence=True, seconds=5)
    # The order is that of a hash table. With metadata, the first failure is the end, wherever it came.
    if extra.get("acquireMetadata") == "yes":
        w.note([answer for answer in answers if not isinstance(answer, dict) or "error" in answer][-1:])
        return
    rows = sorted(json.dumps(a.get("parameters", a)) if isinstance(a, dict) else a for a in answers)
    w.note([json.loads(row) if row.startswith("{") else row for row in rows])
    w.note([a.get("continues") if isinstance(a, dict) else a for a in answers])


def _by_leader(name: str, w: World) -> None:
    path = w.bus.call(ROOT, MANAGER, "GetMachine", "s", ("plain",))["reply"][1][0]
    leader = w.bus.call(path, PROPERTIES, "Get", "ss", (MACHINE, "Leader"))["reply"][1][0][1]
    w.varlink(MACHINE_SOCKET, method("List", pid={"pid": leader}))
    w.varlink(MACHINE_SOCKET, method("List", name=name, pid={"pid": leader}))


_list()
