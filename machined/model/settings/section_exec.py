# SPDX-License-Identifier: LGPL-2.1-or-later
"""Section [Exec]: what runs, as whom, with which rights (systemd.nspawn(5))."""

from __future__ import annotations

from typing import Final

from machined.model.settings import kinds, links, places, system
from machined.model.settings.kinds import BOOLEAN
from machined.model.settings.setting import Form, Setting, Trust

_SECTION: Final = "Exec"
_UNTRUSTED: Final = Trust.NOTHING
_RESOLV: Final = (
    "auto", "off", "copy-host", "copy-static", "copy-uplink", "copy-stub", "replace-host", "replace-static",
    "replace-uplink", "replace-stub", "bind-host", "bind-static", "bind-uplink", "bind-stub", "delete",
)  # fmt: skip
_JOURNAL: Final = ("no", "auto", "guest", "host", "try-guest", "try-host")

ROWS: Final = (
    Setting(
        _SECTION,
        "Boot",
        BOOLEAN,
        "--boot",
        "Boot the system that is in the tree, by its init.",
        Form.FLAG,
        default="yes",
    ),
    Setting(
        _SECTION,
        "Ephemeral",
        BOOLEAN,
        "--ephemeral",
        "Forget at the end what was written.",
        Form.OWN,
        trust=_UNTRUSTED,
    ),
    Setting(
        _SECTION,
        "ProcessTwo",
        BOOLEAN,
        "--as-pid2",
        "Run the command as process 2, under a small init.",
        Form.FLAG,
    ),
    Setting(
        _SECTION,
        "Parameters",
        places.PARAMETERS,
        "",
        "The command, or with Boot= what init is told.",
        Form.OWN,
        many=True,
        whole=True,
    ),
    Setting(
        _SECTION,
        "Environment",
        places.VARIABLE,
        "--setenv",
        "Variables of the command, or of init.",
        Form.EACH,
        many=True,
    ),
    Setting(
        _SECTION,
        "User",
        system.USER,
        "--uid",
        "Run the command as this user of the tree.",
        option_before="--user",
    ),
    Setting(
        _SECTION,
        "WorkingDirectory",
        places.PATH,
        "--chdir",
        "Run the command in this directory of the tree.",
    ),
    Setting(_SECTION, "PivotRoot", places.PIVOT, "--pivot-root", "Make a directory of the tree the root."),
    Setting(
        _SECTION,
        "Capability",
        system.CAPABILITY,
        "--capability",
        "More capabilities than systemd-nspawn leaves by itself.",
        Form.JOINED,
        many=True,
        trust=_UNTRUSTED,
    ),
    Setting(
        _SECTION,
        "DropCapability",
        system.CAPABILITY,
        "--drop-capability",
        "Fewer capabilities.",
        Form.JOINED,
        many=True,
    ),
    Setting(
        _SECTION,
        "AmbientCapability",
        system.CAPABILITY,
        "--ambient-capability",
        "Capabilities that the command has as any user.",
        Form.JOINED,
        many=True,
        trust=_UNTRUSTED,
    ),
    Setting(
        _SECTION,
        "NoNewPrivileges",
        BOOLEAN,
        "--no-new-privileges",
        "Set-id programs and file capabilities give nothing.",
    ),
    Setting(_SECTION, "KillSignal", system.SIGNAL, "--kill-signal", "What tells process 1 to power off."),
    Setting(
        _SECTION, "Personality", system.PERSONALITY, "--personality", "The architecture that uname(2) tells."
    ),
    Setting(_SECTION, "MachineID", system.MACHINE_ID, "--uuid", "The machine's id.", trust=_UNTRUSTED),
    Setting(
        _SECTION,
        "PrivateUsers",
        system.USERS,
        "--private-users",
        "Which users of the host stand for those inside: a range "
        "that is picked, the host's own ('no', 'identity'), or one that begins with FIRST.",
        trust=_UNTRUSTED,
        default="pick",
    ),
    Setting(
        _SECTION,
        "PrivateUsersDelegate",
        kinds.number(0, 4096),
        "--private-users-delegate",
        "So many more ranges of 65536 users for containers inside.",
        trust=_UNTRUSTED,
        since=262,
        nspawn_since=262,
    ),
    Setting(
        _SECTION,
        "NotifyReady",
        BOOLEAN,
        "--notify-ready",
        "The machine is up when its init says so, not when it begins.",
    ),
    Setting(
        _SECTION,
        "SystemCallFilter",
        system.SYSTEM_CALLS,
        "--system-call-filter",
        "More system calls than the usual ones, or after ~ fewer.",
        Form.LINES,
        many=True,
        trust=Trust.PROHIBITING,
    ),
    Setting(
        _SECTION,
        "RestrictAddressFamilies",
        system.FAMILIES,
        "--restrict-address-families",
        "Sockets of these families only.",
        Form.LINES,
        many=True,
        since=262,
        nspawn_since=262,
    ),
    *(
        Setting(
            _SECTION,
            f"Limit{name}",
            system.rlimit(name),
            f"--rlimit={name}",
            f"RLIMIT_{name} of process 1, setrlimit(2).",
        )
        for name in system.RLIMITS
    ),
    Setting(
        _SECTION,
        "OOMScoreAdjust",
        kinds.number(-1000, 1000),
        "--oom-score-adjust",
        "How soon the kernel ends it where memory runs out.",
    ),
    Setting(
        _SECTION,
        "CPUAffinity",
        system.PROCESSORS,
        "--cpu-affinity",
        "Run on these processors.",
        Form.JOINED,
        many=True,
        whole=True,
    ),
    Setting(
        _SECTION,
        "Hostname",
        links.HOST_NAME,
        "--hostname",
        "The host name inside, where it is not the machine's.",
    ),
    Setting(
        _SECTION,
        "ResolvConf",
        kinds.one_of(*_RESOLV, booleans={"off", "auto"}, shown="MODE", yes="auto"),
        "--resolv-conf",
        "What becomes of the tree's /etc/resolv.conf.",
    ),
    Setting(
        _SECTION,
        "Timezone",
        kinds.one_of("auto", "off", "copy", "bind", "symlink", "delete", shown="MODE"),
        "--timezone",
        "What becomes of the tree's /etc/localtime.",
    ),
    Setting(
        _SECTION,
        "LinkJournal",
        kinds.one_of(*_JOURNAL, booleans={"no", "auto"}, shown="MODE", yes="auto"),
        "--link-journal",
        "Whether the host's journalctl finds the machine's journal.",
        default="try-guest",
    ),
    Setting(
        _SECTION,
        "SuppressSync",
        BOOLEAN,
        "--suppress-sync",
        "Nothing inside makes the kernel write to disk.",
    ),
)
