# SPDX-License-Identifier: LGPL-2.1-or-later
"""Section [Exec], what systemd.nspawn(5) has no key for: options and environment of systemd-nspawn."""

from __future__ import annotations

from typing import Final

from machined.model.settings import kinds, places
from machined.model.settings.kinds import BOOLEAN
from machined.model.settings.setting import Form, Setting, Trust

_SECTION: Final = "Exec"
_UNTRUSTED: Final = Trust.NOTHING

ROWS: Final = (
    Setting(
        _SECTION,
        "SELinuxContext",
        kinds.text("LABEL"),
        "--selinux-context",
        "The label of the processes.",
        trust=_UNTRUSTED,
        nspawn_since=None,
    ),
    Setting(
        _SECTION,
        "SELinuxAPIFSContext",
        kinds.text("LABEL"),
        "--selinux-apifs-context",
        "The label of the kernel's file systems.",
        trust=_UNTRUSTED,
        nspawn_since=None,
    ),
    Setting(
        _SECTION,
        "Console",
        kinds.one_of("read-only", "passive", "pipe", shown="MODE"),
        "--console",
        "What the machine's console "
        "is: of a machine that nobody sits at, something that is written to the journal.",
        nspawn_since=None,
    ),
    Setting(
        _SECTION,
        "Background",
        kinds.text("COLOR"),
        "--background",
        "The colour behind a terminal in it.",
        nspawn_since=None,
    ),
    Setting(
        _SECTION,
        "LoadCredential",
        places.CREDENTIAL_FILE,
        "--load-credential",
        "A credential that is read from a file of the host at the start.",
        Form.EACH,
        many=True,
        trust=_UNTRUSTED,
        nspawn_since=None,
    ),
    Setting(
        _SECTION,
        "SetCredential",
        places.CREDENTIAL,
        "--set-credential",
        "A credential with this value, which everybody can read in the list of processes: no secret.",
        Form.EACH,
        many=True,
        trust=_UNTRUSTED,
        nspawn_since=None,
    ),
    Setting(
        _SECTION,
        "APIFileSystemsWritable",
        kinds.one_of("no", "yes", "network", booleans={"no", "yes"}),
        "SYSTEMD_NSPAWN_API_VFS_WRITABLE",
        "Leave /sys and /proc/sys writable, or what of them is the network's.",
        Form.VARIABLE,
        trust=_UNTRUSTED,
        nspawn_since=None,
    ),
    Setting(
        _SECTION,
        "TemporaryFileSystemOnTmp",
        BOOLEAN,
        "SYSTEMD_NSPAWN_TMPFS_TMP",
        "Mount an empty /tmp.",
        Form.VARIABLE,
        nspawn_since=None,
    ),
    Setting(
        _SECTION,
        "CheckOSRelease",
        BOOLEAN,
        "SYSTEMD_NSPAWN_CHECK_OS_RELEASE",
        "Boot nothing that has no os-release.",
        Form.VARIABLE,
        trust=_UNTRUSTED,
        nspawn_since=None,
    ),
    Setting(
        _SECTION,
        "ControlGroupNamespace",
        BOOLEAN,
        "SYSTEMD_NSPAWN_USE_CGNS",
        "A control group namespace of its own.",
        Form.VARIABLE,
        trust=_UNTRUSTED,
        nspawn_since=None,
    ),
    *(
        Setting(
            _SECTION,
            f"ShareNamespace{name}",
            BOOLEAN,
            f"SYSTEMD_NSPAWN_SHARE_NS_{name}",
            f"Share the host's {what}.",
            Form.VARIABLE,
            trust=_UNTRUSTED,
            nspawn_since=None,
        )
        for name, what in (
            ("IPC", "System V objects and message queues"),
            ("PID", "processes"),
            ("UTS", "host name"),
        )
    ),
    Setting(
        _SECTION,
        "UnifiedHierarchy",
        BOOLEAN,
        "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY",
        "Show control groups of version 2 inside.",
        Form.VARIABLE,
        trust=_UNTRUSTED,
        until=258,
        nspawn_since=None,
    ),
    Setting(
        _SECTION,
        "Seccomp",
        BOOLEAN,
        "SYSTEMD_SECCOMP",
        "Whether system calls are filtered at all.",
        Form.VARIABLE,
        trust=_UNTRUSTED,
        nspawn_since=None,
    ),
    Setting(
        _SECTION,
        "ContainerService",
        kinds.text("NAME"),
        "SYSTEMD_NSPAWN_CONTAINER_SERVICE",
        "Which program to name as the manager of the machine.",
        Form.VARIABLE,
        trust=_UNTRUSTED,
        nspawn_since=None,
    ),
    Setting(
        _SECTION,
        "Slice",
        places.SLICE,
        "",
        "The slice of the machine's unit.",
        Form.OWN,
        trust=_UNTRUSTED,
        nspawn_since=None,
        default="machine.slice",
    ),
    Setting(
        _SECTION,
        "Lock",
        BOOLEAN,
        "SYSTEMD_NSPAWN_LOCK",
        "Whether the tree is locked against other machines that would run on it.",
        Form.VARIABLE,
        trust=_UNTRUSTED,
        nspawn_since=None,
    ),
)
