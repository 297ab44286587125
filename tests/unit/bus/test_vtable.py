# SPDX-License-Identifier: LGPL-2.1-or-later

from __future__ import annotations

import xml.etree.ElementTree as ET
from types import SimpleNamespace
from typing import Any, cast

import pytest
from dbus_fast.errors import InvalidSignatureError

from machined.bus import images, logcontrol, machine1, machined1, manager1
from machined.bus.introspection import node
from machined.bus.vtable import (
    Access,
    Arg,
    Emits,
    Interface,
    Method,
    Property,
    Signal,
    method,
    parse_args,
    prop,
    signal,
)
from machined.model.core import Core


def core(version: int) -> Core:
    return cast(Core, SimpleNamespace(version=version))


def tables(version: int) -> list[Interface]:
    return [
        manager1.table(version),
        machine1.machine_table(core(version)),
        images.image_table(core(version)),
        machined1.MANAGER,
        machined1.machine_table(core(version)),
        machined1.JOB,
        logcontrol.TABLE,
    ]


def nothing(*_: Any) -> None:
    return None


class TestRows:
    def test_arguments(self) -> None:
        assert parse_args("s name, a(sv) properties,ay id") == (
            Arg("s", "name"),
            Arg("a(sv)", "properties"),
            Arg("ay", "id"),
        )
        assert parse_args("") == ()

    @pytest.mark.parametrize("text", ["s", "s name, u", "s "])
    def test_arguments_have_names(self, text: str) -> None:
        with pytest.raises(ValueError, match="has no name"):
            parse_args(text)

    @pytest.mark.parametrize("text", ["a name", "(s name", "? name"])
    def test_arguments_have_types(self, text: str) -> None:
        with pytest.raises(InvalidSignatureError):
            parse_args(text)

    def test_a_handler_takes_what_the_row_promises(self) -> None:
        with pytest.raises(TypeError, match="handler of Frob does not take 3 arguments"):
            method("Frob", "s name", "", lambda call, target: None)
        row = method("Frob", "s name, u n", "a{ss} fields, o path", lambda call, target, name, n: None)
        assert (row.in_signature, row.out_signature) == ("su", "a{ss}o")
        assert row.access is Access.OPEN

    def test_a_property_has_a_type(self) -> None:
        with pytest.raises(InvalidSignatureError):
            prop("X", "nope", nothing)


class TestInterface:
    table = Interface(
        "x.Y",
        (
            prop("A", "s", nothing),
            prop("B", "s", nothing, hidden=True),
            prop("C", "s", nothing, since=258),
            method("M", "", "", nothing),
            method("N", "", "", nothing, since=259),
            signal("S", "s text"),
            signal("T", "", since=262),
        ),
    )

    def test_for_version(self) -> None:
        assert [row.name for row in self.table.for_version(257).rows] == ["A", "B", "M", "S"]
        assert [row.name for row in self.table.for_version(259).rows] == ["A", "B", "C", "M", "N", "S"]
        assert self.table.for_version(9999) == self.table

    def test_looking_up(self) -> None:
        assert cast(Method, self.table.method("M")).name == "M"
        assert self.table.method("A") is None
        assert cast(Property, self.table.property("B")).hidden
        assert self.table.property("M") is None
        assert self.table.signal("S").signature == "s"
        assert [row.name for row in self.table.properties()] == ["A", "C"]


@pytest.mark.parametrize("version", [257, 258, 259, 262])
def test_members_have_one_row_each(version: int) -> None:
    for table in tables(version):
        names = [row.name for row in table.rows]
        assert len(names) == len(set(names)), table.name


@pytest.mark.parametrize("version", [257, 262])
def test_introspection_says_what_the_tables_say(version: int) -> None:
    for table in tables(version):
        root = ET.fromstring(node([table], []))
        described = root.findall("interface")[3]
        assert described.get("name") == table.name
        listed = [row for row in table.rows if not (isinstance(row, Property) and row.hidden)]
        kinds = {Method: "method", Property: "property", Signal: "signal"}
        assert [(e.tag, e.get("name")) for e in described] == [(kinds[type(r)], r.name) for r in listed]
        for element, row in zip(described, listed, strict=True):
            match row:
                case Method():
                    for direction, args in (("in", row.in_args), ("out", row.out_args)):
                        found = element.findall(f"arg[@direction='{direction}']")
                        assert [(a.get("type"), a.get("name")) for a in found] == [
                            (a.type, None if table.bare else a.name) for a in args
                        ]
                case Signal():
                    found = element.findall("arg")
                    assert [(a.get("type"), a.get("name")) for a in found] == [
                        (a.type, a.name) for a in row.args
                    ]
                case Property():
                    assert element.get("type") == row.type
                    assert element.get("access") == ("readwrite" if row.setter else "read")
                    said = [a.get("value") for a in element.findall("annotation")]
                    emits = [] if row.emits is Emits.TRUE else [row.emits.value]
                    assert said == emits + (["true"] if row.setter else [])


def test_introspection_of_nothing_but_children() -> None:
    root = ET.fromstring(node([], ["a", 'b"<']))
    assert [child.get("name") for child in root.findall("node")] == ["a", 'b"<']
    assert len(root.findall("interface")) == 3


@pytest.mark.parametrize("version", [257, 262])
def test_the_contract(version: int) -> None:
    """The rows of machine1, in wire order (contract of systemd-machined)."""
    manager = [row.name for row in manager1.table(version).rows]
    assert manager[:8] == [
        "PoolPath",
        "PoolUsage",
        "PoolLimit",
        "GetMachine",
        "GetImage",
        "GetMachineByPID",
        "ListMachines",
        "ListImages",
    ]
    ex = ["RegisterMachineEx", "CreateMachineEx"]
    assert all((name in manager) is (version >= 259) for name in ex)
    signatures = {
        row.name: (row.in_signature, row.out_signature)
        for row in manager1.table(262).rows
        if isinstance(row, Method)
    }
    assert signatures["CreateMachineWithNetwork"] == ("sayssusaia(sv)", "o")
    assert signatures["CreateMachineEx"] == ("sa(sv)a(sv)", "o")
    assert signatures["ListMachines"] == ("", "a(ssso)")
    assert signatures["ListImages"] == ("", "a(ssbttto)")
    assert signatures["GetMachineAddresses"] == ("s", "a(iay)")
    assert signatures["OpenMachineShell"] == ("sssasas", "hs")
    privileged = {
        row.name
        for row in manager1.table(version).rows
        if isinstance(row, Method) and row.access is Access.PRIVILEGED
    }
    expected = {
        "CreateMachine",
        "CreateMachineWithNetwork",
        "RegisterMachine",
        "RegisterMachineWithNetwork",
        "OpenMachinePTY",
    }
    assert privileged == (expected if version < 258 else set())
