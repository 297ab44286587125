# SPDX-License-Identifier: LGPL-2.1-or-later
"""Settings of [Service] as properties of a unit: for a new one, and for one that runs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from machined.model.ports import UnitProperty
from machined.model.settings.layers import Source
from machined.model.settings.limits import UnitKind
from machined.model.settings.merge import Effective
from machined.model.settings.section_service import ROWS
from machined.model.settings.setting import Setting

SHARE: Final = "Scale"
"""The end of the names of properties that are a share of what the host has."""


def unit_kind(setting: Setting) -> UnitKind:
    assert isinstance(setting.kind, UnitKind)
    return setting.kind


def of(setting: Setting, texts: Iterable[str]) -> UnitProperty:
    """A setting of [Service] as a property; without a value what holds where nobody says anything."""
    values = tuple(texts)
    if not values and setting.default:
        values = (setting.default,)
    return UnitProperty(*unit_kind(setting).convert(setting.option, values))


def properties(effective: Effective) -> list[UnitProperty]:
    """For a new unit, what somebody says; the defaults are those of every machine."""
    return [
        of(setting, (value.text for value in values))
        for setting in ROWS
        if (values := effective.values.get(setting)) and values[-1].source is not Source.DEFAULT
    ]


def changes(
    effective: Effective, settings: Iterable[Setting], base: dict[str, list[list[str]]]
) -> list[UnitProperty]:
    """For a unit that runs, these settings as they are now.

    PID 1 adds to lists: they begin anew, with what every machine has of them (`base`, by property).
    """
    rows = []
    for setting in settings:
        row = of(setting, (value.text for value in effective.values.get(setting, ())))
        if row.type.startswith("a") and row.type != "ay":
            rows.append(UnitProperty(row.name, row.type, []))
            row = UnitProperty(row.name, row.type, [*base.get(row.name, []), *row.value])
            if not row.value:
                continue
        elif row.type == "(bas)" and row.value[1]:
            rows.append(UnitProperty(row.name, row.type, [True, []]))
        rows.append(row)
    return rows
