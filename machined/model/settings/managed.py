# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the settings of a machine wish of the network that we manage, and what cannot be with it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from machined.model.settings import table
from machined.model.settings.layers import Source
from machined.model.settings.merge import Effective, Value
from machined.model.settings.section_managed import MANAGED

# What says that the link to the host is something else.
_OTHERS: Final = ("Bridge", "Zone", "NamespacePath")
_OWN: Final = ("Address", "Gateway", "DNS", "Link")


@dataclass(frozen=True, slots=True)
class Link:
    """One more interface: its name inside, a bridge of the host or "", a VLAN of it or 0."""

    name: str
    bridge: str = ""
    vlan: int = 0
    mac: str = ""
    addresses: tuple[str, ...] = ()


def is_managed(effective: Effective) -> bool:
    """Whether a machine has a managed network."""
    said = effective.get("Machine", "Network")
    return said == MANAGED if said else effective.yes("Network", "Managed")


def links(effective: Effective) -> list[Link]:
    """The further interfaces."""
    found = []
    for value in effective.all("Network", "Link"):
        name, _, rest = value.text.partition(":")
        words = [word.partition("=")[::2] for word in filter(None, rest.split(","))]
        said = dict(words)
        addresses = tuple(text for key, text in words if key == "address")
        found.append(
            Link(name, said.get("bridge", ""), int(said.get("vlan", 0)), said.get("mac", ""), addresses)
        )
    return found


def with_values(effective: Effective, changes: dict[tuple[str, str], list[str]]) -> Effective:
    """The same settings but for these, which nobody said."""
    values = dict(effective.values)
    for (section, key), texts in changes.items():
        setting = table.find(section, key)
        assert setting is not None
        values[setting] = tuple(Value(text, Source.DEFAULT, None) for text in texts)
    return Effective(values, effective.findings)


def contradictions(e: Effective) -> Iterator[tuple[Value | None, str]]:
    """What cannot hold together, as rules.py wants it."""
    if not is_managed(e):
        for key in _OWN:
            for value in e.all("Network", key):
                yield (
                    value,
                    f"[Network] {key}={value.text} is for managed networks: say Network=managed as well.",
                )
        return
    for key in _OTHERS:
        for value in e.all("Network", key):
            yield value, f"[Network] {key}={value.text}: the managed network has a bridge of its own."
    for key, word in (("Private", "no"), ("VirtualEthernet", "no")):
        for value in e.all("Network", key):
            if value.text == word and value.source is not Source.DEFAULT:
                yield value, f"[Network] {key}={word}: a managed network needs a link to the host."
    names: dict[str, Value] = {}
    for value in e.all("Network", "Link"):
        name = value.text.partition(":")[0]
        if name in names:
            yield value, f"[Network] Link={value.text}: there is a '{name}' already ({names[name].origin})."
        names[name] = value
