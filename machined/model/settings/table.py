# SPDX-License-Identifier: LGPL-2.1-or-later
"""The table of all settings: every key of systemd.nspawn(5), every option of systemd-nspawn that has none.

Files are read by it, command lines made, and help, completion and the reference written. Defaults are those
of the template systemd-nspawn@.service.
"""

from __future__ import annotations

from typing import Final

from machined.model.settings import (
    section_exec,
    section_exec_more,
    section_files,
    section_image,
    section_machine,
    section_managed,
    section_network,
    section_service,
)
from machined.model.settings.setting import Setting

SETTINGS: Final[tuple[Setting, ...]] = (
    *section_exec.ROWS,
    *section_exec_more.ROWS,
    *section_files.ROWS,
    *section_network.ROWS,
    *section_image.ROWS,
    *section_machine.ROWS,
    *section_managed.ROWS,
    *section_service.ROWS,
)
SECTIONS: Final = tuple(dict.fromkeys(setting.section for setting in SETTINGS))
_BY_NAME: Final = {(setting.section, setting.key): setting for setting in SETTINGS}


def find(section: str, key: str) -> Setting | None:
    """The setting of this name."""
    return _BY_NAME.get((section, key))


def by_key(key: str) -> Setting | None:
    """The one setting with this key, in whatever section."""
    return next((setting for setting in SETTINGS if setting.key == key), None)
