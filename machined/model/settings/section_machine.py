# SPDX-License-Identifier: LGPL-2.1-or-later
"""Section [Machine]: what only a manager of machines can know."""

from __future__ import annotations

from typing import Final

from machined.model.settings import kinds
from machined.model.settings.setting import Form, Setting, Trust

ROWS: Final = (
    Setting(
        "Machine",
        "Profile",
        kinds.matching(
            r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}",
            "names of profiles (machinectl profiles)",
            shown="NAME",
            words=True,
        ),
        "",
        "Settings under a name, of which those said elsewhere count more.",
        Form.OWN,
        many=True,
        trust=Trust.NOTHING,
        nspawn_since=None,
    ),
)
