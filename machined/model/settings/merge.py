# SPDX-License-Identifier: LGPL-2.1-or-later
"""One set of settings out of all that was said, each value with where it comes from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from machined.linux.inifile import Place
from machined.model.settings import table
from machined.model.settings.layers import Finding, Layer, Line, Severity, Source
from machined.model.settings.setting import Setting

# Where one of these is said there is a network without the default's virtual Ethernet link.
UPLINKS: Final = ("Interface", "MACVLAN", "IPVLAN", "NamespacePath")


@dataclass(frozen=True, slots=True)
class Value:
    """One effective value."""

    text: str
    source: Source
    place: Place | None
    line: int = 0
    """Those with the same number were said together."""

    @property
    def origin(self) -> str:
        return str(self.place) if self.place else self.source.value


@dataclass(slots=True)
class Effective:
    """What holds for a machine. Settings that nobody says and that have no default are not in it."""

    values: dict[Setting, tuple[Value, ...]] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def get(self, section: str, key: str) -> str:
        """The one value, or the last; "" when there is none."""
        values = self.all(section, key)
        return values[-1].text if values else ""

    def all(self, section: str, key: str) -> tuple[Value, ...]:
        setting = table.find(section, key)
        assert setting is not None
        return self.values.get(setting, ())

    def is_set(self, section: str, key: str) -> bool:
        """Whether anybody says it, other than the defaults."""
        return any(value.source is not Source.DEFAULT for value in self.all(section, key))

    def yes(self, section: str, key: str) -> bool:
        return self.get(section, key) == "yes"

    def errors(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.severity is Severity.ERROR]

    def rows(self) -> Iterator[tuple[Setting, Value]]:
        """All values in the order of the table."""
        for setting in table.SETTINGS:
            for value in self.values.get(setting, ()):
                yield setting, value


def merge(layers: Iterable[Layer]) -> Effective:
    """What holds where these are said, the later ones counting more."""
    result = Effective()
    numbers = 0
    for layer in layers:
        result.findings += layer.findings
        begun: set[Setting] = set()
        for line in map(_renamed, layer.lines):
            setting, numbers = line.setting, numbers + 1
            values = tuple(Value(text, line.source, line.place, numbers) for text in line.values)
            before = result.values.get(setting, ())
            if not setting.many or (setting.whole and setting not in begun):
                before = ()
            begun.add(setting)
            # An empty line is a value as well: it says that there is to be none, not even the default.
            result.values[setting] = (*before, *values) if values else ()
    _add_defaults(result)
    return result


def _renamed(line: Line) -> Line:
    """Old keys, as the new ones."""
    if line.setting.name != "Files.PrivateUsersChown":
        return line
    setting = table.find("Files", "PrivateUsersOwnership")
    assert setting is not None
    return Line(
        setting, tuple("chown" if v == "yes" else "off" for v in line.values), line.source, line.place
    )


def _add_defaults(result: Effective) -> None:
    for setting in table.SETTINGS:
        if setting.default and not result.values.get(setting):
            result.values[setting] = (Value(setting.default, Source.DEFAULT, None),)
    # Who says how the machine is to begin does not want the default beside it.
    command = result.yes("Exec", "ProcessTwo") or result.is_set("Image", "OCIBundle")
    if command and not result.is_set("Exec", "Boot"):
        _put(result, "Exec", "Boot", "no")
    _add_network(result)


def _add_network(result: Effective) -> None:
    """There is a virtual Ethernet link unless something else is said: no word of it is nothing else."""
    if not result.is_set("Network", "VirtualEthernet"):
        host = result.get("Network", "Private") == "no"
        other = host or any(result.all("Network", key) for key in UPLINKS)
        to_bridge = result.all("Network", "Bridge") or result.all("Network", "Zone")
        private_only = result.yes("Network", "Private") and not to_bridge
        _put(
            result,
            "Network",
            "VirtualEthernet",
            "no" if (other or private_only) and not to_bridge else "yes",
        )


def _put(result: Effective, section: str, key: str, text: str) -> None:
    setting = table.find(section, key)
    assert setting is not None
    result.values[setting] = (Value(text, Source.DEFAULT, None),)
