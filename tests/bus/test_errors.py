# SPDX-License-Identifier: LGPL-2.1-or-later
"""Error names and texts are those of sd-bus and of systemd-machined: tools compare them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from dbus_fast import Variant

from machined.bus import dispatch
from machined.bus.connection import RemoteError
from machined.bus.names import ROOT
from machined.model.errors import ServiceManagerError
from tests.fakes.service import MACHINE, MANAGER, OWN_MACHINE, OWN_MANAGER, PROPERTIES, Client, Served
from tests.fakes.world import turns

DBUS = "org.freedesktop.DBus.Error."
INTROSPECTABLE = "org.freedesktop.DBus.Introspectable"
PEER = "org.freedesktop.DBus.Peer"
WEB = ROOT + "/machine/web"
GONE = ROOT + "/machine/gone"


async def refused(
    client: Client, member: str, signature: str = "", *body: Any, **more: Any
) -> tuple[str, str]:
    with pytest.raises(RemoteError) as raised:
        await client.call(member, signature, *body, **more)
    return raised.value.name, raised.value.text


@pytest.mark.parametrize(
    "path", [GONE, "/", "/org", "/org/freedesktop/machine1/x", WEB + "/x", ROOT + "/image/gone"]
)
@pytest.mark.parametrize(
    ("interface", "member", "signature", "body"),
    [
        (MACHINE, "GetUIDShift", "", ()),
        (MANAGER, "ListMachines", "", ()),
        (PROPERTIES, "Get", "ss", (MACHINE, "Name")),
        (PROPERTIES, "GetAll", "s", ("",)),
        (PROPERTIES, "Set", "ssv", (MACHINE, "Name", Variant("s", "x"))),
    ],
)
async def test_unknown_object(
    service: Served, path: str, interface: str, member: str, signature: str, body: tuple[Any, ...]
) -> None:
    await service.machine("web")
    answer = await refused(service.client, member, signature, *body, path=path, interface=interface)
    assert answer == (DBUS + "UnknownObject", f"Unknown object '{path}'.")


@pytest.mark.parametrize(
    ("path", "interface", "member"),
    [
        (ROOT, MANAGER, "Nope"),
        (ROOT, "org.x.Y", "ListMachines"),
        (ROOT, MACHINE, "GetUIDShift"),
        (WEB, MANAGER, "ListMachines"),
        (WEB, MACHINE, "Nope"),
        (ROOT, "org.freedesktop.DBus.ObjectManager", "GetManagedObjects"),
        (ROOT, PROPERTIES, "Nope"),
    ],
)
async def test_unknown_method(service: Served, path: str, interface: str, member: str) -> None:
    await service.machine("web")
    answer = await refused(service.client, member, path=path, interface=interface)
    text = f"Unknown method {member} or interface {interface}."
    if interface == PEER:  # libdbus's part of sd-bus has words of its own
        text = f"Unknown method '{member}' on interface '{interface}'."
    assert answer == (DBUS + "UnknownMethod", text)


async def test_peer_looks_at_nothing_but_the_member(client: Client) -> None:
    """Another text than elsewhere, and arguments do not matter."""
    expected = (DBUS + "UnknownMethod", f"Unknown method 'Nope' on interface '{PEER}'.")
    assert await refused(client, "Nope", interface=PEER) == expected
    assert await client.call("Ping", "s", "x", interface=PEER) == []


@pytest.mark.parametrize(
    ("path", "interface", "member", "signature", "body", "expected"),
    [
        (ROOT, MANAGER, "GetMachine", "u", (1,), "s"),
        (ROOT, MANAGER, "GetMachine", "", (), "s"),
        (ROOT, MANAGER, "ListMachines", "s", ("x",), ""),
        (ROOT, MANAGER, "KillMachine", "ssu", ("web", "all", 9), "ssi"),
        (ROOT, MANAGER, "RegisterMachine", "s", ("web",), "sayssus"),
        (WEB, MACHINE, "Kill", "s", ("all",), "si"),
        (ROOT, OWN_MANAGER, "StartMachine", "s", ("web",), "sa{sv}"),
        (WEB, OWN_MACHINE, "Wait", "st", ("running", 0), "st"),
    ],
)
async def test_wrong_signature(
    service: Served,
    path: str,
    interface: str,
    member: str,
    signature: str,
    body: tuple[Any, ...],
    expected: str,
) -> None:
    await service.machine("web")
    if signature == expected:
        return
    answer = await refused(service.client, member, signature, *body, path=path, interface=interface)
    text = f"Invalid arguments '{signature}' to call {interface}.{member}(), expecting '{expected}'."
    assert answer == (DBUS + "InvalidArgs", text)


@pytest.mark.parametrize(
    ("member", "signature", "body", "text"),
    [
        ("Get", "s", ("x",), "Expected interface and member parameters"),
        ("GetAll", "", (), "Expected interface parameter"),
        ("Set", "s", ("x",), "Expected interface and member parameters"),
    ],
)
async def test_properties_say_what_they_expect(
    client: Client, member: str, signature: str, body: tuple[Any, ...], text: str
) -> None:
    answer = await refused(client, member, signature, *body, interface=PROPERTIES)
    assert answer == (DBUS + "InvalidArgs", text)


@pytest.mark.parametrize(
    ("interface", "name"), [(MANAGER, "Nope"), ("org.x.Y", "PoolPath"), (MACHINE, "Name"), ("", "PoolPath")]
)
async def test_unknown_property(client: Client, interface: str, name: str) -> None:
    expected = (DBUS + "UnknownProperty", f"Unknown interface {interface} or property {name}.")
    assert await refused(client, "Get", "ss", interface, name, interface=PROPERTIES) == expected
    value = Variant("s", "x")
    assert await refused(client, "Set", "ssv", interface, name, value, interface=PROPERTIES) == expected


async def test_read_only_property(client: Client) -> None:
    answer = await refused(
        client, "Set", "ssv", MANAGER, "PoolPath", Variant("s", "/x"), interface=PROPERTIES
    )
    assert answer == (DBUS + "PropertyReadOnly", "Property 'PoolPath' is not writable.")


async def test_unknown_interface(client: Client) -> None:
    answer = await refused(client, "GetAll", "s", "org.x.Y", interface=PROPERTIES)
    assert answer == (DBUS + "UnknownInterface", "Unknown interface 'org.x.Y'.")


@pytest.mark.parametrize("path", [GONE, "/nowhere"])
async def test_introspecting_what_is_not_there(client: Client, path: str) -> None:
    answer = await refused(client, "Introspect", path=path, interface=INTROSPECTABLE)
    assert answer == (DBUS + "UnknownObject", f"Unknown object '{path}'.")


@pytest.mark.parametrize(
    ("member", "signature", "body", "name", "text"),
    [
        ("GetMachine", "s", ("gone",), "org.freedesktop.machine1.NoSuchMachine", "No machine 'gone' known"),
        ("GetMachine", "s", ("",), "org.freedesktop.machine1.NoSuchMachine", "No machine '' known"),
        ("GetImage", "s", ("gone",), "org.freedesktop.machine1.NoSuchImage", "No image 'gone' known"),
        ("GetImage", "s", ("a/b",), "org.freedesktop.machine1.NoSuchImage", "No image 'a/b' known"),
        (
            "UnregisterMachine",
            "s",
            ("gone",),
            "org.freedesktop.machine1.NoSuchMachine",
            "No machine 'gone' known",
        ),
        # The machine is looked up before the arguments are.
        (
            "KillMachine",
            "ssi",
            ("gone", "x", 0),
            "org.freedesktop.machine1.NoSuchMachine",
            "No machine 'gone' known",
        ),
        ("KillMachine", "ssi", ("web", "x", 0), DBUS + "InvalidArgs", "Invalid kill parameter 'x'"),
        (
            "KillMachine",
            "ssi",
            ("web", "supervisor", 9),
            DBUS + "InvalidArgs",
            "Invalid kill parameter 'supervisor'",
        ),
        ("KillMachine", "ssi", ("web", "all", 0), DBUS + "InvalidArgs", "Invalid signal 0"),
        ("KillMachine", "ssi", ("web", "all", 65), DBUS + "InvalidArgs", "Invalid signal 65"),
        ("TerminateMachine", "s", (".host",), DBUS + "NotSupported", "Operation not supported"),
        ("KillMachine", "ssi", (".host", "all", 9), DBUS + "NotSupported", "Operation not supported"),
        ("GetMachineSSHInfo", "s", ("web",), DBUS + "FileNotFound", "No such file or directory"),
        (
            "OpenMachineShell",
            "sssasas",
            ("web", "", "ls", [], []),
            DBUS + "InvalidArgs",
            "Specified path 'ls' is not absolute",
        ),
        (
            "OpenMachineShell",
            "sssasas",
            ("web", "", "/x", [], ["1=2"]),
            DBUS + "InvalidArgs",
            "Invalid environment assignments",
        ),
        (
            "GetMachineByPID",
            "u",
            (2**32 - 1,),
            "org.freedesktop.DBus.Error.InvalidArgs",
            "Invalid argument",
        ),
        (
            "GetMachineByPID",
            "u",
            (1,),
            "org.freedesktop.machine1.NoMachineForPID",
            "PID 1 does not belong to any known machine",
        ),
    ],
)
async def test_methods(
    service: Served, member: str, signature: str, body: tuple[Any, ...], name: str, text: str
) -> None:
    await service.machine("web")
    assert await refused(service.client, member, signature, *body) == (name, text)


@pytest.mark.parametrize(
    ("changed", "name", "text"),
    [
        ({"name": "my_box"}, "InvalidArgs", "Invalid machine name"),
        ({"name": ".host"}, "InvalidArgs", "Invalid machine name"),
        ({"name": "-", "id": b"x"}, "InvalidArgs", "Invalid machine name"),
        ({"id": b"x" * 15, "ifindices": [0]}, "InvalidArgs", "Invalid machine ID parameter"),
        ({"ifindices": [3, 0], "class": "box"}, "InvalidArgs", "Invalid network interface index 0"),
        ({"ifindices": [-2]}, "InvalidArgs", "Invalid network interface index -2"),
        ({"class": "box", "leader": 1}, "InvalidArgs", "Invalid machine class parameter"),
        ({"class": "host"}, "InvalidArgs", "Invalid machine class parameter"),
        ({"leader": 1, "root": "x"}, "InvalidArgs", "Invalid leader PID"),
        (
            {"root": "x", "leader": 2**22 + 1},
            "InvalidArgs",
            "Root directory must be empty or an absolute path",
        ),
        (
            {"leader": 2**22 + 1},
            "UnixProcessIdUnknown",
            f"Failed to pin process {2**22 + 1}: No such process",
        ),
        (
            {"leader": 2**32 - 1},
            "UnixProcessIdUnknown",
            "Failed to pin process -1: No such process",
        ),
        ({"class": ""}, "NotSupported", "Operation not supported"),
    ],
)
async def test_registering(client: Client, changed: dict[str, Any], name: str, text: str) -> None:
    """One bad field, and the next one in the order of checks is bad as well where that can be told."""
    fields = {
        "name": "web",
        "id": b"",
        "service": "x",
        "class": "container",
        "leader": 0,
        "root": "",
        **changed,
    }
    body = [
        *(fields[key] for key in ("name", "id", "service", "class", "leader", "root")),
        fields.get("ifindices", []),
    ]
    assert await refused(client, "RegisterMachineWithNetwork", "sayssusai", *body) == (
        DBUS + name,
        text,
    )


async def test_answers_of_pid_1_are_passed_on(service: Served) -> None:
    def refuse(*_: Any) -> None:
        raise ServiceManagerError("org.freedesktop.systemd1.UnitExists", "Unit was already loaded.")

    service.pid1.hooks["StartTransientUnit"] = refuse
    answer = await refused(
        service.client, "CreateMachine", "sayssusa(sv)", "web", b"", "x", "container", 0, "", []
    )
    assert answer == ("org.freedesktop.systemd1.UnitExists", "Unit was already loaded.")


async def test_a_bug_is_not_told(service: Served, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    def broken() -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr(service.core.images, "list", broken)
    name, text = await refused(service.client, "ListImages")
    assert name == DBUS + "Failed"
    assert "secret" not in text
    assert "RuntimeError: secret" in caplog.text


async def test_errno_without_a_name(service: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    def busy() -> None:
        raise OSError(16, "Device or resource busy")

    monkeypatch.setattr(service.core.images, "list", busy)
    assert await refused(service.client, "ListImages") == ("System.Error.EBUSY", "Device or resource busy")


async def test_too_many_calls_at_once(service: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "MAX_CALLS_PER_SENDER", 3)
    service.sandbox.image("web")
    waiting = [
        asyncio.ensure_future(
            service.client.call("WaitMachine", "sst", "web", "running", 0, interface=OWN_MANAGER)
        )
        for _ in range(3)
    ]
    await turns()  # they are sent
    name, _ = await refused(service.client, "ListMachines")
    assert name == DBUS + "LimitsExceeded"
    other = await service.connect()
    assert await other.call("ListMachines"), "others are served"
    await service.machine("web")
    assert await asyncio.gather(*waiting) == ["running"] * 3
    assert await service.client.call("ListMachines")


async def test_too_many_calls_of_all(service: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many connections with a few calls each are as bad; who has none under way is served all the same."""
    monkeypatch.setattr(dispatch, "MAX_CALLS", 3)
    monkeypatch.setattr(dispatch, "FEW_CALLS", 2)
    service.sandbox.image("web")
    waiting = [
        asyncio.ensure_future(
            service.client.call("WaitMachine", "sst", "web", "running", 0, interface=OWN_MANAGER)
        )
        for _ in range(3)
    ]
    await turns()  # they are sent
    name, _ = await refused(service.client, "ListMachines")
    assert name == DBUS + "LimitsExceeded"
    other = await service.connect()
    assert await other.call("ListMachines")
    await service.machine("web")
    assert await asyncio.gather(*waiting) == ["running"] * 3
    assert await service.client.call("ListMachines")
