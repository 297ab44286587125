# SPDX-License-Identifier: LGPL-2.1-or-later
"""What every varlink service has (varlink.org, "Service Interface"), and systemd's common errors."""

from __future__ import annotations

from typing import Final

SERVICE: Final = "org.varlink.service"
SYSTEMD: Final = "io.systemd"

_SERVICE: Final = """interface org.varlink.service

method GetInfo() -> (
\tvendor: string,
\tproduct: string,
\tversion: string,
\turl: string,
\tinterfaces: []string
)

method GetInterfaceDescription(
\tinterface: string
) -> (
\tdescription: string
)

error InterfaceNotFound(
\tinterface: string
)

error MethodNotFound(
\tmethod: string
)

error MethodNotImplemented(
\tmethod: string
)

error InvalidParameter(
\tparameter: string
)

error PermissionDenied()

error ExpectedMore()
"""

_SYSTEMD: Final = """interface io.systemd

error Disconnected()

error TimedOut()

error Protocol()

error System(
\torigin: ?string,
\terrnoName: ?string,
\terrno: int
)

error InteractiveAuthenticationRequired()
"""

DESCRIPTIONS: Final = {SERVICE: _SERVICE, SYSTEMD: _SYSTEMD}
