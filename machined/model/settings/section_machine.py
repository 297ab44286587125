# SPDX-License-Identifier: LGPL-2.1-or-later
"""Section [Machine]: what only a manager of machines can know."""

from __future__ import annotations

from typing import Final

from machined.model.settings import devices, kinds, places
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
    Setting(
        "Machine",
        "Device",
        devices.DEVICE,
        "",
        "A device, or all in a directory, is there inside as the machine's own and may be opened; or what a "
        "CDI file describes ('nvidia.com/gpu=all').",
        Form.OWN,
        many=True,
        trust=Trust.NOTHING,
        nspawn_since=None,
    ),
    Setting(
        "Machine",
        "XAuthority",
        places.PATH,
        "",
        "A file of the host with cookies of an X server: they are good inside, whatever the machine's name.",
        Form.OWN,
        trust=Trust.NOTHING,
        nspawn_since=None,
    ),
)
