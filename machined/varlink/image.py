# SPDX-License-Identifier: LGPL-2.1-or-later
"""io.systemd.MachineImage: images listed, cloned, changed, removed, and (262) the pool."""

from __future__ import annotations

from typing import Any, Final

from machined.model.core import Core
from machined.varlink.handlers import Authorize
from machined.varlink.image_handlers import NAME, Handlers
from machined.varlink.table import (
    BOOL,
    INT,
    NUMBER,
    STRING,
    Array,
    Enumeration,
    Error,
    Interface,
    Method,
    Scalar,
    may,
    need,
)

METADATA: Final = Enumeration("AcquireMetadata", ("no", "yes", "graceful"))
CLEAN_MODE: Final = Enumeration("CleanPoolMode", ("all", "hidden"))
# The first version with the methods about the pool.
_POOL_SINCE: Final = 258


def _size(value: Any) -> int:
    """An unsigned number of 64 bits; as text too, which JSON libraries need that count in floats."""
    number = int(NUMBER.convert(value))
    if number < 0:
        raise ValueError("no size is negative")
    return number


SIZE: Final = Scalar("int", _size)
_INTERACTIVE: Final = may("allowInteractiveAuthentication", BOOL)


def table(core: Core, authorize: Authorize) -> Interface:
    """The interface as the host's systemd version has it."""
    handlers = Handlers(core, authorize)
    listed = (
        need("name", STRING),
        may("path", STRING),
        need("type", STRING),
        need("class", STRING),
        need("readOnly", BOOL),
        may("creationTimestamp", INT),
        may("modificationTimestamp", INT),
        may("usage", INT),
        may("usageExclusive", INT),
        may("limit", INT),
        may("limitExclusive", INT),
        may("hostname", STRING),
        may("machineId", STRING),
        may("machineInfo", Array(STRING)),
        may("OSRelease", Array(STRING)),
    )
    named = (need("name", STRING), _INTERACTIVE)
    methods = (
        Method(
            "List",
            (may("name", STRING), may("acquireMetadata", METADATA), _INTERACTIVE),
            listed,
            handlers.list,
        ),
        Method(
            "Update",
            (*named, may("newName", STRING), may("readOnly", BOOL), may("limit", SIZE)),
            (),
            handlers.update,
        ),
        Method("Clone", (*named, need("newName", STRING), may("readOnly", BOOL)), (), handlers.clone),
        Method("Remove", named, (), handlers.remove),
        Method(
            "SetPoolLimit", (_INTERACTIVE, need("limit", SIZE)), (), handlers.set_pool_limit, _POOL_SINCE
        ),
        Method(
            "CleanPool",
            (_INTERACTIVE, need("mode", CLEAN_MODE)),
            (need("name", STRING), may("usageExclusive", INT)),
            handlers.clean_pool,
            _POOL_SINCE,
        ),
    )
    errors = (Error("NoSuchImage"), Error("TooManyOperations"), Error("NotSupported", since=_POOL_SINCE))
    types = (METADATA, CLEAN_MODE) if core.version >= _POOL_SINCE else (METADATA,)
    return Interface(NAME, types, methods, errors).for_version(core.version)
