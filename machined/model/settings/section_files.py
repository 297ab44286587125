# SPDX-License-Identifier: LGPL-2.1-or-later
"""Section [Files]: what is mounted where, and whose it is (systemd.nspawn(5))."""

from __future__ import annotations

from typing import Final

from machined.model.settings import kinds, places
from machined.model.settings.kinds import BOOLEAN
from machined.model.settings.setting import Form, Setting, Trust

_SECTION: Final = "Files"
_UNTRUSTED: Final = Trust.NOTHING

ROWS: Final = (
    Setting(_SECTION, "ReadOnly", BOOLEAN, "--read-only", "Mount the tree read-only.", Form.FLAG),
    Setting(
        _SECTION,
        "Volatile",
        kinds.one_of("no", "yes", "state", "overlay", booleans={"no", "yes"}),
        "--volatile",
        "Forget what is written: to all but /usr ('yes'), to /var ('state'), to anything ('overlay').",
    ),
    Setting(
        _SECTION,
        "Bind",
        places.BIND,
        "--bind",
        "Show a file or directory of the host inside.",
        Form.EACH,
        many=True,
        trust=_UNTRUSTED,
    ),
    Setting(
        _SECTION,
        "BindReadOnly",
        places.BIND,
        "--bind-ro",
        "Likewise, read-only.",
        Form.EACH,
        many=True,
        trust=_UNTRUSTED,
    ),
    Setting(
        _SECTION,
        "BindUser",
        kinds.text("USER", words=True),
        "--bind-user",
        "A user of the host exists inside as well.",
        Form.EACH,
        many=True,
        trust=_UNTRUSTED,
    ),
    Setting(
        _SECTION,
        "BindUserShell",
        kinds.text("BOOLEAN|PATH"),
        "--bind-user-shell",
        "The shell of these users.",
        trust=_UNTRUSTED,
        since=258,
        nspawn_since=258,
    ),
    Setting(
        _SECTION,
        "BindUserGroup",
        kinds.text("GROUP", words=True),
        "--bind-user-group",
        "Groups of these users.",
        Form.EACH,
        many=True,
        trust=_UNTRUSTED,
        since=259,
        nspawn_since=None,
    ),
    Setting(
        _SECTION,
        "TemporaryFileSystem",
        places.TMPFS,
        "--tmpfs",
        "Mount an empty tmpfs.",
        Form.EACH,
        many=True,
        trust=_UNTRUSTED,
    ),
    Setting(
        _SECTION,
        "Inaccessible",
        places.INACCESSIBLE,
        "--inaccessible",
        "Nobody inside can open this.",
        Form.EACH,
        many=True,
        trust=_UNTRUSTED,
    ),
    Setting(
        _SECTION,
        "Overlay",
        places.OVERLAY,
        "--overlay",
        "Show directories of the host over each other.",
        Form.EACH,
        many=True,
        trust=_UNTRUSTED,
    ),
    Setting(
        _SECTION,
        "OverlayReadOnly",
        places.OVERLAY,
        "--overlay-ro",
        "Likewise, read-only.",
        Form.EACH,
        many=True,
        trust=_UNTRUSTED,
    ),
    Setting(
        _SECTION,
        "PrivateUsersOwnership",
        kinds.one_of("auto", "off", "chown", "map", "foreign", booleans={"off"}),
        "--private-users-ownership",
        "How the files of the tree come to belong to the users that PrivateUsers= says: mapped, or changed.",
        trust=_UNTRUSTED,
    ),
    Setting(
        _SECTION,
        "PrivateUsersChown",
        BOOLEAN,
        "",
        "The old way to say PrivateUsersOwnership=chown.",
        Form.OWN,
        trust=_UNTRUSTED,
    ),
)
