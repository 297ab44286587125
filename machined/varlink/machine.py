# SPDX-License-Identifier: LGPL-2.1-or-later
"""io.systemd.Machine: registration (how systemd-nspawn and vmspawn 258+ come), listing, and ways in."""

from __future__ import annotations

from typing import Final

from machined.model.core import Core
from machined.varlink import files
from machined.varlink.handlers import Authorize, Handlers
from machined.varlink.table import (
    BOOL,
    INT,
    STRING,
    Array,
    Enumeration,
    Error,
    Interface,
    Method,
    Structure,
    may,
    need,
)

NAME: Final = "io.systemd.Machine"

PROCESS: Final = Structure("ProcessId", (need("pid", INT), may("pidfdId", INT), may("bootId", STRING)))
TIMESTAMP: Final = Structure("Timestamp", (may("realtime", INT), may("monotonic", INT)))
ADDRESS: Final = Structure(
    "Address", (may("ifindex", INT), need("family", INT), need("address", Array(INT)))
)
METADATA: Final = Enumeration("AcquireMetadata", ("no", "yes", "graceful"))
OPEN_MODE: Final = Enumeration("MachineOpenMode", ("tty", "login", "shell"))


_INTERACTIVE: Final = may("allowInteractiveAuthentication", BOOL)
_LOOKUP: Final = (may("name", STRING), may("pid", PROCESS))


def table(core: Core, authorize: Authorize) -> Interface:
    """The interface as the host's systemd version has it."""
    handlers = Handlers(core, authorize)
    register = (
        need("name", STRING),
        may("id", STRING),
        may("service", STRING),
        need("class", STRING),
        may("leader", INT),
        may("leaderProcessId", PROCESS),
        may("supervisor", INT),
        may("supervisorProcessId", PROCESS),
        may("rootDirectory", STRING),
        may("ifIndices", Array(INT)),
        may("vSockCid", INT),
        may("sshAddress", STRING),
        may("sshPrivateKeyPath", STRING),
        may("controlAddress", STRING),
        may("allocateUnit", BOOL),
        _INTERACTIVE,
    )
    listed = (
        need("name", STRING),
        may("id", STRING),
        need("class", STRING),
        may("service", STRING),
        may("rootDirectory", STRING),
        may("unit", STRING),
        may("subgroup", STRING),
        may("leader", PROCESS),
        may("supervisor", PROCESS),
        may("timestamp", TIMESTAMP),
        may("vSockCid", INT),
        may("sshAddress", STRING),
        may("sshPrivateKeyPath", STRING),
        may("controlAddress", STRING),
        may("addresses", Array(ADDRESS)),
        may("OSRelease", Array(STRING)),
        may("UIDShift", INT),
        may("UID", INT),
    )
    opened = (
        *_LOOKUP,
        _INTERACTIVE,
        need("mode", OPEN_MODE),
        may("user", STRING),
        may("path", STRING),
        may("args", Array(STRING)),
        may("environment", Array(STRING)),
    )
    methods = (
        Method("Register", register, (), handlers.register),
        Method("Unregister", (*_LOOKUP, _INTERACTIVE), (), handlers.unregister),
        Method("Terminate", (*_LOOKUP, _INTERACTIVE), (), handlers.terminate),
        Method(
            "Kill", (*_LOOKUP, _INTERACTIVE, may("whom", STRING), need("signal", INT)), (), handlers.kill
        ),
        Method("List", (*_LOOKUP, _INTERACTIVE, may("acquireMetadata", METADATA)), listed, handlers.list),
        Method("Open", opened, (need("ptyFileDescriptor", INT), need("ptyPath", STRING)), handlers.open),
        *files.rows(core, authorize, (*_LOOKUP, _INTERACTIVE)),
    )
    errors = tuple(
        Error(name)
        for name in (
            "NoSuchMachine",
            "MachineExists",
            "NoPrivateNetworking",
            "NoOSReleaseInformation",
            "NoUIDShift",
            "NotAvailable",
            "NotSupported",
            "NoIPC",
        )
    )
    return Interface(NAME, (PROCESS, TIMESTAMP, ADDRESS, METADATA, OPEN_MODE), methods, errors).for_version(
        core.version
    )
