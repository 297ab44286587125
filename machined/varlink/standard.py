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

# The fields of System besides its number came with 258.
_SYSTEMD: Final = """interface io.systemd

error Disconnected()

error TimedOut()

error Protocol()

error System({fields}
)
"""


def descriptions(version: int) -> dict[str, str]:
    """The texts of the standard interfaces as the servers of this systemd have them."""
    modern = "\n\torigin: ?string,\n\terrnoName: ?string,\n\terrno: ?int"
    fields = modern if version >= 258 else "\n\terrno: int"
    return {SERVICE: _SERVICE, SYSTEMD: _SYSTEMD.format(fields=fields)}
