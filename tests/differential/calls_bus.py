# SPDX-License-Identifier: LGPL-2.1-or-later
"""D-Bus: the dispatcher, objects, properties, and LogControl1."""

from __future__ import annotations

from typing import Any, Final

from tests.differential.wire import INTERACTIVE, NO_REPLY, PEER
from tests.differential.world import (
    EVERYBODY,
    IMAGE,
    INTROSPECTABLE,
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

MACHINES: Final = f"{ROOT}/machine"
IMAGES: Final = f"{ROOT}/image"
LOG: Final = "/org/freedesktop/LogControl1"
LOG_CONTROL: Final = "org.freedesktop.LogControl1"

# What the setup has made: see inside.setup.
TARGETS: Final = ("plain", "private", "d-scope", "d-vm", ".host")
HOSTILE: Final = {
    "empty": "",
    "dot": ".",
    "dots": "..",
    "slash": "/",
    "path": "../../etc",
    "newline": "plain\n",
    "nosuch": "nosuch",
    "self": "self",
    "64": "a" * 64,
    "65": "a" * 65,
    "unicode": "mäschine",
    "format": "%s%n",
    "underscore": "a_b",
    "leading dash": "-a",
    "trailing dash": "a-",
    "two dots": "a..b",
    "trailing dot": "plain.",
    "leading dot": ".plain",
    "capitals": "PLAIN",
    "blank": "a b",
    "control": "a\x01b",
    "huge": "x" * 65536,
    "host in capitals": ".HOST",
    "temporary": ".#plain",
    "unit": "unit:x",
    "digits": "12345",
}
OBJECTS: Final = {
    "top": "/",
    "org": "/org",
    "freedesktop": "/org/freedesktop",
    "root": ROOT,
    "machines": MACHINES,
    "images": IMAGES,
    "plain": f"{MACHINES}/plain",
    "private": f"{MACHINES}/private",
    "scope": f"{MACHINES}/d_2dscope",
    "vm": f"{MACHINES}/d_2dvm",
    "host": f"{MACHINES}/_2ehost",
    "self": f"{MACHINES}/self",
    "nosuch": f"{MACHINES}/nosuch",
    "below": f"{MACHINES}/plain/more",
    "bad escape": f"{MACHINES}/_zz",
    "short escape": f"{MACHINES}/plai_6",
    "escaped letter": f"{MACHINES}/_70lain",
    "empty escape": f"{MACHINES}/_",
    "nul escape": f"{MACHINES}/plain_00",
    "capital hex": f"{MACHINES}/_2Ehost",
    "image": f"{IMAGES}/d_2ddir",
    "no image": f"{IMAGES}/nosuch",
    "host image": f"{IMAGES}/_2ehost",
    "bad image": f"{IMAGES}/_2e_2e",
    "hidden image": f"{IMAGES}/_2ed_2dhidden",
    "raw image": f"{IMAGES}/d_2draw",
    "log": LOG,
    "below log": f"{LOG}/x",
    "elsewhere": "/com/example",
    "beside": "/org/freedesktop/machine1x",
    "jobs": f"{ROOT}/job",
}


def _calls() -> None:
    for label, path in OBJECTS.items():
        add(f"bus/introspect/{label}", asking(World.introspect, path))
        add(f"bus/ping/{label}", asking(World.call, path, PEER, "Ping"), (SUPER,))
        for interface in ("", MANAGER, MACHINE, IMAGE, PROPERTIES, "x.y", LOG_CONTROL):
            add(
                f"bus/get all/{label}/{interface}",
                asking(World.call, path, PROPERTIES, "GetAll", "s", interface),
                EVERYBODY if interface in {"", MACHINE} else (SUPER,),
            )


_calls()


def _odd() -> None:
    """What the dispatcher answers to calls that do not fit."""
    plain, image = OBJECTS["plain"], OBJECTS["image"]
    rows: dict[str, tuple[Any, ...]] = {
        "unknown member": (ROOT, MANAGER, "NoSuch"),
        "unknown interface": (ROOT, "x.y", "GetMachine", "s", "plain"),
        "unknown both": (ROOT, "x.y", "NoSuch"),
        "unknown without interface": (ROOT, None, "NoSuch"),
        "no object": ("/x", MANAGER, "GetMachine", "s", "plain"),
        "no object, no interface": ("/x", None, "GetMachine", "s", "plain"),
        "no object, unknown": ("/x", "x.y", "NoSuch"),
        "no interface": (ROOT, None, "GetMachine", "s", "plain"),
        "no interface, wrong": (ROOT, None, "GetMachine", "u", 1),
        "no interface, machine": (plain, None, "GetUIDShift"),
        "no interface, Ping": (ROOT, None, "Ping"),
        "no interface, Ping elsewhere": ("/x", None, "Ping"),
        "no interface, Introspect": ("/x", None, "Introspect"),
        "no interface, GetMachineId": (ROOT, None, "GetMachineId"),
        "no interface, GetAll": (LOG, None, "GetAll", "s", ""),
        "no interface, Get": (ROOT, None, "Get", "ss", MANAGER, "PoolPath"),
        "no interface, Get wrong": (ROOT, None, "Get", "s", MANAGER),
        "manager's on a machine": (plain, MANAGER, "GetMachine", "s", "plain"),
        "manager's on a machine, no interface": (plain, None, "GetMachine", "s", "plain"),
        "machine's on root": (ROOT, MACHINE, "Terminate"),
        "machine's on an image": (image, MACHINE, "GetUIDShift"),
        "image's on a machine": (plain, IMAGE, "GetHostname"),
        "machine's on the parent": (MACHINES, MACHINE, "GetUIDShift"),
        "machine's on nobody": (OBJECTS["nosuch"], MACHINE, "GetUIDShift"),
        "machine's on nobody, wrong": (OBJECTS["nosuch"], MACHINE, "GetUIDShift", "s", "x"),
        "machine's on nobody, unknown": (OBJECTS["nosuch"], MACHINE, "NoSuch"),
        "unknown on a machine": (plain, MACHINE, "NoSuch"),
        "unknown interface on a machine": (plain, "x.y", "GetUIDShift"),
        "unknown on nobody": (OBJECTS["nosuch"], "x.y", "NoSuch"),
        "no image's": (OBJECTS["no image"], IMAGE, "GetHostname"),
        "no image's, unknown": (OBJECTS["no image"], IMAGE, "NoSuch"),
        "no unregister on a machine": (plain, MACHINE, "Unregister"),
        "below a machine": (OBJECTS["below"], MACHINE, "GetUIDShift"),
        "Ping with arguments": (ROOT, PEER, "Ping", "s", "x"),
        "Peer unknown": (ROOT, PEER, "NoSuch"),
        "Peer on no object": ("/x/y", PEER, "GetMachineId"),
        "GetMachineId": (ROOT, PEER, "GetMachineId"),
        "GetMachineId with arguments": (ROOT, PEER, "GetMachineId", "u", 7),
        "Introspect with arguments": (ROOT, INTROSPECTABLE, "Introspect", "s", "x"),
        "Introspectable unknown": (ROOT, INTROSPECTABLE, "NoSuch"),
        "Introspectable unknown on no object": ("/x", INTROSPECTABLE, "NoSuch"),
        "Properties unknown": (ROOT, PROPERTIES, "NoSuch"),
        "Properties unknown on no object": ("/x", PROPERTIES, "NoSuch"),
        "ObjectManager": (ROOT, "org.freedesktop.DBus.ObjectManager", "GetManagedObjects"),
        "Get wrong": (ROOT, PROPERTIES, "Get", "s", "x"),
        "Get nothing": (ROOT, PROPERTIES, "Get"),
        "Get on no object": ("/x", PROPERTIES, "Get", "ss", MANAGER, "PoolPath"),
        "Get wrong on no object": ("/x", PROPERTIES, "Get", "s", MANAGER),
        "Get of no interface": (ROOT, PROPERTIES, "Get", "ss", "x.y", "PoolPath"),
        "Get of the empty interface": (ROOT, PROPERTIES, "Get", "ss", "", "PoolPath"),
        "Get of an interface without properties": (ROOT, PROPERTIES, "Get", "ss", PEER, "PoolPath"),
        "Get of no property": (ROOT, PROPERTIES, "Get", "ss", MANAGER, "NoSuch"),
        "Get of an empty property": (ROOT, PROPERTIES, "Get", "ss", MANAGER, ""),
        "Get of a method": (ROOT, PROPERTIES, "Get", "ss", MANAGER, "GetMachine"),
        "Get of another's": (ROOT, PROPERTIES, "Get", "ss", MACHINE, "Name"),
        "Get of a bad interface": (ROOT, PROPERTIES, "Get", "ss", "no interface\n", "PoolPath"),
        "Get hidden": (plain, PROPERTIES, "Get", "ss", MACHINE, "Scope"),
        "Get on nobody": (OBJECTS["nosuch"], PROPERTIES, "Get", "ss", MACHINE, "Name"),
        "Get on nobody of no property": (OBJECTS["nosuch"], PROPERTIES, "Get", "ss", MACHINE, "NoSuch"),
        "Get on nobody of no interface": (OBJECTS["nosuch"], PROPERTIES, "Get", "ss", "x.y", "Name"),
        "GetAll wrong": (ROOT, PROPERTIES, "GetAll"),
        "GetAll two": (ROOT, PROPERTIES, "GetAll", "ss", "", ""),
        "GetAll bad name": (ROOT, PROPERTIES, "GetAll", "s", "no interface\n"),
        "GetAll one word": (ROOT, PROPERTIES, "GetAll", "s", "word"),
        "GetAll huge": (ROOT, PROPERTIES, "GetAll", "s", "x." * 30000 + "x"),
        "GetAll Peer": (ROOT, PROPERTIES, "GetAll", "s", PEER),
        "GetAll Introspectable": (ROOT, PROPERTIES, "GetAll", "s", INTROSPECTABLE),
        "GetAll Peer on no object": ("/x", PROPERTIES, "GetAll", "s", PEER),
        "GetAll on a parent": ("/org", PROPERTIES, "GetAll", "s", ""),
        "Set read-only": (ROOT, PROPERTIES, "Set", "ssv", MANAGER, "PoolPath", ("s", "/tmp")),
        "Set read-only, wrong type": (ROOT, PROPERTIES, "Set", "ssv", MANAGER, "PoolPath", ("u", 1)),
        "Set no property": (ROOT, PROPERTIES, "Set", "ssv", MANAGER, "NoSuch", ("s", "x")),
        "Set of no interface": (ROOT, PROPERTIES, "Set", "ssv", "x.y", "PoolPath", ("s", "x")),
        "Set wrong": (ROOT, PROPERTIES, "Set", "ss", MANAGER, "PoolPath"),
        "Set on nobody": (OBJECTS["nosuch"], PROPERTIES, "Set", "ssv", MACHINE, "Name", ("s", "x")),
        "Set on no object": ("/x", PROPERTIES, "Set", "ssv", MANAGER, "PoolPath", ("s", "/tmp")),
        "Set on a machine": (plain, PROPERTIES, "Set", "ssv", MACHINE, "Name", ("s", "x")),
        "Set hidden": (plain, PROPERTIES, "Set", "ssv", MACHINE, "Scope", ("s", "x")),
        "Set image": (image, PROPERTIES, "Set", "ssv", IMAGE, "ReadOnly", ("b", True)),
        "self": (OBJECTS["self"], MACHINE, "GetUIDShift"),
        "a struct for a string": (ROOT, MANAGER, "GetMachine", "(s)", ("plain",)),
        "a variant for a string": (ROOT, MANAGER, "GetMachine", "v", ("s", "plain")),
        "one too many": (ROOT, MANAGER, "GetMachine", "ss", "plain", "x"),
        "none": (ROOT, MANAGER, "GetMachine"),
        "many": (ROOT, MANAGER, "GetMachine", "as", ["x" * 100] * 2000),
        "path for a string": (ROOT, MANAGER, "GetMachine", "o", "/plain"),
        "list with arguments": (ROOT, MANAGER, "ListMachines", "s", "x"),
    }
    for name, row in rows.items():
        add(f"bus/odd/{name}", asking(World.call, *row))
    for flags, label in ((NO_REPLY, "no reply"), (INTERACTIVE, "interactive"), (0x80, "unknown flag")):
        for name in ("no interface", "unknown member", "none", "no object", "GetMachineId", "Set read-only"):
            row = rows[name]
            add(f"bus/odd/{name}/{label}", asking(World.call, *row, flags=flags), (SUPER,))


_odd()

PROPERTIES_OF_MACHINES: Final = (
    "Name",
    "Id",
    "Timestamp",
    "TimestampMonotonic",
    "Service",
    "Unit",
    "Scope",
    "Subgroup",
    "Leader",
    "LeaderPIDFDId",
    "Supervisor",
    "SupervisorPIDFDId",
    "Class",
    "RootDirectory",
    "NetworkInterfaces",
    "VSockCID",
    "SSHAddress",
    "SSHPrivateKeyPath",
    "State",
    "UID",
    "ControlAddress",
)


def _properties() -> None:
    for target in ("plain", "scope", "vm", "host"):
        for name in PROPERTIES_OF_MACHINES:
            add(
                f"bus/get/{target}/{name}",
                asking(World.call, OBJECTS[target], PROPERTIES, "Get", "ss", MACHINE, name),
                (SUPER,),
            )
    for name in ("PoolPath", "PoolUsage", "PoolLimit"):
        add(f"bus/get/root/{name}", asking(World.call, ROOT, PROPERTIES, "Get", "ss", MANAGER, name))


_properties()


@case("bus/descriptors nobody asked for", EVERYBODY)
def _descriptors(w: World) -> None:
    with open("/dev/null", "rb") as null:
        w.manager("GetMachine", "sh", "plain", null)
        w.manager("GetMachine", "v", ("h", null))
        w.manager("ListMachines", "h", null)
        w.call(ROOT, PEER, "Ping", "h", null)
        w.call("/x", None, "NoSuch", "ah", [null] * 8)
        w.call(LOG, PROPERTIES, "Set", "ssv", LOG_CONTROL, "LogLevel", ("h", null))


def _log_control() -> None:
    for name in ("LogLevel", "LogTarget", "SyslogIdentifier", "NoSuch"):
        add(f"bus/log/get/{name}", asking(World.call, LOG, PROPERTIES, "Get", "ss", LOG_CONTROL, name))
    levels = ("emerg", "alert", "crit", "err", "warning", "notice", "info", "debug")
    odd = ("", "7", "0", "8", "-1", "DEBUG", "error", "null", "x" * 5000, "%s", "debug\n", " debug", "07")
    for value in (*levels, *odd):
        add(f"bus/log/level/{value[:20]!r}", asking(_set_log, "LogLevel", value), (SUPER,))
    targets = (
        "console",
        "console-prefixed",
        "kmsg",
        "journal",
        "journal-or-kmsg",
        "syslog",
        "syslog-or-kmsg",
        "auto",
        "null",
    )
    for value in (*targets, "", "JOURNAL", "nosuch", "x" * 5000, "%s", "file"):
        add(f"bus/log/target/{value[:20]!r}", asking(_set_log, "LogTarget", value), (SUPER,))
    for label, variant in {
        "number": ("u", 7),
        "array": ("as", ["info"]),
        "variant": ("v", ("s", "info")),
    }.items():
        add(
            f"bus/log/set {label}",
            asking(World.call, LOG, PROPERTIES, "Set", "ssv", LOG_CONTROL, "LogLevel", variant),
        )
    for name in ("SyslogIdentifier", "LogLevel", "NoSuch"):
        add(
            f"bus/log/set {name}",
            asking(World.call, LOG, PROPERTIES, "Set", "ssv", LOG_CONTROL, name, ("s", "nosuch")),
        )
    add("bus/log/method", asking(World.call, LOG, LOG_CONTROL, "NoSuch"))
    add("bus/log/method without interface", asking(World.call, LOG, None, "NoSuch"))


def _set_log(w: World, name: str, value: str) -> None:
    before = w.bus.call(LOG, PROPERTIES, "Get", "ss", (LOG_CONTROL, name))["reply"][1][0]
    w.call(LOG, PROPERTIES, "Set", "ssv", LOG_CONTROL, name, ("s", value))
    w.call(LOG, PROPERTIES, "Get", "ss", LOG_CONTROL, name)
    w.bus.call(LOG, PROPERTIES, "Set", "ssv", (LOG_CONTROL, name, before))


_log_control()
