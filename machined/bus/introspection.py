# SPDX-License-Identifier: LGPL-2.1-or-later
"""Introspection data from the tables, in the order and with the annotations of sd-bus."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from machined.bus.vtable import Access, Arg, Emits, Interface, Method, Property, Signal

HEADER: Final = (
    '<!DOCTYPE node PUBLIC "-//freedesktop//DTD D-BUS Object Introspection 1.0//EN"\n'
    '"https://www.freedesktop.org/standards/dbus/1.0/introspect.dtd">\n'
)

# What every object answers besides its own interfaces (D-Bus specification, "Standard Interfaces").
STANDARD: Final = """ <interface name="org.freedesktop.DBus.Peer">
  <method name="Ping"/>
  <method name="GetMachineId">
   <arg type="s" name="machine_uuid" direction="out"/>
  </method>
 </interface>
 <interface name="org.freedesktop.DBus.Introspectable">
  <method name="Introspect">
   <arg name="xml_data" type="s" direction="out"/>
  </method>
 </interface>
 <interface name="org.freedesktop.DBus.Properties">
  <method name="Get">
   <arg name="interface_name" direction="in" type="s"/>
   <arg name="property_name" direction="in" type="s"/>
   <arg name="value" direction="out" type="v"/>
  </method>
  <method name="GetAll">
   <arg name="interface_name" direction="in" type="s"/>
   <arg name="props" direction="out" type="a{sv}"/>
  </method>
  <method name="Set">
   <arg name="interface_name" direction="in" type="s"/>
   <arg name="property_name" direction="in" type="s"/>
   <arg name="value" direction="in" type="v"/>
  </method>
  <signal name="PropertiesChanged">
   <arg type="s" name="interface_name"/>
   <arg type="a{sv}" name="changed_properties"/>
   <arg type="as" name="invalidated_properties"/>
  </signal>
 </interface>
"""


def node(interfaces: Iterable[Interface], children: Iterable[str]) -> str:
    """The XML of one object: the standard interfaces, its own, and the names of its children."""
    lines = [HEADER, "<node>\n", STANDARD]
    for interface in interfaces:
        lines.append(f" <interface name={quoteattr(interface.name)}>\n")
        for row in interface.rows:
            match row:
                case Method():
                    lines += _method(row, named=not interface.bare)
                case Property(hidden=False):
                    lines += _property(row)
                case Signal():
                    lines += _element("signal", row.name, _args(row.args, ""))
        lines.append(" </interface>\n")
    lines += [f" <node name={quoteattr(child)}/>\n" for child in children]
    lines.append("</node>\n")
    return "".join(lines)


def _args(args: Iterable[Arg], direction: str, *, named: bool = True) -> list[str]:
    attribute = f' direction="{direction}"' if direction else ""
    return [
        f"   <arg type={quoteattr(arg.type)}{f' name={quoteattr(arg.name)}' if named else ''}{attribute}/>\n"
        for arg in args
    ]


def _annotation(name: str, value: str) -> str:
    return f'   <annotation name="{name}" value="{value}"/>\n'


def _element(kind: str, name: str, inner: list[str], attributes: str = "") -> list[str]:
    start = f"  <{kind} name={quoteattr(name)}{attributes}"
    return [start + "/>\n"] if not inner else [start + ">\n", *inner, f"  </{kind}>\n"]


def _method(row: Method, *, named: bool) -> list[str]:
    inner = _args(row.in_args, "in", named=named) + _args(row.out_args, "out", named=named)
    if row.access is Access.PRIVILEGED:
        inner.append(_annotation("org.freedesktop.systemd1.Privileged", "true"))
    return _element("method", row.name, inner)


def _property(row: Property) -> list[str]:
    inner = []
    if row.emits is not Emits.TRUE:
        inner.append(_annotation("org.freedesktop.DBus.Property.EmitsChangedSignal", row.emits.value))
    if row.setter:
        inner.append(_annotation("org.freedesktop.systemd1.Privileged", "true"))
    access = "readwrite" if row.setter else "read"
    return _element("property", row.name, inner, f' type={quoteattr(row.type)} access="{access}"')


def quoteattr(text: str) -> str:
    """An attribute's value. The library's function of this name brings an HTTP client into memory."""
    for sign, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&quot;")):
        text = text.replace(sign, entity)
    return f'"{text}"'
