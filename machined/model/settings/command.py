# SPDX-License-Identifier: LGPL-2.1-or-later
"""Settings as what systemd-nspawn is told: its options, its environment, the payload's command line."""

from __future__ import annotations

from itertools import groupby

from machined.model.settings import table
from machined.model.settings.merge import Effective, Value
from machined.model.settings.setting import Form, Setting


def options(effective: Effective, version: int, *, without: frozenset[str] = frozenset()) -> list[str]:
    """Options of systemd-nspawn of this version, in the order of the table.

    Without those settings (as `Section.Key`), which the caller says in its own way.
    """
    words: list[str] = []
    for setting in table.SETTINGS:
        values = effective.values.get(setting, ())
        if values and setting.name not in without:
            words += _option(setting, values, setting.option_of(version))
    return words


def _option(setting: Setting, values: tuple[Value, ...], option: str) -> list[str]:
    texts = [value.text for value in values]
    match setting.form:
        case Form.FLAG:
            return [option] if texts[-1] == "yes" else []
        case Form.VALUE:
            return [f"{option}={texts[-1]}"]
        case Form.EACH:
            return [f"{option}={text}" for text in texts]
        case Form.JOINED:
            return [f"{option}={','.join(texts)}"]
        case Form.LINES:
            lines = groupby(values, key=lambda value: value.line)
            return [f"{option}={' '.join(value.text for value in line)}" for _, line in lines]
    return []


def environment(effective: Effective) -> list[str]:
    """Variables of systemd-nspawn itself, NAME=VALUE."""
    return [
        f"{setting.option}={values[-1].text}"
        for setting, values in effective.values.items()
        if values and setting.form is Form.VARIABLE
    ]


def parameters(effective: Effective) -> list[str]:
    """What comes after the options: the payload's command line."""
    return [value.text for value in effective.all("Exec", "Parameters")]
