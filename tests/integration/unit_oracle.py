# SPDX-License-Identifier: LGPL-2.1-or-later
"""What PID 1 makes of lines in a unit file, and of properties that it is told on the bus."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from machined.model.ports import UnitProperty
from tests.host.boot import Host

_MANAGER: Final = (
    "org.freedesktop.systemd1",
    "/org/freedesktop/systemd1",
    "org.freedesktop.systemd1.Manager",
)
_HEAD: Final = ("[Service]", "Type=oneshot", "RemainAfterExit=yes", "ExecStart=/bin/true")
_UNITS: Final = "/run/systemd/system"


def _types(signature: str) -> list[str]:
    """The complete types of a signature."""
    found, depth, begin = [], 0, 0
    for end, char in enumerate(signature, 1):
        depth += (char in "({") - (char in ")}")
        if not depth and char != "a":
            found.append(signature[begin:end])
            begin = end
    return found


def words(signature: str, value: Any) -> list[str]:
    """A value as busctl(1) wants it."""
    if signature[0] == "a":
        return [str(len(value)), *(word for element in value for word in words(signature[1:], element))]
    if signature[0] == "(":
        pairs = zip(_types(signature[1:-1]), value, strict=True)
        return [word for part, element in pairs for word in words(part, element)]
    return [str(value).lower() if signature == "b" else str(value)]


def _rows(rows: Sequence[UnitProperty]) -> list[str]:
    return [
        str(len(rows)),
        *(word for row in rows for word in (row.name, row.type, *words(row.type, row.value))),
    ]


class Oracle:
    """Units of a host that are there to be looked at."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._units: list[str] = []

    def _call(self, *argv: str) -> None:
        self._host.run(["busctl", "--", "call", *_MANAGER, *argv])

    def from_file(self, unit: str, lines: Iterable[str]) -> None:
        """A unit that is a file with these lines in [Service]."""
        path = self._host.path(f"{_UNITS}/{unit}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join([*_HEAD, *lines, ""]), encoding="utf-8")
        self._units.append(unit)
        self._host.run(["systemctl", "daemon-reload"])
        self._host.run(["systemctl", "start", unit], check=False)

    def from_properties(self, unit: str, rows: Sequence[UnitProperty]) -> None:
        """A transient unit with these."""
        first = [
            UnitProperty("Type", "s", "oneshot"),
            UnitProperty("RemainAfterExit", "b", True),
            UnitProperty("ExecStart", "a(sasb)", [["/bin/true", ["/bin/true"], False]]),
        ]
        self._units.append(unit)
        self._call("StartTransientUnit", "ssa(sv)a(sa(sv))", unit, "fail", *_rows([*first, *rows]), "0")

    def change(self, unit: str, rows: Sequence[UnitProperty]) -> None:
        self._call("SetUnitProperties", "sba(sv)", unit, "true", *_rows(rows))

    def show(self, unit: str, names: Iterable[str]) -> dict[str, list[str]]:
        """Properties as systemctl shows them, those of several lines sorted."""
        done = self._host.run(["systemctl", "show", "--all", unit, f"--property={','.join(names)}"])
        found: dict[str, list[str]] = {}
        for line in done.stdout.splitlines():
            name, _, value = line.partition("=")
            found.setdefault(name, []).extend(sorted(value.split()) if "(" not in value else [value])
        return {name: sorted(values) for name, values in found.items()}

    def close(self) -> None:
        for unit in self._units:
            self._host.run(["systemctl", "stop", unit], check=False)
            self._host.run(["systemctl", "reset-failed", unit], check=False)
            self._host.path(f"{_UNITS}/{unit}").unlink(missing_ok=True)
        self._host.run(["systemctl", "daemon-reload"])


def differences(a: Mapping[str, list[str]], b: Mapping[str, list[str]]) -> dict[str, Any]:
    """What is not alike; amounts may differ by a page, as shares are rounded on the way."""
    return {
        name: (a.get(name), b.get(name))
        for name in a.keys() | b.keys()
        if a.get(name) != b.get(name) and not _is_near(a.get(name, []), b.get(name, []))
    }


def _is_near(a: list[str], b: list[str]) -> bool:
    both = [*a, *b]
    return len(both) == 2 and all(text.isdecimal() for text in both) and abs(int(a[0]) - int(b[0])) <= 4096
