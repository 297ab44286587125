# SPDX-License-Identifier: LGPL-2.1-or-later
"""io.systemd.service: what `varlinkctl` can ask of and change in any service of systemd's kind (262)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final, Protocol

from machined.varlink.server import Call
from machined.varlink.table import (
    BOOL,
    INT,
    NUMBER,
    STRING,
    Array,
    Error,
    Interface,
    Method,
    VarlinkError,
    invalid_parameter,
    may,
    need,
)

NAME: Final = "io.systemd.service"
SINCE: Final = 262
# By their numbers, syslog(3).
LEVELS: Final = ("emerg", "alert", "crit", "err", "warning", "notice", "info", "debug")


class Logging(Protocol):
    """The daemon's logging; the level is one of LEVELS."""

    level: str

    def set_level(self, level: str) -> None: ...


class Handlers:
    """The methods, over the daemon's logging."""

    def __init__(self, logging: Logging) -> None:
        self._logging = logging

    def ping(self, call: Call, given: Mapping[str, Any]) -> None:
        """Nothing but an answer."""

    def set_level(self, call: Call, given: Mapping[str, Any]) -> None:
        if "level" not in given:
            raise invalid_parameter("level")
        if not 0 <= given["level"] < len(LEVELS):
            raise invalid_parameter("level")
        self._check(call, given)
        self._logging.set_level(LEVELS[given["level"]])

    def get_level(self, call: Call, given: Mapping[str, Any]) -> dict[str, Any]:
        return {"level": LEVELS.index(self._logging.level)}

    def environment(self, call: Call, given: Mapping[str, Any]) -> dict[str, Any]:
        self._check(call, given)
        words = [f"{key}={value}" for key, value in os.environ.items()]
        try:
            "".join(words).encode()
        except UnicodeEncodeError:
            raise VarlinkError(f"{NAME}.InconsistentEnvironment") from None
        return {"environment": words} if words else {}

    def _check(self, call: Call, given: Mapping[str, Any]) -> None:
        """Root and ourselves may; systemd's services tell others what they have asked for."""
        if call.peer.uid not in {0, os.geteuid()}:
            raise VarlinkError("org.varlink.service.PermissionDenied", **given)


def table(logging: Logging) -> Interface:
    """The interface of 262."""
    handlers = Handlers(logging)
    methods = (
        Method("Ping", (), (), handlers.ping),
        # There is nothing to read again: described by all services, not to be called here.
        Method("Reload", (may("allowInteractiveAuthentication", BOOL),), (), None),
        Method("SetLogLevel", (may("level", NUMBER),), (), handlers.set_level),
        Method("GetLogLevel", (), (need("level", INT),), handlers.get_level),
        Method("GetEnvironment", (), (may("environment", Array(STRING)),), handlers.environment),
    )
    return Interface(NAME, (), methods, (Error("InconsistentEnvironment"),))
