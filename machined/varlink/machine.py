# SPDX-License-Identifier: LGPL-2.1-or-later
"""io.systemd.Machine: registration (how systemd-nspawn and vmspawn 258+ come), listing, and ways in."""

from __future__ import annotations

from typing import Final

from machined.model.core import Core
from machined.varlink import files, maps
from machined.varlink.handlers import Authorize, Handlers
from machined.varlink.table import (
    BOOL,
    IGNORED_INT,
    INT,
    NUMBER,
    SIGNAL,
    STRING,
    Array,
    Enumeration,
    Error,
    Field,
    Interface,
    Method,
    Structure,
    may,
    need,
)

NAME: Final = "io.systemd.Machine"

CLASS: Final = Enumeration("MachineClass", ("container", "vm", "host"))
WHOM: Final = Enumeration("KillWhom", ("leader", "supervisor", "all"))
PROCESS: Final = Structure("ProcessId", (need("pid", NUMBER), may("pidfdId", INT), may("bootId", STRING)))
TIMESTAMP: Final = Structure("Timestamp", (may("realtime", INT), may("monotonic", INT)))
ADDRESS: Final = Structure(
    "Address", (may("ifindex", INT), need("family", INT), need("address", Array(INT)))
)
METADATA: Final = Enumeration("AcquireMetadata", ("no", "yes", "graceful"))
OPEN_MODE: Final = Enumeration("MachineOpenMode", ("tty", "login", "shell"))


_INTERACTIVE: Final = may("allowInteractiveAuthentication", BOOL)
_LOOKUP: Final = (may("name", STRING), may("pid", PROCESS, null=True))


def table(core: Core, authorize: Authorize) -> Interface:
    """The interface as the host's systemd version has it."""
    handlers = Handlers(core, authorize)
    modern = core.version >= 258

    def only(since: int, *fields: Field) -> tuple[Field, ...]:
        return fields if core.version >= since else ()

    class_ = CLASS if modern else STRING
    register = (
        need("name", STRING),
        may("id", STRING),
        may("service", STRING),
        need("class", class_),
        may("leader", NUMBER, null=True),
        may("leaderProcessId", PROCESS),
        # Clients may name it, the peer is it.
        *only(258, may("supervisor", IGNORED_INT, null=True)),
        *only(258, may("supervisorProcessId", PROCESS, null=True)),
        may("rootDirectory", STRING),
        may("ifIndices", Array(INT)),
        may("vSockCid", NUMBER),
        may("sshAddress", STRING),
        may("sshPrivateKeyPath", STRING),
        *only(261, may("controlAddress", STRING)),
        may("allocateUnit", BOOL),
        _INTERACTIVE,
    )
    listed = (
        need("name", STRING),
        may("id", STRING),
        may("service", STRING),
        need("class", class_),
        may("leader", PROCESS),
        *only(258, may("supervisor", PROCESS)),
        may("rootDirectory", STRING),
        may("unit", STRING),
        may("timestamp", TIMESTAMP),
        may("vSockCid", INT),
        may("sshAddress", STRING),
        may("sshPrivateKeyPath", STRING),
        *only(261, may("controlAddress", STRING)),
        may("addresses", Array(ADDRESS)),
        may("OSRelease", Array(STRING)),
        may("UIDShift", INT),
        *only(258, may("subgroup", STRING), may("UID", INT)),
    )
    kill = (may("whom", WHOM if modern else STRING), need("signal", SIGNAL))
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
        Method("Kill", (*_LOOKUP, _INTERACTIVE, *kill), (), handlers.kill),
        Method("List", (*_LOOKUP, _INTERACTIVE, may("acquireMetadata", METADATA)), listed, handlers.list),
        Method("Open", opened, (need("ptyFileDescriptor", INT), need("ptyPath", STRING)), handlers.open),
        *maps.rows(core, authorize, (*_LOOKUP, _INTERACTIVE)),
        *files.rows(core, authorize, (*_LOOKUP, _INTERACTIVE)),
    )
    names = (
        "NoSuchMachine",
        "MachineExists",
        "NoPrivateNetworking",
        "NoOSReleaseInformation",
        "NoUIDShift",
        "NotAvailable",
        "NotSupported",
        "NoIPC",
    )
    errors = (*(Error(name) for name in names), *maps.ERRORS)
    words = (CLASS, WHOM) if modern else ()
    types = (*words, METADATA, OPEN_MODE, PROCESS, TIMESTAMP, ADDRESS)
    return Interface(NAME, types, methods, errors).for_version(core.version)
